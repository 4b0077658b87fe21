"""Order of ingredients."""

from __future__ import annotations

from collections.abc import Sequence


def rank_by_accuracy(accuracies: Sequence[float], ids: Sequence[int]) -> list[int]:
    """Positions on the shelf, the most accurate first; equals by id, so that the shelf's order is no matter."""
    return sorted(range(len(ids)), key=lambda i: (-accuracies[i], ids[i]))
