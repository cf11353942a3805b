"""Tables of results: HTML in a notebook, aligned text in a terminal."""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass

NUMBER = r"–|∞|(< )?[-+−]?[\d.,]+(e[-+]?\d+| × 10[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)?( ?(%|×|M|GB|MB|dB|s|ms))?"
# An output of the page is a table row itself, which would clip what is wider than a phone
SCROLL = "overflow: auto; max-width: calc(100vw - 48px)"


@dataclass(frozen=True)
class Table:
    """Rows of text below headings. A column of numbers is aligned to the right.

    Attributes:
        columns: The headings.
        rows: The cells, as many in each row as there are headings.
        fold: If not empty, the table is folded in a notebook, below this line.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    fold: str = ""

    @property
    def numeric(self) -> list[bool]:
        """Whether each column holds only numbers, gaps (–) and bounds (< 0.001)."""
        return [
            all(re.fullmatch(NUMBER, row[k].strip()) for row in self.rows if row[k])
            for k in range(len(self.columns))
        ]

    def __repr__(self) -> str:
        lines = [self.columns, *self.rows]
        widths = [max(len(line[k]) for line in lines) for k in range(len(self.columns))]
        return "\n".join(
            "  ".join(
                cell.rjust(width) if right else cell.ljust(width)
                for cell, width, right in zip(line, widths, self.numeric, strict=True)
            ).rstrip()
            for line in lines
        )

    def _repr_html_(self) -> str:
        head = self.row("th", self.columns)
        body = "\n".join(self.row("td", row) for row in self.rows)
        grid = f"<table>\n<thead>\n{head}\n</thead>\n<tbody>\n{body}\n</tbody>\n</table>"
        page = f'<div style="{SCROLL}">{grid}</div>'
        if not self.fold:
            return page
        return f"<details><summary>{html.escape(self.fold)}</summary>\n{page}\n</details>"

    def row(self, element: str, cells: Sequence[str]) -> str:
        """One row as HTML."""
        sides = ("right" if right else "left" for right in self.numeric)
        return "<tr>{}</tr>".format(
            "".join(
                f'<{element} style="text-align: {side}">{html.escape(cell)}</{element}>'
                for cell, side in zip(cells, sides, strict=True)
            )
        )


def scientific(value: float, digits: int = 2) -> str:
    """Write a number with some significant digits, a very small or large one as 2 × 10⁻⁷."""
    mantissa, _, exponent = f"{value:.{digits}g}".partition("e")
    raised = str(int(exponent or 0)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa} × 10{raised}" if exponent else mantissa


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], fold: str = "") -> Table:
    """Make a table of results.

    Args:
        columns: The headings.
        rows: The cells. Format numbers as they should be read, such as f"{x:.1%}"; the hyphen of
            a negative number becomes a minus sign.
        fold: If not empty, the table is folded in a notebook, below this line.

    Raises:
        ValueError: If a row has more or fewer cells than there are headings.
    """
    texts = tuple(tuple(re.sub(r"^-(?=[\d.])", "−", str(cell)) for cell in row) for row in rows)
    for row in texts:
        if len(row) != len(columns):
            raise ValueError(
                f"a row has {len(row)} cells, {row}; accepted: {len(columns)}, one for each "
                f"heading {tuple(columns)}"
            )
    return Table(tuple(columns), texts, fold)
