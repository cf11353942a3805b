"""The pipeline of Stable Diffusion as a diagram, with the notebook that builds each part."""

from matplotlib.patches import FancyBboxPatch
from PIL import Image
from torch import Tensor

from sdlearn.course.figures import diagrams
from sdlearn.course.figures.diagrams import (
    ATTENTION,
    CONV,
    LINEAR,
    MLP,
    NORM,
    TEXT,
    TIME,
    arrow,
    box,
    label,
)
from sdlearn.course.figures.style import GREY, INK, PALE, Described, in_style, tint

# Each box: its name, the notebooks that build it, its centre, its colour and its size.
BOXES = {
    "text encoder": ("05", 5.6, 13.1, tint(TEXT, 0.3), 2.8, 1.3),
    "U-Net": ("06 · attention 04", 4.0, 8.3, CONV, 5.2, 1.7),
    "guidance": ("10", 9.1, 8.3, ATTENTION, 2.3, 1.3),
    "sampler": ("09", 12.4, 8.3, MLP, 2.3, 1.3),
    "time embedding": ("03", 4.0, 5.7, NORM, 3.4, 1.2),
    "noise schedule": ("07", 12.2, 5.7, NORM, 2.7, 1.2),
    "decoder": ("01, 02", 12.2, 1.9, LINEAR, 2.3, 1.3),
}


@in_style
def pipeline_map(prompt: str, noise: Tensor, image: Image.Image) -> Described:
    """Draw how a prompt and noise become an image.

    Args:
        prompt: The prompt.
        noise: The initial latent, (1, c, h, w). Its first channel is drawn.
        image: The result.
    """
    figure, ax = diagrams.canvas(
        15.0, 14.8, "From a prompt and a seed to an image", inches=6.4, dpi=95
    )
    ax.add_patch(
        FancyBboxPatch((0.5, 4.1), 14.0, 6.3, "round,pad=0.1", facecolor=PALE, edgecolor=GREY)
    )
    label(ax, 14.4, 10.1, "the loop: once for each step", side="right")
    for name, (notebooks, x, y, colour, w, h) in BOXES.items():
        box(ax, x, y, f"{name}\n", colour, w, h)
        ax.text(x, y - 0.28, notebooks, ha="center", va="center", fontsize=8.5, zorder=5)
    words = prompt.split()
    lines = [" ".join(words[k : k + 4]) for k in range(0, len(words), 4)]
    label(ax, 10.9, 13.1, "\n".join(lines))
    ax.imshow(noise[0, 0].numpy(), cmap="cividis", vmin=-3, vmax=3, extent=(0.5, 2.7, 12, 14.2))
    label(ax, 0.5, 14.5, "initial noise $z$, from a seed (one of 4 channels)", side="left")
    ax.imshow(image, extent=(6.2, 9.6, 0.2, 3.6), zorder=3)
    label(ax, 5.9, 1.9, "image", side="right")
    ax.set(xlim=(0, 15.0), ylim=(0, 14.8))
    arrow(ax, [(9.5, 13.1), (7.05, 13.1)])
    arrow(ax, [(5.6, 12.4), (5.6, 9.2)], TEXT)
    label(
        ax, 5.9, 11.2, "text embeddings: of the prompt\nand of the empty prompt", TEXT, side="left"
    )
    arrow(ax, [(0.9, 11.9), (0.9, 8.3), (1.35, 8.3)])
    arrow(ax, [(0.9, 9.55), (12.4, 9.55), (12.4, 9.0)])
    label(ax, 9.0, 9.85, "z")
    arrow(ax, [(6.6, 8.3), (7.9, 8.3)])
    label(ax, 7.27, 8.85, "ε, twice")
    arrow(ax, [(10.25, 8.3), (11.2, 8.3)])
    label(ax, 10.72, 8.7, "ε")
    arrow(ax, [(10.8, 5.7), (5.75, 5.7)], TIME)
    label(ax, 8.3, 6.05, "time t", TIME)
    arrow(ax, [(4.0, 6.3), (4.0, 7.4)], TIME)
    arrow(ax, [(12.4, 6.3), (12.4, 7.6)], TIME)
    label(ax, 12.2, 6.95, "α, σ", TIME, side="right")
    arrow(ax, [(13.55, 8.3), (14.2, 8.3), (14.2, 4.6), (0.9, 4.6), (0.9, 8.2)], INK)
    label(ax, 8.3, 4.95, "z, a little less noisy")
    arrow(ax, [(14.2, 4.6), (14.2, 1.9), (13.4, 1.9)], INK)
    label(ax, 14.0, 3.2, "z, after the last step", side="right")
    arrow(ax, [(11.05, 1.9), (9.7, 1.9)])
    label(
        ax,
        0.5,
        2.0,
        "not shown:\n08 training the U-Net\n11 the whole pipeline\n12 editing, 13 inpainting\n"
        "14 ControlNet\n15 published systems\n16 evaluation\n17 many devices\n"
        "18 your own images\n19 what came after",
        side="left",
    )
    return Described(
        figure,
        "A diagram. A prompt goes through the text encoder (notebook 05), and its text embeddings, "
        "with those of the empty prompt, enter the U-Net (06, its attention 04). Initial noise z "
        "from a seed enters the U-Net and the sampler (09). The U-Net predicts the noise ε twice, "
        "guidance (10) combines the two predictions, and the sampler computes a slightly less "
        "noisy z, which goes back to both. The noise schedule (07) supplies α and σ to the "
        "sampler and the time t to the time embedding (03), which enters the U-Net. After the "
        "last step z leaves the loop, and the decoder (01, 02) turns it into an image. Not shown: "
        "training the U-Net (08), the pipeline, part by part (11), editing images (12), "
        "inpainting (13), ControlNet (14), the published systems (15), evaluation (16), "
        "training on many devices (17), your own images (18), and what came after (19).",
    )
