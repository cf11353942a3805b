"""The systems, as values: one frozen specification each, and nothing else tells them apart.

Defaults are those of the published Stable Diffusion 1.5; a specification names the differences.
"""

from dataclasses import dataclass, field

from sdlearn.clip import CLIPTextConfig
from sdlearn.guidance import Predicts
from sdlearn.schedule import Final, NoiseSchedule, Spacing
from sdlearn.unet import UNetConfig
from sdlearn.vae import VAEConfig


@dataclass(frozen=True)
class ModelSpec:
    """Everything that makes one text-to-image system.

    predicts: what the U-Net's output means, "noise" or "velocity". sampler, steps, guidance: what
    a picture is made with unless the caller says otherwise. size: pixels, height and width.
    spacing, offset, final: the sampler's path, see NoiseSchedule.path.
    """

    name: str
    unet: UNetConfig = field(default_factory=UNetConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    text: tuple[CLIPTextConfig, ...] = (CLIPTextConfig(),)
    schedule: NoiseSchedule = field(default_factory=NoiseSchedule)
    predicts: Predicts = "noise"
    sampler: str = "ddim"
    steps: int = 50
    guidance: float = 7.5
    size: int = 512
    spacing: Spacing = "leading"
    offset: int = 1
    final: Final = "first"


SD1_5 = ModelSpec(name="sd1.5")

# The small model that this course trains. A trained folder has the last word on its scaling factor
# and its vocabulary: both are measured, one on the latents, one on the captions.
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
    steps=30,
    guidance=5.0,
    size=64,
)

SPECS = {spec.name: spec for spec in (SD1_5, STORYBOOK)}
