"""Two models on the same captions and seeds, for `sdlearn evaluate --against`."""

from collections.abc import Mapping, Sequence

from sdlearn.evaluation.accuracy import FACTS, Outcome, outcome_clusters
from sdlearn.evaluation.resampling import Comparison, compare_paired
from sdlearn.evaluation.tables import Figures, percent


def compare_outcomes(first: Sequence[Outcome], second: Sequence[Outcome]) -> dict[str, Comparison]:
    """Compare two models fact by fact.

    Args:
        first: Outcomes of the first model.
        second: Outcomes of the second, for the same captions and seeds in the same order.

    Returns:
        By the keys of FACTS; facts that no caption mentions are left out.

    Raises:
        ValueError: If the captions or the seeds differ.
    """
    keys = [[(outcome.case.caption, outcome.seed) for outcome in row] for row in (first, second)]
    if keys[0] != keys[1]:
        raise ValueError(
            "the outcomes have different captions or seeds; accepted: the same, in the same order"
        )
    both = outcome_clusters(first), outcome_clusters(second)
    return {
        name: compare_paired(both[0][name], both[1][name]) for name in FACTS if any(both[0][name])
    }


def comparison_json(compared: Mapping[str, Comparison]) -> Figures:
    """Convert comparisons to JSON objects with four decimals, and p with two digits."""

    def rounded(values: Mapping[str, float]) -> Figures:
        return {name: round(value, 4) for name, value in values.items()}

    return {
        name: {
            "first": rounded(one.first._asdict()),
            "second": rounded(one.second._asdict()),
            "paired": rounded(one.paired._asdict()),
            "unpaired": rounded(one.unpaired._asdict()),
            "better": one.better,
            "worse": one.worse,
            "p": float(f"{one.p:.2g}"),
        }
        for name, one in compared.items()
    }


def comparison_table(split: str, figures: Figures) -> str:
    """Format the comparison of one split for a terminal."""
    facts, other = figures["splits"][split]["against"], figures["against"]
    lines = [
        "",
        f"{figures['model']} against {other['folder']} ({other['model']}, guidance "
        f"{other['guidance']:g}, {other['steps']} steps of {other['sampler']}), the same captions "
        "and seeds",
        "difference in points, with its 95 % interval over the same captions (paired) and as if "
        "each model had its own (unpaired)",
        f"{'':26}{'first':>24}{'second':>24}{'paired':>24}{'unpaired':>18}{'+/-':>9}{'p':>9}",
    ]
    for name, words in FACTS.items():
        if name in facts:
            one = facts[name]
            rates = "".join(f"{percent(one[k], True):>24}" for k in ("first", "second"))
            split_up = f"{one['better']}/{one['worse']}"
            lines.append(
                f"{words:26}{rates}{points(one['paired'], True):>24}"
                f"{points(one['unpaired']):>18}{split_up:>9}{one['p']:>9.2g}"
            )
    lines.append("+/-: captions on which the first gets more right, or less; p: McNemar's test")
    return "\n".join(lines)


def points(interval: Mapping[str, float], with_value: bool = False) -> str:
    """Return "(-1.0 to +4.2)" in percentage points, with the value in front if asked for."""
    ends = f"({100 * interval['low']:+.1f} to {100 * interval['high']:+.1f})"
    return f"{100 * interval['value']:+.1f} {ends}" if with_value else ends
