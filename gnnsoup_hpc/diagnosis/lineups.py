"""Ways to line ingredients up with one another before they are mixed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gnnsoup_hpc.alignment import aligned
from gnnsoup_hpc.models import Architecture
from gnnsoup_hpc.records import State


@dataclass(frozen=True)
class Lineup:
    """`line_up(architecture, states)` gives states that compute the same, lined up with the first; None: as they are.

    `setting` is the field of a job that lines up the shelf in this way; empty for none.
    """

    name: str
    setting: str
    line_up: Callable[[Architecture, Sequence[State]], Sequence[State]] | None


# The first is what the others are compared with; they are measured where it shows that something is wrong.
LINEUPS = (Lineup("as trained", "", None), Lineup("units matched by weights", 'soup.align = "weights"', aligned))


def lineup(name: str) -> Lineup:
    """The way of that name."""
    return next(way for way in LINEUPS if way.name == name)
