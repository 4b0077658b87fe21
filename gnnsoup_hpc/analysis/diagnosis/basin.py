"""Barriers, which ingredients are in the basin of the best one, and both as a table.

The barrier between two models is how far their midpoint's loss rises above, or its accuracy falls below, the mean of
its ends (Frankle et al., Linear mode connectivity, ICML 2020, arXiv 1912.05671). An ingredient is in the basin where
that fall is no more than twice its binomial error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import fmean

import numpy as np

from gnnsoup_hpc.io.diagnosis import ALL
from gnnsoup_hpc.io.records import Diagnosis, EvalResult, Midpoints
from gnnsoup_hpc.io.report import Columns
from gnnsoup_hpc.utils.stats import error_below_mean
from gnnsoup_hpc.utils.text_table import align_columns

COLLAPSE = 0.02  # of accuracy: the instability up to which arXiv 1912.05671 calls a network stable


@dataclass(frozen=True)
class Barrier:
    """Between some models and their mean: `loss` in nats, `fall` and its standard error `error` of accuracy."""

    name: str
    mean: EvalResult
    loss: float
    fall: float
    error: float

    @property
    def in_basin(self) -> bool:
        """Whether accuracy falls by no more than twice its error, and every score is finite."""
        return isfinite(self.mean.loss) and self.fall <= 2.0 * self.error


def compute_barriers(found: Diagnosis, way: Midpoints) -> list[Barrier]:
    """One for each ingredient other than the best, in their order."""
    best = found.named(found.best).alone
    return [_barrier(name, mid, [best, found.named(name).alone], found.nodes) for name, mid in way.halfway.items()]


def compute_mean_barrier(found: Diagnosis, way: Midpoints) -> Barrier:
    """The mean of all ingredients against the mean ingredient."""
    return _barrier("mean", way.mean, [ingredient.alone for ingredient in found.ingredients], found.nodes)


def is_one_basin(found: Diagnosis) -> bool:
    """Whether all are in one basin with the best as they were trained, and so is the mean of all."""
    before = found.lineups[0]
    return compute_mean_barrier(found, before).in_basin and all(
        barrier.in_basin for barrier in compute_barriers(found, before)
    )


def is_collapsed(barrier: Barrier) -> bool:
    """Whether a mean falls far below what it is made of, and by more than the error."""
    return not barrier.in_basin and (barrier.fall > COLLAPSE or not isfinite(barrier.mean.loss))


def _barrier(name: str, mean: EvalResult, ends: Sequence[EvalResult], nodes: int) -> Barrier:
    accuracies = [end.accuracy for end in ends]
    return Barrier(
        name=name,
        mean=mean,
        loss=mean.loss - fmean(end.loss for end in ends),
        fall=fmean(accuracies) - mean.accuracy,
        error=error_below_mean(mean.accuracy, accuracies, nodes),
    )


def make_columns(found: Diagnosis) -> Columns:
    """For diagnosis.h5 and report.h5: a row a way to line up and an ingredient but the best, then one for the mean."""
    rows: list[tuple[str, str, str, Barrier]] = []
    for way in found.lineups:
        rows += [(way.lineup, way.setting, barrier.name, barrier) for barrier in compute_barriers(found, way)]
        rows.append((way.lineup, way.setting, ALL, compute_mean_barrier(found, way)))
    barriers = [barrier for *_, barrier in rows]
    return {
        "lineup": ([row[0] for row in rows], "1", "how ingredients were lined up with the best one"),
        "setting": ([row[1] for row in rows], "1", "the job's field that does so; empty for as trained"),
        "ingredient": ([row[2] for row in rows], "1", f"the other end; {ALL}: the mean of all ingredients"),
        "accuracy": (np.array([b.mean.accuracy for b in barriers]), "1", "of the midpoint, on validation nodes"),
        "loss": (np.array([b.mean.loss for b in barriers]), "nat", "mean cross-entropy of the midpoint"),
        "barrier_loss": (np.array([b.loss for b in barriers]), "nat", "loss above the mean of the ends"),
        "barrier_accuracy": (np.array([b.fall for b in barriers]), "1", "accuracy below the mean of the ends"),
        "error": (np.array([b.error for b in barriers]), "1", "standard error of barrier_accuracy"),
        "in_basin": (np.array([b.in_basin for b in barriers], dtype=np.uint8), "1", "barrier within twice the error"),
    }


_COLUMNS = ("midpoint", "fall", "±", "rise", "in basin")


def list_midpoints(found: Diagnosis) -> list[str]:
    """Lines: each ingredient alone, and its midpoint with the best one, for each way to line ingredients up."""
    ways = found.lineups
    head = ("ingredient", "accuracy", "loss", *(cell for _ in ways for cell in _COLUMNS))
    over = ("", "", "", *(cell for way in ways for cell in (way.lineup, "", "", "", "")))
    rows = [_midpoint_row(found, ingredient.name) for ingredient in found.ingredients]
    lines = align_columns([over, head, *rows, _mean_row(found)])
    return [
        f"midpoints with the best ingredient, {found.best}, on {found.nodes} validation nodes:",
        *(line.rstrip() for line in lines),
        "fall: accuracy below, rise: loss (nats) above the mean of the two ends; ±: twice the binomial error of fall.",
    ]


def _midpoint_row(found: Diagnosis, name: str) -> tuple[str, ...]:
    alone = found.named(name).alone
    cells: list[str] = []
    for way in found.lineups:
        barriers = {barrier.name: barrier for barrier in compute_barriers(found, way)}
        cells += _cells(barriers[name]) if name in barriers else ["best", "", "", "", ""]
    return name, f"{alone.accuracy:.4f}", f"{alone.loss:.4f}", *cells


def _mean_row(found: Diagnosis) -> tuple[str, ...]:
    return "mean of all", "", "", *(cell for way in found.lineups for cell in _cells(compute_mean_barrier(found, way)))


def _cells(barrier: Barrier) -> list[str]:
    return [
        f"{barrier.mean.accuracy:.4f}",
        f"{barrier.fall:+.4f}",
        f"{2 * barrier.error:.4f}",
        f"{barrier.loss:+.4f}",
        "yes" if barrier.in_basin else "NO",
    ]
