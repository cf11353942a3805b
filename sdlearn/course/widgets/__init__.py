"""The widgets of the notebooks: controls around the functions of `figures` and the package."""

from sdlearn.course.widgets.adapters import AdapterWidget
from sdlearn.course.widgets.attention import AttentionLens
from sdlearn.course.widgets.controlnet import ControlWidget
from sdlearn.course.widgets.evaluation import MetricsWidget
from sdlearn.course.widgets.flow import FlowWidget
from sdlearn.course.widgets.guidance import GuidanceWidget
from sdlearn.course.widgets.image_size import ImageSizeWidget
from sdlearn.course.widgets.inpainting import InpaintingWidget
from sdlearn.course.widgets.interpolation import InterpolationWidget
from sdlearn.course.widgets.latents import LatentBlendWidget
from sdlearn.course.widgets.noise_schedule import NoiseScheduleWidget
from sdlearn.course.widgets.playground import Playground
from sdlearn.course.widgets.samplers import SamplerWidget
from sdlearn.course.widgets.text_encoder import TextEncoderWidget
from sdlearn.course.widgets.text_to_image import TextToImageWidget
from sdlearn.course.widgets.timestep import TimestepWidget
from sdlearn.course.widgets.training import TrainingWidget
from sdlearn.course.widgets.training_memory import TrainingMemoryWidget
from sdlearn.course.widgets.unet import UNetTour
from sdlearn.course.widgets.vae import LatentPlaneWidget
from sdlearn.course.widgets.version_costs import VersionCostsWidget

__all__ = [
    "AdapterWidget",
    "AttentionLens",
    "ControlWidget",
    "FlowWidget",
    "GuidanceWidget",
    "ImageSizeWidget",
    "InpaintingWidget",
    "InterpolationWidget",
    "LatentBlendWidget",
    "LatentPlaneWidget",
    "MetricsWidget",
    "NoiseScheduleWidget",
    "Playground",
    "SamplerWidget",
    "TextEncoderWidget",
    "TextToImageWidget",
    "TimestepWidget",
    "TrainingMemoryWidget",
    "TrainingWidget",
    "UNetTour",
    "VersionCostsWidget",
]
