"""One frozen specification per system; the systems differ in nothing else.

The defaults are those of Stable Diffusion 1.5; a specification lists only what is different.
"""

from dataclasses import dataclass, field, replace

from sdlearn.clip import CLIPTextConfig
from sdlearn.schedule import (
    FinalSigma,
    NoiseSchedule,
    Predicts,
    Sigmas,
    Spacing,
    prediction_type,
)
from sdlearn.text import TextLayer
from sdlearn.unet import UNetConfig
from sdlearn.vae import VAEConfig


@dataclass(frozen=True)
class ModelSpec:
    """The specification of a text-to-image system.

    Attributes:
        name: Its name in SPECS and in model_index.json.
        unet, vae, text: The configurations of its networks; SDXL has two text encoders.
        text_layer: Layer whose hidden states condition the U-Net, see TextEncoder.
        zero_negative: Whether the unconditional embedding is zeros if there is no negative prompt,
            instead of the encoded empty prompt.
        schedule: The noise schedule of its training.
        predicts: What the U-Net predicts, "noise" or "velocity". The published names "epsilon" and
            "v_prediction" are converted to these.
        sampler, steps, guidance_scale: Defaults for sampling.
        resolution: Height and width of its images, in pixels.
        spacing, steps_offset, final_sigma, sigmas: The sampler's path, see NoiseSchedule.path.

    Raises:
        ValueError: For any other value of predicts.
    """

    name: str
    unet: UNetConfig = field(default_factory=UNetConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    text: tuple[CLIPTextConfig, ...] = (CLIPTextConfig(),)
    text_layer: TextLayer = "last"
    zero_negative: bool = False
    schedule: NoiseSchedule = field(default_factory=NoiseSchedule)
    predicts: Predicts = "noise"
    sampler: str = "plms"
    steps: int = 50
    guidance_scale: float = 7.5
    resolution: int = 512
    spacing: Spacing = "leading"
    steps_offset: int = 1
    final_sigma: FinalSigma = "min"
    sigmas: Sigmas = "table"

    def __post_init__(self) -> None:
        object.__setattr__(self, "predicts", prediction_type(self.predicts))


# Stable Diffusion 1 (2022). 1.5 is 1.4 trained for longer. The five extra channels of the
# inpainting model are the mask and the latent of the masked image.
SD1_4 = ModelSpec(name="sd1.4")
SD1_5 = ModelSpec(name="sd1.5")
SD1_5_INPAINT = ModelSpec(name="sd1.5-inpaint", unet=UNetConfig(in_channels=9), sampler="ddim")

# Stable Diffusion 2 (2022): attention heads of 64 channels, and OpenCLIP's ViT-H/14, whose last
# layer, the 24th, is not used and not in the published files. The 768-pixel versions predict
# velocity.
SD2_UNET = UNetConfig(
    num_heads=(5, 10, 20, 20), cross_attention_dim=1024, use_linear_projection=True
)
SD2_TEXT = CLIPTextConfig(
    hidden_size=1024, num_layers=23, num_heads=16, intermediate_size=4096, activation="gelu"
)
SD2_0_BASE = ModelSpec(name="sd2.0-base", unet=SD2_UNET, text=(SD2_TEXT,))
SD2_0 = replace(
    SD2_0_BASE,
    name="sd2.0",
    unet=replace(SD2_UNET, sample_size=96),
    predicts="velocity",
    sampler="ddim",
    resolution=768,
)
SD2_1_BASE = replace(SD2_0_BASE, name="sd2.1-base")
SD2_1 = replace(SD2_0, name="sd2.1", unet=replace(SD2_0.unet, upcast_attention=True))
SD2_INPAINT = replace(SD2_0_BASE, name="sd2-inpaint", unet=replace(SD2_UNET, in_channels=9))

# Stable Diffusion XL (2023): three levels, the first without attention and the others with deeper
# transformers, two text encoders, and a U-Net that is also conditioned on the pooled text and the
# image sizes.
SDXL = ModelSpec(
    name="sdxl",
    unet=UNetConfig(
        block_out_channels=(320, 640, 1280),
        cross_attention=(False, True, True),
        transformer_depth=(1, 2, 10),  # the file says 1 for the first, which has no attention
        num_heads=(5, 10, 20),
        cross_attention_dim=768 + 1280,
        use_linear_projection=True,
        added_dim=1280 + 6 * 256,
        added_time_dim=256,
        sample_size=128,
    ),
    vae=VAEConfig(scaling_factor=0.13025, force_upcast=True),
    text=(
        CLIPTextConfig(),
        CLIPTextConfig(
            hidden_size=1280,
            num_layers=32,
            num_heads=20,
            intermediate_size=5120,
            activation="gelu",
            projection_dim=1280,
        ),
    ),
    text_layer="penultimate",
    zero_negative=True,
    sampler="euler",
    guidance_scale=5.0,
    resolution=1024,
)

# The small model that this course trains. Its scaling factor is measured on the latents and its
# vocabulary on the captions, so a trained folder overrides both. Its guidance scale is low: at 3 it
# is right more often than at 5 (model card, "Guidance and steps").
STORYBOOK = ModelSpec(
    name="storybook",
    unet=UNetConfig(
        block_out_channels=(128, 192),
        layers_per_block=1,
        cross_attention=(True, True),
        transformer_depth=(1, 1),
        num_heads=(4, 6),
        cross_attention_dim=128,
        sample_size=8,
    ),
    vae=VAEConfig(
        block_out_channels=(16, 32, 64, 128),
        layers_per_block=1,
        norm_num_groups=8,
    ),
    text=(CLIPTextConfig(hidden_size=128, num_layers=4, num_heads=4, intermediate_size=512),),
    sampler="ddim",
    steps=30,
    guidance_scale=3.0,
    resolution=64,
    sigmas="uniform_lambda",
)

# Its guidance scale is lower still: the masked image already says much of what fills the hole, and
# stronger guidance takes it further from the truth (model card, "How well it fills a hole").
STORYBOOK_INPAINT = replace(
    STORYBOOK,
    name="storybook-inpaint",
    unet=replace(STORYBOOK.unet, in_channels=9),
    guidance_scale=1.5,
)

# A student of few-step distillation: guidance is part of what it learnt, and its windows are the
# steps of "trailing" spacing, from the noisiest timestep to a clean latent.
STORYBOOK_FEW_STEPS = replace(
    STORYBOOK,
    name="storybook-few-steps",
    sampler="ddim",
    steps=4,
    guidance_scale=1.0,
    spacing="trailing",
    final_sigma="zero",
)

SPECS = {
    spec.name: spec
    for spec in (
        SD1_4,
        SD1_5,
        SD1_5_INPAINT,
        SD2_0_BASE,
        SD2_0,
        SD2_1_BASE,
        SD2_1,
        SD2_INPAINT,
        SDXL,
        STORYBOOK,
        STORYBOOK_INPAINT,
        STORYBOOK_FEW_STEPS,
    )
}


def inpainting_spec(spec: ModelSpec, unet: UNetConfig) -> ModelSpec:
    """The specification of a system with its U-Net widened for inpainting.

    Args:
        spec: The system that the U-Net is made from.
        unet: The configuration of the widened U-Net.
    """
    name = f"{spec.name}-inpaint"
    return replace(spec, name=name, unet=unet, guidance_scale=SPECS.get(name, spec).guidance_scale)


def few_steps_spec(spec: ModelSpec) -> ModelSpec:
    """The specification of a system with a U-Net that was distilled to a few steps.

    Args:
        spec: The teacher's system.
    """
    few = STORYBOOK_FEW_STEPS
    return replace(
        spec,
        name=f"{spec.name}-few-steps",
        sampler=few.sampler,
        steps=few.steps,
        guidance_scale=few.guidance_scale,
        spacing=few.spacing,
        final_sigma=few.final_sigma,
    )
