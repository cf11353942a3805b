"""Figures of the text encoder: tokens, changed embeddings, similarities, captioned images."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from torch import Tensor

from sdlearn.course.figures.images import grid, label_font, wrapped
from sdlearn.course.figures.plots import WIDE, axes_for
from sdlearn.course.figures.style import (
    BLUE,
    INK,
    MUTED,
    VERMILION,
    Described,
    in_style,
)

ROUNDING = 1e-4  # a relative change of an embedding below this is rounding error
BOX = 76, 46  # one token, in pixels


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
    across: int = 11,
) -> Image.Image:
    """Draw every token in a box with its id, row by row; 77 tokens fill 7 rows of 11.

    Args:
        tokens: The n tokens.
        ids: Their ids.
        moved: Relative change of each embedding, (n,). It is written into the box, and larger
            changes are darker. An unchanged embedding has a white box.
        changed: Positions drawn with a thick frame.
        title: Written above the boxes.
        across: Boxes in a row.
    """
    (w, h), gap, font, small = BOX, 6, label_font(12), label_font(10)
    wide = across * w + 2 * gap
    heading = wrapped(title, label_font(13), wide - 2 * gap)
    top = gap + 20 * len(heading)
    page = Image.new("RGB", (wide, top + -(-len(tokens) // across) * h + gap), "white")
    pen = ImageDraw.Draw(page)
    for i, line in enumerate(heading):
        pen.text((gap, gap + 20 * i), line, "black", label_font(13))
    values = None if moved is None else moved.detach().float().tolist()
    ends = (k for k, token in enumerate(tokens) if display_token(token) == "(end)")
    padding = next(ends, len(tokens)) + 1
    for k, (token, number) in enumerate(zip(tokens, ids, strict=True)):
        x, y = gap + k % across * w, top + k // across * h
        still = values is None or values[k] < ROUNDING
        shade = 255 if still or values is None else 240 - round(95 * values[k] / max(values))
        ink = "#767676" if values is None and k >= padding else "black"
        pen.rectangle((x, y, x + w, y + h), (shade,) * 3, "#999999")
        word = display_token(token)
        while font.getlength(word) > w - 6 and len(word) > 2:
            word = word[:-2] + "…"
        pen.text((x + w / 2, y + 4), word, ink, font, anchor="ma")
        below = f"{number}" if values is None else f"{number}   {format_distance(values[k])}"
        pen.text((x + w / 2, y + 26), below, ink, small, anchor="ma")
    for k in changed:
        x, y = gap + k % across * w, top + k // across * h
        pen.rectangle((x + 1, y + 1, x + w - 1, y + h - 1), None, "black", width=3)
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
    figure, ax = axes_for("Each merge shortens the captions", "merges", "tokens per caption")
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
        f"{len(tokens)} boxes in rows of eleven, each with a token and its id. The first ones "
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
    figure = Figure(figsize=(WIDE, 1.5 + 0.34 * height), dpi=100, layout="constrained")
    ax = figure.subplots()
    values = moved.detach().float().numpy()
    most = max(values.max(), ROUNDING)
    shades = np.where(values < ROUNDING, 0, 0.08 + 0.37 * values / most)
    colours = LinearSegmentedColormap.from_list("blue", ["white", BLUE])
    ax.imshow(shades, cmap=colours, vmin=0, vmax=1, aspect="auto")
    for i, j in np.ndindex(height, width):
        ax.text(j, i, format_distance(float(values[i, j])), ha="center", va="center", fontsize=8)
    ax.grid(visible=False)
    words = [display_token(token) for token in tokens]
    ax.set(title=title, yticks=range(height), yticklabels=names)
    ax.set_xticks(range(width), words, rotation=60, ha="right")
    ax.set_xlabel("token")
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
def own_and_negative(matrices: Mapping[str, Tensor], title: str) -> Described:
    """Draw how much more similar each caption is to its own image than to the hard negative.

    Items 2k and 2k + 1 are a hard-negative pair. A bar above 0 is right and blue, one below 0 wrong
    and orange; a tie is a grey dot at 0. Each matrix of cosines, images in rows and captions in
    columns, is a panel, and all panels share one scale.
    """
    figure = Figure(figsize=(WIDE, 3.4), dpi=100, layout="constrained")
    axes = figure.subplots(1, len(matrices), sharey=True, squeeze=False)[0]
    said = []
    for ax, (name, matrix) in zip(axes, matrices.items(), strict=True):
        captions = torch.arange(len(matrix))
        lead = matrix.detach().diagonal() - matrix.detach()[captions ^ 1, captions]
        tied = lead.abs() < 1e-6
        colours = [BLUE if flag else VERMILION for flag in (lead > 0).tolist()]
        heights = torch.where(tied, 0, lead).tolist()
        ax.bar(captions.tolist(), heights, color=colours, width=0.8)
        ax.axhline(0, color=INK, lw=0.8)
        ax.plot(captions[tied], 0 * lead[tied], "o", color=MUTED, ms=3)
        right = int((lead > 1e-6).sum())
        result = "all tied" if tied.all() else f"{right} of {len(lead)} right"
        ax.set_title(f"{name}:\n{result}", fontsize=9)
        ax.set(xlabel="test caption", xticks=range(0, len(matrix), 4))
        ax.grid(visible=False, axis="x")
        said.append(f"{name}, {result}")
    axes[0].set_ylabel("cosine with the own image\n– with the hard negative")
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return Described(
        figure,
        f"{len(matrices)} panels with a bar for each test caption: its cosine similarity with its "
        "own image minus that with the hard negative. Blue bars above 0 are right, orange bars "
        f"below 0 are wrong. {'; '.join(said)}.",
    )


def captioned(
    images: Sequence[Image.Image],
    captions: Sequence[str],
    title: str,
    words: str,
    wrong: Collection[int] = (),
    size: int = 160,
) -> Described:
    """Draw images in a row, each with its caption below.

    Args:
        images: The images, enlarged without smoothing.
        captions: One for each.
        title: Of the figure.
        words: What the figure shows; the captions are added.
        wrong: Indices of captions that are wrong, drawn with a cross.
        size: Side of an image, in pixels.
    """
    font, gap = label_font(13), 10
    lines = [wrapped(caption, font, size) for caption in captions]
    most = max(map(len, lines))
    page = Image.new("RGB", (gap + len(images) * (size + gap), 34 + size + 22 * most), "white")
    pen = ImageDraw.Draw(page)
    pen.text((gap, 6), title, INK, label_font(13, bold=True))
    for k, (picture, text) in enumerate(zip(images, lines, strict=True)):
        x = gap + k * (size + gap)
        large = picture.convert("RGB").resize((size, size), Image.Resampling.NEAREST)
        page.paste(large, (x, 30))
        ink = VERMILION if k in wrong else INK
        for i, line in enumerate(text):
            pen.text((x + size / 2, 34 + size + 19 * i), line, ink, font, anchor="ma")
        if k in wrong:
            pen.line((x, 30, x + 18, 48), VERMILION, 4)
            pen.line((x + 18, 30, x, 48), VERMILION, 4)
    marked = [f"{text} (wrong)" if k in wrong else text for k, text in enumerate(captions)]
    return Described(page, f"{words} The captions: {'; '.join(marked)}.")


def weighted(
    rows: Mapping[str, Sequence[Image.Image]], weights: Sequence[float], title: str, words: str
) -> Described:
    """Draw images for several prompt weights, with a row for each way of applying them."""
    columns = [f"weight {weight:g}" for weight in weights]
    figure = grid([*rows.values()], columns, [*rows], title, scale=2)
    return Described(figure, f"Rows: {'; '.join(rows)}. Columns: {'; '.join(columns)}. {words}")
