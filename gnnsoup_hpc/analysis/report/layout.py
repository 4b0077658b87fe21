"""Rows as lines of text."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def align_columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows as lines: the first column to the left, the others to the right."""
    first, *others = zip(*rows, strict=True)
    columns = [_padded(first, str.ljust), *(_padded(column, str.rjust) for column in others)]
    return ["  ".join(cells) for cells in zip(*columns, strict=True)]


def _padded(cells: Sequence[str], pad: Callable[[str, int], str]) -> list[str]:
    width = max(map(len, cells))
    return [pad(cell, width) for cell in cells]
