"""Barriers, and which ingredients are in the basin of the best one.

The barrier between two models is how far their midpoint's loss rises above, or its accuracy falls below, the mean of
its ends (Frankle et al., Linear mode connectivity, ICML 2020, arXiv 1912.05671). An ingredient is in the basin where
that fall is no more than twice its binomial error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import fmean

from gnnsoup_hpc.io.records import Diagnosis, EvalResult, Midpoints
from gnnsoup_hpc.utils.stats import error_below_mean

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
