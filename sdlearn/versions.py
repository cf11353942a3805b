"""The systems, as values: one frozen specification each, and nothing else tells them apart.

Defaults are those of the published Stable Diffusion 1.5; a specification names the differences.
"""

from dataclasses import dataclass, field, replace

from sdlearn.clip import CLIPTextConfig
from sdlearn.schedule import Final, NoiseSchedule, Predicts, Spacing, prediction_type
from sdlearn.text import TextState
from sdlearn.unet import UNetConfig
from sdlearn.vae import VAEConfig


@dataclass(frozen=True)
class ModelSpec:
    """Everything that makes one text-to-image system.

    text: the encoders; text_state: which of their states the U-Net sees, see TextEncoder.
    zero_negative: without a negative prompt, guidance leads away from zeros, not from the empty
    text. predicts: what the U-Net's output means, "noise" or "velocity"; the published names,
    "epsilon" and "v_prediction", become these. sampler, steps, guidance: what a picture is made
    with unless the caller says otherwise. size: pixels, height and width. spacing, offset, final,
    karras, lu: the sampler's path, see NoiseSchedule.path.

    Raises:
        ValueError: for another value of predicts.
    """

    name: str
    unet: UNetConfig = field(default_factory=UNetConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    text: tuple[CLIPTextConfig, ...] = (CLIPTextConfig(),)
    text_state: TextState = "last"
    zero_negative: bool = False
    schedule: NoiseSchedule = field(default_factory=NoiseSchedule)
    predicts: Predicts = "noise"
    sampler: str = "plms"
    steps: int = 50
    guidance: float = 7.5
    size: int = 512
    spacing: Spacing = "leading"
    offset: int = 1
    final: Final = "first"
    karras: bool = False
    lu: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "predicts", prediction_type(self.predicts))


# Stable Diffusion 1 (2022). 1.5 is 1.4 trained for longer; the five further channels of the
# inpainting model are the mask and the latent of the masked picture.
SD1_4 = ModelSpec(name="sd1.4")
SD1_5 = ModelSpec(name="sd1.5")
SD1_5_INPAINT = ModelSpec(name="sd1.5-inpaint", unet=UNetConfig(in_channels=9), sampler="ddim")

# Stable Diffusion 2 (2022): heads 64 channels wide, and OpenCLIP's ViT-H/14, whose 24th and last
# layer was not used and is not in the published files. The versions at 768 pixels predict velocity.
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
    size=768,
)
SD2_1_BASE = replace(SD2_0_BASE, name="sd2.1-base")
SD2_1 = replace(SD2_0, name="sd2.1", unet=replace(SD2_0.unet, upcast_attention=True))
SD2_INPAINT = replace(SD2_0_BASE, name="sd2-inpaint", unet=replace(SD2_UNET, in_channels=9))

# Stable Diffusion XL (2023): three levels, the first without attention and the others with more of
# it, two text encoders, and a U-Net that is also told the pooled text and the picture's sizes.
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
    text_state="penultimate",
    zero_negative=True,
    sampler="euler",
    guidance=5.0,
    size=1024,
)

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
    sampler="ddim",
    steps=30,
    guidance=5.0,
    size=64,
    lu=True,
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
    )
}
