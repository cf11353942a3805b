"""Figures of the text encoder: tokens, changed embeddings, hard negatives."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from torch import Tensor

from sdlearn.course.figures.images import label_font, wrapped
from sdlearn.course.figures.plots import NARROW
from sdlearn.course.figures.style import (
    BLUE,
    GREY,
    INK,
    MUTED,
    ORANGE,
    PALE,
    VERMILION,
    Described,
    in_style,
    tint,
)

ROUNDING = 1e-4  # a relative change of an embedding below this is rounding error
BOX = 66, 44  # one token, in pixels


def display_token(token: str) -> str:
    """Return a readable token: "cat" for "cat</w>", "light-" for a piece that continues."""
    if token.startswith("<|"):
        return "(start)" if "start" in token else "(end)"
    return token.removesuffix("</w>") if token.endswith("</w>") else f"{token}-"


def token_grid(
    tokens: Sequence[str],
    ids: Sequence[int],
    moved: Tensor | None = None,
    changed: Collection[int] = (),
    title: str = "",
    across: int = 7,
) -> Image.Image:
    """Draw every token in a box with its id, row by row; 77 tokens fill 11 rows of 7.

    Args:
        tokens: The n tokens.
        ids: Their ids.
        moved: Relative change of each embedding, (n,). It is written into the box, and larger
            changes are darker. An unchanged embedding has a white box. Without it, the special
            tokens are orange and the padding is grey.
        changed: Positions drawn with a thick frame.
        title: Written above the boxes.
        across: Boxes in a row.
    """
    (w, h), gap, font, small = BOX, 6, label_font(13), label_font(11)
    bold = label_font(13, bold=True)
    wide = across * w + 2 * gap
    heading = wrapped(title, bold, wide - 2 * gap)
    top = gap + 20 * len(heading)
    page = Image.new("RGB", (wide, top + -(-len(tokens) // across) * h + gap), "white")
    pen = ImageDraw.Draw(page)
    for i, line in enumerate(heading):
        pen.text((gap, gap + 20 * i), line, INK, bold)
    values = None if moved is None else moved.detach().float().tolist()
    words = [display_token(token) for token in tokens]
    padding = words.index("(end)") + 1 if "(end)" in words else len(words)
    for k, (word, number) in enumerate(zip(words, ids, strict=True)):
        x, y = gap + k % across * w, top + k // across * h
        ink, fill, below = INK, "white", f"{number}"
        if values is not None:
            below += f"  {format_distance(values[k])}"
            if values[k] >= ROUNDING:
                fill = tint(BLUE, 0.06 + 0.36 * values[k] / max(values))
        elif k >= padding:
            ink, fill = MUTED, PALE
        elif word in ("(start)", "(end)"):
            fill = tint(ORANGE, 0.45)
        pen.rectangle((x, y, x + w, y + h), fill, GREY)
        while font.getlength(word) > w - 6 and len(word) > 2:
            word = word[:-2] + "…"
        pen.text((x + w / 2, y + 4), word, ink, font, anchor="ma")
        pen.text((x + w / 2, y + 25), below, ink, small, anchor="ma")
    for k in changed:
        x, y = gap + k % across * w, top + k // across * h
        pen.rectangle((x + 1, y + 1, x + w - 1, y + h - 1), None, VERMILION, width=3)
    return page


def format_distance(value: float) -> str:
    """Format a relative change with two digits; "0" only for an unchanged embedding."""
    return "0" if value < ROUNDING else "<0.01" if value < 0.005 else f"{value:.2f}"


@in_style
def caption_lengths(lengths: Mapping[int, float], words: float) -> Described:
    """Draw the mean length of a caption against the number of merges.

    Args:
        lengths: Mean number of tokens in a caption, by number of merges.
        words: Mean number of words in a caption.
    """
    figure = Figure(figsize=(NARROW, 3.0), dpi=100, layout="constrained")
    ax = figure.subplots()
    ax.set(title="Each merge shortens the captions", xlabel="merges", ylabel="tokens per caption")
    merges = [*lengths]
    ax.plot(merges, [*lengths.values()], color=BLUE, lw=2)
    ax.axhline(words, color=VERMILION, ls="--", lw=1.2)
    ax.text(merges[-1], words - 1, "words per caption", color=VERMILION, ha="right", va="top")
    ax.set_ylim(bottom=0)
    return Described(
        figure,
        f"The mean number of tokens in a caption against the number of merges. It falls from "
        f"{lengths[merges[0]]:.0f} without merges to {lengths[merges[-1]]:.1f} after {merges[-1]} "
        f"merges, steeply at first and then more and more slowly. A dashed line at {words:.1f} "
        "marks the number of words in a caption.",
    )


def positions(tokens: Sequence[str], ids: Sequence[int], title: str) -> Described:
    """Draw the tokens of a padded prompt, with their ids."""
    words = [display_token(token) for token in tokens]
    end = words.index("(end)")
    return Described(
        token_grid(tokens, ids, title=title),
        f"{len(tokens)} boxes in rows of seven, each with a token and its id. The first ones "
        f"are: {', '.join(words[: end + 1])}. All {len(tokens) - end - 1} boxes after these are "
        "grey: padding.",
    )


@in_style
def state_distances(
    moved: Tensor, tokens: Sequence[str], names: Sequence[str], title: str
) -> Described:
    """Draw how far embeddings changed, with a row for each layer and a column for each token.

    The values are written into squares, and larger values are darker, on one scale for all rows.
    An unchanged embedding is a white square with a 0.

    Args:
        moved: Relative changes, (rows, n), from 0 up.
        tokens: The n tokens.
        names: Labels of the rows.
        title: Of the figure.
    """
    height, width = moved.shape
    figure = Figure(figsize=(NARROW, 1.4 + 0.34 * height), dpi=100, layout="constrained")
    ax = figure.subplots()
    values = moved.detach().float().numpy()
    most = max(values.max(), ROUNDING)
    shades = np.where(values < ROUNDING, 0, 0.08 + 0.37 * values / most)
    colours = LinearSegmentedColormap.from_list("blue", ["white", BLUE])
    ax.imshow(shades, cmap=colours, vmin=0, vmax=1, aspect="auto")
    for i, j in np.ndindex(height, width):
        ax.text(j, i, format_distance(float(values[i, j])), ha="center", va="center", fontsize=9)
    ax.grid(visible=False)
    words = [display_token(token) for token in tokens]
    ax.set(title=title, yticks=range(height), yticklabels=names)
    ax.set_xticks(range(width), words, rotation=60, ha="right")
    said = []
    for name, row in zip(names, values, strict=True):
        changed = [word for word, value in zip(words, row, strict=True) if value >= ROUNDING]
        said.append(f"{name}: {', '.join(changed) or 'none'}")
    return Described(
        figure,
        f"A heat map with a column for each of the tokens {', '.join(words)} and a row for each "
        f"layer. The tokens that change: {'; '.join(said)}.",
    )


@in_style
def swap_changes(values: Mapping[str, float], title: str, ylabel: str) -> Described:
    """Draw a labelled bar for each encoder; the last, a trained one, has another colour.

    Args:
        values: Relative changes, by the encoder's name.
        title: Of the figure.
        ylabel: What the bars show.
    """
    figure = Figure(figsize=(NARROW, 3.0), dpi=100, layout="constrained")
    ax = figure.subplots()
    heights = [100 * value for value in values.values()]
    places = [*range(len(heights) - 1), len(heights) - 0.5]
    colours = [BLUE] * (len(heights) - 1) + [ORANGE]
    ax.bar(places, heights, color=colours, width=0.6)
    for place, height in zip(places, heights, strict=True):
        ax.text(place, height + 2, f"{height:.0f} %", ha="center", va="bottom")
    ax.set_xticks(places, [*values])
    ax.set(title=title, ylabel=ylabel, ylim=(0, 1.15 * max(heights)))
    ax.grid(visible=False, axis="x")
    said = "; ".join(f"{name}, {value:.0%}" for name, value in values.items())
    return Described(figure, f"A bar for each encoder: {said}.".replace("\n", " "))


@in_style
def own_and_negative(
    matrices: Mapping[str, Tensor], title: str, pairs: Sequence[str] = ()
) -> Described:
    """Draw how much more similar each caption is to its own image than to the hard negative.

    Items 2k and 2k + 1 are a hard-negative pair. A bar with a blue dot at its end is right, one
    with an orange cross wrong, so that the shortest bars show, too; a tie is a grey dot at 0. Each
    matrix of cosines, images in rows and captions in columns, is a panel, and all panels share one
    scale. The two bars of a pair stand side by side, with their name in `pairs` below them.
    """
    size = NARROW, 0.9 + 1.5 * len(matrices)
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    axes = figure.subplots(len(matrices), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    said = []
    for ax, (name, matrix) in zip(axes, matrices.items(), strict=True):
        captions = torch.arange(len(matrix))
        places = captions + 0.8 * (captions // 2)  # with a gap after each pair
        lead = matrix.detach().diagonal() - matrix.detach()[captions ^ 1, captions]
        tied = lead.abs() < 1e-6
        heights = torch.where(tied, 0, lead)
        colours = [BLUE if flag else VERMILION for flag in (lead > 0).tolist()]
        ax.bar(places.tolist(), heights.tolist(), color=colours, width=0.6)
        for chosen, colour, mark in (
            (~tied & (lead > 0), BLUE, "o"),
            (~tied & (lead < 0), VERMILION, "X"),
            (tied, MUTED, "o"),
        ):
            ends = places[chosen], heights[chosen]
            ax.plot(*ends, mark, color=colour, ms=7, mec="white", mew=0.5)
        ax.axhline(0, color=INK, lw=0.8, zorder=1)
        right = int((lead > 1e-6).sum())
        result = "all tied" if tied.all() else f"{right} of {len(lead)} right"
        once = len(matrix) > 2 and right * 2 == len(lead) and (lead[::2] * lead[1::2] < 0).all()
        note = ", one of each pair" if once else ""
        ax.set_title(f"{name}: {result}{note}", fontsize=10)
        middles = (places[::2] + places[1::2]) / 2
        ax.set_xticks(middles.tolist(), pairs or [f"{k}" for k in range(len(middles))], rotation=0)
        ax.grid(visible=False, axis="x")
        said.append(f"{name}, {result}{note}")
    axes[0].margins(y=0.12)
    axes[-1].set_xlabel("two captions of each pair (dot: right, cross: wrong)")
    figure.supylabel("cosine with own image – with hard negative", fontsize=10)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return Described(
        figure,
        f"{len(matrices)} panels with a bar for each test caption, in pairs: its cosine similarity "
        "with its own image minus that with the hard negative. Bars above 0 end in a blue dot and "
        f"are right, bars below 0 end in an orange cross and are wrong. {'; '.join(said)}.",
    )
