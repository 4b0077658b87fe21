"""When training will be done, from what is known of the ingredients."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from gnnsoup_hpc.analysis.status.piece import TaskStatus


@dataclass(frozen=True)
class Estimate:
    """seconds: until the last ingredient is there; None where that cannot be told, and `why`."""

    seconds: float | None
    why: str


def estimate(ingredients: Sequence[TaskStatus], trunk: TaskStatus | None) -> Estimate:
    """Those that wait go to whichever running worker is free first; what failed is left out.

    An epoch takes what it takes running ones now, else what it took finished ones.
    """
    left = [piece for piece in ingredients if piece.state in ("waiting", "silent", "damaged")]
    running = [piece for piece in ingredients if piece.state == "running"]
    if not left and not running:
        failed = any(piece.state == "failed" for piece in ingredients)
        return Estimate(0.0, "nothing is left but what failed" if failed else "all ingredients are there")
    if trunk is not None and trunk.state != "finished":
        return Estimate(None, "the trunk is not there yet, and how many ranks wait for it cannot be seen")
    if not running:
        return Estimate(None, "no rank works at this run now")
    epoch = _epoch_seconds(ingredients)
    if epoch is None:
        return Estimate(None, "no epoch is done yet")
    free = [_rest(piece, epoch) for piece in running]
    heapq.heapify(free)
    for piece in left:
        heapq.heappush(free, heapq.heappop(free) + epoch * (piece.epochs or 0))
    return Estimate(max(free), f"{len(running)} at work, {len(left)} to come, {epoch:.3g} s an epoch")


def _epoch_seconds(ingredients: Sequence[TaskStatus]) -> float | None:
    """What an epoch takes, in seconds; None where nothing is known."""
    now = [p.epoch_seconds for p in ingredients if p.state == "running" and p.epoch_seconds is not None]
    before = [p.seconds / p.epochs for p in ingredients if p.state == "finished" and p.seconds and p.epochs]
    return median(now or before) if now or before else None


def _rest(piece: TaskStatus, epoch: float) -> float:
    own = epoch if piece.epoch_seconds is None else piece.epoch_seconds
    return own * max(0, (piece.epochs or 0) - (piece.epoch or 0))
