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
from sdlearn.course.figures.style import GREY, INK, MUTED, PALE, Described, in_style, tint

# Each box: its name, the notebooks that build it, its centre, its colour and its size.
BOXES = {
    "text encoder": ("05", 7.2, 8.3, tint(TEXT, 0.3), 3.4, 1.2),
    "U-Net": ("06 · attention 04", 7.2, 4.6, CONV, 3.4, 1.7),
    "guidance": ("10", 11.0, 4.6, ATTENTION, 2.1, 1.2),
    "sampler": ("09", 14.1, 4.6, MLP, 2.1, 1.2),
    "time embedding": ("03", 7.2, 2.35, NORM, 3.4, 1.1),
    "noise schedule": ("07", 14.0, 2.35, NORM, 2.6, 1.1),
    "decoder": ("01, 02", 18.0, 4.6, LINEAR, 2.1, 1.2),
}
AROUND = {"08": "training the U-Net", "11": "the pipeline, part by part"}


@in_style
def pipeline_map(prompt: str, noise: Tensor, image: Image.Image) -> Described:
    """Draw how a prompt and noise become an image.

    Args:
        prompt: The prompt.
        noise: The initial latent, (1, c, h, w). Its first channel is drawn.
        image: The result.
    """
    figure, ax = diagrams.canvas(23.6, 9.4, "From a prompt and a seed to an image")
    ax.add_patch(
        FancyBboxPatch((4.6, 0.75), 11.3, 5.7, "round,pad=0.1", facecolor=PALE, edgecolor=GREY)
    )
    label(ax, 15.7, 6.15, "the loop: once for each step", MUTED, side="right")
    for name, (notebooks, x, y, colour, w, h) in BOXES.items():
        box(ax, x, y, f"{name}\n", colour, w, h)
        ax.text(
            x, y - 0.2, notebooks, ha="center", va="center", fontsize=7.5, color=MUTED, zorder=5
        )
    words = prompt.split()
    lines = [" ".join(words[k : k + 4]) for k in range(0, len(words), 4)]
    label(ax, 2.2, 8.3, "\n".join(lines))
    extent = 0.7, 3.1, 3.4, 5.8
    ax.imshow(noise[0, 0].numpy(), cmap="cividis", vmin=-3, vmax=3, extent=extent, zorder=3)
    label(ax, 1.9, 3.05, "noise $z_T$ from a seed")
    ax.imshow(image, extent=(20.2, 23.2, 3.1, 6.1), zorder=3)
    label(ax, 21.7, 2.75, "image")
    ax.set(xlim=(0, 23.6), ylim=(0, 9.4))
    arrow(ax, [(4.2, 8.3), (5.5, 8.3)])
    arrow(ax, [(7.2, 7.7), (7.2, 5.45)], TEXT)
    label(ax, 7.4, 7.0, "text embeddings, of the prompt and of the empty prompt", TEXT, side="left")
    arrow(ax, [(3.1, 4.6), (5.5, 4.6)])
    arrow(ax, [(8.9, 4.6), (9.95, 4.6)])
    label(ax, 9.42, 5.0, "2 × ε")
    arrow(ax, [(12.05, 4.6), (13.05, 4.6)])
    label(ax, 12.55, 5.0, "ε")
    arrow(ax, [(15.15, 4.6), (16.95, 4.6)])
    label(ax, 16.4, 5.0, "$z_0$")
    arrow(ax, [(19.05, 4.6), (20.15, 4.6)])
    arrow(ax, [(12.7, 2.35), (8.9, 2.35)], TIME)
    label(ax, 10.8, 2.65, "time t", TIME)
    arrow(ax, [(7.2, 2.9), (7.2, 3.75)], TIME)
    arrow(ax, [(14.1, 2.9), (14.1, 4.0)], TIME)
    label(ax, 13.95, 3.45, "α, σ", TIME, side="right")
    arrow(ax, [(15.6, 4.6), (15.6, 1.2), (5.0, 1.2), (5.0, 4.6)], INK)
    label(ax, 10.3, 1.5, "z, a little less noisy")
    around = "     ".join(f"{number}  {name}" for number, name in AROUND.items())
    label(ax, 4.6, 0.3, f"around it:  {around}", MUTED, side="left")
    return Described(
        figure,
        "A diagram. A prompt goes through the text encoder (notebook 05), and its text embeddings, "
        "with those of the empty prompt, enter the U-Net (06, its attention 04). Noise z_T from a "
        "seed enters the U-Net from the left. The U-Net predicts the noise ε twice, guidance (10) "
        "combines the two predictions, and the sampler (09) computes a slightly less noisy z, "
        "which goes back to the U-Net. The noise schedule (07) supplies α and σ to the sampler "
        "and the time t to the time embedding (03), which enters the U-Net. After the last step "
        "z_0 leaves the loop, and the decoder (01, 02) turns it into an image. Around it: "
        "training the U-Net (08) and the pipeline, part by part (11).",
    )
