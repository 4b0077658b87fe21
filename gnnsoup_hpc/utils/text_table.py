"""Numbers and tables as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import isfinite


def align_columns(rows: Sequence[Sequence[str]], left: int | None = 1) -> list[str]:
    """Rows as lines: the first `left` columns to the left (None: all), the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    left = len(widths) if left is None else left
    return [
        "  ".join(
            cell.ljust(width) if number < left else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def pipe_columns(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table in Markdown: the first column to the left, the others to the right."""
    rule = ["---", *("---:" for _ in head[1:])]
    return [f"| {' | '.join(row)} |" for row in (head, rule, *rows)]


def show_number(value: float | None, form: str) -> str:
    """A number in a format; "-" where it is not known or not finite."""
    return "-" if value is None or not isfinite(value) else format(value, form)


def show_ratio(value: float, reference: float) -> str:
    """How many times the reference it is; "-" where one of them is not known, or the reference is not positive."""
    return show_number(value / reference if isfinite(reference) and reference > 0 else None, ".3f")


def show_points(share: float) -> str:
    """A difference of shares in points of a hundred."""
    return f"{100 * share:.2f} points"
