"""Ways to line ingredients up with one another before they are mixed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gnnsoup_hpc.alignment import align_states
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.types import State


@dataclass(frozen=True)
class AlignmentVariant:
    """`line_up(architecture, states)` gives states that compute the same, lined up with the first; None: as they are.

    `setting` is the field of a job that lines up the shelf in this way; empty for none.
    """

    name: str
    setting: str
    line_up: Callable[[Architecture, Sequence[State]], Sequence[State]] | None


# The first is what the others are compared with; they are measured where it shows that something is wrong.
VARIANTS = (
    AlignmentVariant("as trained", "", None),
    AlignmentVariant("units matched by weights", 'soup.align = "weights"', align_states),
)


def find_variant(name: str) -> AlignmentVariant:
    """The way of that name."""
    return next(way for way in VARIANTS if way.name == name)
