"""What it took to train published text-to-image models, with sources: numbers for a plot.

Each cost is the one that the source states. If it states only hours and a price, the cost is their
product. If it states neither a cost nor a price, the cost is None.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """The training of one model.

    Attributes:
        model: Its name.
        year: When it was published, with the month as a fraction.
        hours: GPU hours.
        gpu: The kind of GPU.
        cost: In US dollars, or None if the source names no cost and no price.
        price: Price of a GPU hour in US dollars, or None.
        what: What is special about it.
        source: Where the numbers are.
    """

    model: str
    year: float
    hours: float
    gpu: str
    cost: float | None
    price: float | None
    what: str
    source: str


@dataclass(frozen=True)
class Stage:
    """A stage of a training run.

    Attributes:
        model: The published model that it ends with.
        steps: Training steps.
        size: Side of the images in pixels.
        dropout: Fraction of captions that were empty.
    """

    model: str
    steps: int
    size: int
    dropout: float


# Batch 2048 throughout. Sources: the model cards of CompVis/stable-diffusion-v1-1 to v1-4 and of
# v1-5. Models 1.4 and 1.5 both continued from 1.2, so 1.5 took the stages of 1.1, 1.2 and its own.
SD1_BATCH = 2048
SD1_STAGES = (
    Stage("sd1.1", 237_000, 256, 0.0),
    Stage("sd1.1", 194_000, 512, 0.0),
    Stage("sd1.2", 515_000, 512, 0.0),
    Stage("sd1.5", 595_000, 512, 0.1),
)

BUDGETS = (
    Budget(
        "Stable Diffusion 1", 2022.6, 150_000, "A100", None, None,
        "256 GPUs, batch 2048; 11,250 kg of CO2",
        "model card of CompVis/stable-diffusion-v1-4",
    ),
    Budget(
        "Stable Diffusion 2", 2022.9, 200_000, "A100", None, None,
        "v-prediction and 768 pixels",
        "model card of stabilityai/stable-diffusion-2",
    ),
    Budget(
        "SD 2 by MosaicML, planned", 2023.1, 79_000, "A100", 160_000, 2.0,
        "256 GPUs for 13 days",
        "mosaicml.com/blog/training-stable-diffusion-from-scratch-costs-160k",
    ),
    Budget(
        "SD 2 by MosaicML", 2023.3, 128 * 5.51 * 24, "A100", 33_874, 2.0,
        "latents computed beforehand (3,784 more hours); U-Net only, 128 GPUs",
        "README of github.com/mosaicml/diffusion",
    ),
    Budget(
        "Würstchen", 2023.7, 24_602, "A100", None, None,
        "latents 42 times smaller in each direction",
        "arXiv:2306.00637",
    ),
    Budget(
        "PixArt-α", 2023.8, 675 * 24, "A100", 26_000, None,
        "a transformer, trained in three stages, on detailed captions; later versions of the "
        "paper say 753 days and $28,400",
        "arXiv:2310.00426",
    ),
    Budget(
        "MicroDiT", 2024.6, 2.6 * 24 * 8, "H100", 1_890, 3.75,
        "75 % of the patches masked, after a patch mixer; 37 million images",
        "arXiv:2407.15811",
    ),
    Budget(
        "PRX speed-run", 2026.2, 24 * 32, "H200", 1_500, None,
        "pixels instead of latents, token routing, Muon; 8.7 million images",
        "Photoroom, March 2026",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Throughput:
    """A row of MosaicML's benchmark of the U-Net of Stable Diffusion 2.

    Attributes:
        devices: A100 GPUs.
        at_256: Images a second of all devices together, at 256 pixels.
        at_512: The same at 512 pixels.
        days: How long training takes.
        cost: In US dollars, at 2 for a GPU hour.
    """

    devices: int
    at_256: float
    at_512: float
    days: float
    cost: float


# README of github.com/mosaicml/diffusion: its latents and embeddings were computed beforehand.
MOSAIC_IMAGES = {256: 1_126_400_000, 512: 1_740_800_000}
MOSAIC = (
    Throughput(8, 1100, 290, 81.33, 31_230),
    Throughput(16, 2180, 585, 40.42, 31_043),
    Throughput(32, 4080, 1195, 20.06, 30_805),
    Throughput(64, 8530, 2340, 10.14, 31_146),
    Throughput(128, 11600, 4590, 5.51, 33_874),
)
