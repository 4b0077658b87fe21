"""Which faults are done at which points; and whether files are synced, which no kill can show: the system writes on."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import groupby

from tests.faults.intercept import FAULTS, Point


@dataclass(frozen=True)
class Fault:
    """One fault at one point, the `turn`-th time that it is reached."""

    point: Point
    turn: int
    what: str

    def __str__(self) -> str:
        return f"{self.what} at {self.point}" + (f", time {self.turn + 1}" if self.turn else "")


def faults_of(passed: Sequence[tuple[Point, str]], known: Collection[Point]) -> list[Fault]:
    """Every fault at the first time that each point is passed, in their order, but for those that an earlier step had.

    A file that is written in many calls is met at the first and at the last of them.
    """
    firsts = {point: place for place, (point, _) in reversed(list(enumerate(passed))) if point not in known}
    return [
        Fault(point, turn, what)
        for point in sorted(firsts, key=firsts.__getitem__)
        for turn in sorted({0, _last(passed, firsts[point])} if point.call == "write" else {0})
        for what, calls in FAULTS.items()
        if point.call in calls
    ]


class OneEach:
    """Of each point's faults one: of the kind that was chosen least so far, so that each kind meets many points."""

    def __init__(self) -> None:
        self._chosen = Counter[tuple[str, bool]]()

    def __call__(self, faults: Sequence[Fault]) -> list[Fault]:
        """The chosen ones, in their order."""
        return [self._choose(list(each)) for _, each in groupby(faults, key=lambda fault: fault.point)]

    def _choose(self, faults: Sequence[Fault]) -> Fault:
        fault = min(faults, key=lambda fault: self._chosen[fault.what, fault.turn > 0])
        self._chosen[fault.what, fault.turn > 0] += 1
        return fault


def _last(passed: Sequence[tuple[Point, str]], first: int) -> int:
    """How often the same point had been passed before the last time that it wrote to the same file."""
    turn = last = -1
    for point, path in passed[first:]:
        if path == passed[first][1] and point.call == "create":
            break  # another file of that name
        if point == passed[first][0]:
            turn += 1
            last = turn if path == passed[first][1] else last
    return last


NOT_SYNCED = (".json", ".damaged")  # notes are worth nothing after a crash; what is set aside was there before


def unsynced(passed: Sequence[tuple[Point, str]]) -> list[str]:
    """Files that took their place before what was written of them was synced, or whose folder was not synced next."""
    found, dirty = [], set[str]()
    for place, (point, path) in enumerate(passed):
        folder, name = os.path.split(path)
        if point.call in {"create", "write", "reserve", "truncate"}:
            dirty.add(path)
        elif point.call == "sync":
            dirty.discard(path)
        elif (
            point.call in {"rename", "replace"}
            and not name.startswith(".")
            and not name.endswith((".json", ".damaged"))
        ):
            if any(os.path.dirname(other) == folder for other in dirty if other.startswith(f"{folder}/.{name}.")):
                found.append(f"{point}: what was written is not synced")
            after = passed[place + 1] if place + 1 < len(passed) else (point, "")
            if (after[0].call, after[1]) != ("sync", folder):
                found.append(f"{point}: its folder is not synced")
    return found
