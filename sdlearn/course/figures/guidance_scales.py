"""Charts of notebook 10: accuracy over the guidance scale, and what a scale does to estimates."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure
from torch import Tensor

from sdlearn.course.figures.plots import WIDE
from sdlearn.course.figures.style import (
    BLUE,
    GREY,
    INK,
    VERMILION,
    Described,
    in_style,
    tint,
)


@in_style
def accuracy(models: Mapping[str, Mapping[float, tuple[float, float, float]]]) -> Described:
    """Draw the share of objects that are right against the guidance scale, with 95 % intervals.

    The axis of the scales is logarithmic; from 0 to 1 it is linear.

    Args:
        models: For each of two models, by name and guidance scale, the rate and the lower and upper
            end of its interval, 0 … 1.

    Raises:
        ValueError: If there aren't two models.
    """
    figure = Figure(figsize=(WIDE, 3.5), dpi=100, layout="constrained")
    ax = figure.subplots()
    scales, said = sorted({s for rows in models.values() for s in rows}), []
    for (name, rows), (colour, style) in zip(
        models.items(), ((VERMILION, "o-"), (BLUE, "s--")), strict=True
    ):
        at = [*rows]
        rates, lows, highs = (
            [100 * x for x in column] for column in zip(*rows.values(), strict=True)
        )
        ax.plot(at, rates, style, color=colour)
        ax.vlines(at, lows, highs, color=colour, lw=1.0, alpha=0.7)
        ax.annotate(
            name, (at[-1], rates[-1]), (9, 0), textcoords="offset points", va="center",
            color=colour, fontweight="bold",
        )  # fmt: skip
        values = ", ".join(f"{r:.0f} % at {s:g}" for s, r in zip(rows, rates, strict=True))
        said.append(f"{name}: {values}.")
    ax.set_xscale("symlog", linthresh=1, linscale=0.4)
    ax.set_xticks(scales, [f"{s:g}" for s in scales])
    ax.set_xticks([], minor=True)
    ax.set(
        title="Objects with the right kind, colour and side (bars: 95 % intervals)",
        xlabel="guidance scale s (logarithmic axis)", ylabel="right, %", ylim=(0, 104),
        xlim=(scales[0] - 0.08, 1.55 * scales[-1]),
    )  # fmt: skip
    return Described(figure, f"Accuracy against the guidance scale. {' '.join(said)}")


class PushPanel(NamedTuple):
    """One noise level of the toy dataset.

    Attributes:
        title: Of the panel.
        moves: By guidance scale, the change of the estimate of z_0 over zs.
        kinds: For each kind of animal, mean and standard deviation at this noise level.
    """

    title: str
    moves: Mapping[str, Tensor]
    kinds: Mapping[str, tuple[float, float]]


@in_style
def pushes(zs: Tensor, panels: Sequence[PushPanel]) -> Described:
    """Draw how guidance moves the estimate of z_0, and below it where the animals of a kind are.

    Args:
        zs: Sizes with noise, (n,).
        panels: One for each noise level, with one scale for all.
    """
    figure = Figure(figsize=(WIDE, 3.7), dpi=100, layout="constrained")
    axes = figure.subplots(
        2, len(panels), sharex=True, sharey="row", squeeze=False, height_ratios=(2.7, 1)
    )
    said = []
    for (top, bottom), panel in zip(axes.T, panels, strict=True):
        top.axhline(0, color=INK, lw=1)
        for (name, move), colour, dashes in zip(
            panel.moves.items(), (BLUE, VERMILION), ("--", "-"), strict=True
        ):
            top.plot(zs.tolist(), move.tolist(), dashes, color=colour, lw=2)
            top.annotate(
                name, (float(zs[-1]), float(move[-1])), (5, 0), textcoords="offset points",
                va="center", color=colour, fontweight="bold", annotation_clip=False,
            )  # fmt: skip
        top.set_title(panel.title, fontsize=10, weight="normal")
        top.set_xlim(float(zs[0]), float(zs[-1]))
        for y, (kind, (mean, std)) in enumerate(panel.kinds.items()):
            bottom.barh(-y, 2 * std, left=mean - std, height=0.62, color=tint(GREY, 0.6))
            bottom.text(mean + std + 0.12, -y, kind, va="center", fontsize=9)
        bottom.set(xlabel="$z_t$", yticks=[])
        bottom.grid(visible=False, axis="y")
        *_, (name, move) = panel.moves.items()
        values = ", ".join(
            f"{float(move[(zs - mean).abs().argmin()]):+.2f} over the {kind}"
            for kind, (mean, _) in panel.kinds.items()
        )
        said.append(f"{panel.title}, {name}: {values}.")
    axes[0, 0].set_ylabel("change of the estimate")
    title = "How guidance moves the estimate of $z_0$, compared with s = 1"
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=12)
    return Described(figure, f"{title.replace('$', '')}. {' '.join(said)}")
