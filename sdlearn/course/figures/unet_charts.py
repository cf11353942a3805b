"""Charts and images for notebook 06: the cost of each block, and what is in its feature maps."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from sdlearn.course.figures.style import (
    BLUE,
    ORANGE,
    VERMILION,
    Described,
    in_style,
)
from sdlearn.course.figures.unet import BlockTrace, by_resolution


@in_style
def cost_bars(stops: Sequence[BlockTrace], title: str) -> Described:
    """Draw the share of parameters and of MACs at each resolution, as bars.

    Args:
        stops: The blocks, from `trace`.
        title: Of the figure.
    """
    sums = by_resolution(stops)
    totals = [sum(column) for column in zip(*sums.values(), strict=True)]
    figure = Figure(figsize=(5.6, 1.2 + 0.6 * len(sums)), dpi=96, layout="constrained")
    ax = figure.subplots()
    told = []
    for j, (name, colour) in enumerate(zip(("parameters", "MACs"), (BLUE, ORANGE), strict=True)):
        parts = [100 * both[j] / totals[j] for both in sums.values()]
        places = [i + 0.38 * (j - 0.5) for i in range(len(sums))]
        bars = ax.barh(places, parts, height=0.36, color=colour)
        ax.bar_label(bars, [f"{name} {part:.1f} %" for part in parts], padding=3, fontsize=9.5)
        shares = zip(sums, parts, strict=True)
        told.append(f"{name}: " + ", ".join(f"{part:.1f} % at {size}" for size, part in shares))
    ax.set(yticks=range(len(sums)), yticklabels=list(sums), ylabel="size of the map")
    ax.set(title=title, xlabel="share of the total (%)", xlim=(0, 78))
    ax.invert_yaxis()
    ax.grid(False, axis="y")
    return Described(figure, f"A bar chart with two bars for each size of map. {'. '.join(told)}.")


@in_style
def probe_lines(scores: Mapping[str, Mapping[str, float]], title: str) -> Described:
    """Draw the correlation that a probe reaches in each block, one line for each setting.

    The name of a line is written at its end. Lines without a caption are dashed. Those of one
    timestep share a colour.

    Args:
        scores: The correlations by block, for each setting, "t = 800" or "t = 800, no caption".
        title: Of the figure.
    """
    blocks = list(next(iter(scores.values())))
    times = list(dict.fromkeys(name.partition(",")[0] for name in scores))
    figure = Figure(figsize=(6.4, 3.6), dpi=100, layout="constrained")
    ax = figure.subplots()
    ends: list[float] = []
    for name, score in sorted(scores.items(), key=lambda item: -item[1][blocks[-1]]):
        time, _, lacks = name.partition(", ")
        colour, values = (BLUE, VERMILION)[times.index(time)], list(score.values())
        line = "s--" if lacks else "o-"
        ax.plot(values, line, color=colour, ms=4.5, mfc="white" if lacks else colour)
        ends.append(min(values[-1] + 0.02 * (not ends), *(y - 0.075 for y in ends[-1:]), 2.0))
        ax.text(len(blocks) - 0.85, ends[-1], name, color=colour, va="center", fontsize=9)
    ax.set(title=title, ylabel="correlation with the true coverage", ylim=(-0.06, 1.04))
    ax.set(xlabel="block, in the order of a forward pass", xlim=(-0.2, len(blocks) + 0.75))
    ax.set_xticks(range(len(blocks)), [block.replace(", ", "\n") for block in blocks])
    told = (f"{n}: {', '.join(f'{x:.2f}' for x in s.values())}" for n, s in scores.items())
    order = "; ".join(block.replace(",", "") for block in blocks)
    words = (
        f"A chart of correlations with one line for each of {len(scores)} settings, over the "
        f"blocks {order}. The values, in this order: {'; '.join(told)}."
    )
    return Described(figure, words)


def channel_image(feature_map: Tensor, size: int = 64) -> Image.Image:
    """Draw one channel (h, w) in 16 shades, from its smallest value (black) to its largest (white).

    Args:
        feature_map: (h, w).
        size: Side of the image in pixels.
    """
    values = feature_map.detach().float().cpu().numpy()
    low, high = float(values.min()), float(values.max())
    shades = ((values - low) / ((high - low) or 1.0) * 15).round() * 17
    return Image.fromarray(shades.astype(np.uint8)).resize((size, size), Image.Resampling.NEAREST)


def most_varying_channels(feature_maps: Tensor, count: int = 4) -> list[int]:
    """Return the `count` channels of (c, h, w) with the largest standard deviation, in order."""
    stds = feature_maps.float().flatten(1).std(dim=1)
    return stds.topk(min(count, len(stds))).indices.tolist()
