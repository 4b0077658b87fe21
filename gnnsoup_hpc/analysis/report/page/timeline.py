"""A run's work on one axis of time, in which nobody waits: idle time between commands is left out, and marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gnnsoup_hpc.io.work import ALL_RANKS, WorkRecord

IDLE = 0.02  # of the time worked: a longer gap in which no work is done is left out
LEAST_IDLE = 2.0  # seconds


@dataclass(frozen=True)
class Placed:
    """A piece of work, and where it lies on the axis, in seconds."""

    work: WorkRecord
    start: float
    end: float


@dataclass(frozen=True)
class Timeline:
    """Work in the order of its starts. gaps: where on the axis time was left out, and how many seconds of it."""

    placed: tuple[Placed, ...]
    gaps: tuple[tuple[float, float], ...]

    def list_rows(self) -> list[tuple[str, list[Placed]]]:
        """Rows of a chart: what each rank did alone, then what all did together."""
        hosts = {each.work.host for each in self.placed}

        def name(work: WorkRecord) -> tuple[int, str]:
            if work.rank == ALL_RANKS:
                return 1, f"all {work.ranks} ranks"
            return 0, f"rank {work.rank}" + (f" on {work.host}" if len(hosts) > 1 else "")

        names = sorted({(*name(each.work), each.work.rank) for each in self.placed}, key=lambda row: (row[0], row[2]))
        return [(text, [one for one in self.placed if name(one.work) == (kind, text)]) for kind, text, _ in names]


def place_work(works: Sequence[WorkRecord]) -> Timeline:
    """Put work on an axis that begins at 0."""
    ordered = sorted(works, key=lambda work: work.began)
    longest = max(LEAST_IDLE, IDLE * sum(work.spent["seconds"] for work in works))
    placed: list[Placed] = []
    gaps: list[tuple[float, float]] = []
    until = shift = ordered[0].began if ordered else 0.0
    for work in ordered:
        idle = work.began - until
        if idle > longest:
            gaps.append((until - shift, idle))
            shift += idle
        placed.append(Placed(work, work.began - shift, work.ended - shift))
        until = max(until, work.ended)
    return Timeline(tuple(placed), tuple(gaps))
