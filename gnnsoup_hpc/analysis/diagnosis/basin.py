"""Barriers, which ingredients are in the basin of the best one, and both as a table.

The barrier between two models is how far their midpoint's loss rises above, or its accuracy falls below, the mean of
its ends (Frankle et al., Linear mode connectivity, ICML 2020, arXiv 1912.05671). An ingredient is in the basin where
that fall is no more than twice its binomial error.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from statistics import fmean

import numpy as np

from gnnsoup_hpc.evaluation.tasks import Task, score
from gnnsoup_hpc.io.diagnosis import ALL
from gnnsoup_hpc.io.files import Columns
from gnnsoup_hpc.io.records import Diagnosis, EvalResult, Midpoints
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


def compute_barriers(found: Diagnosis, way: Midpoints, task: Task) -> list[Barrier]:
    """Of each ingredient with the best one, in their order; the last: of all ingredients, whose mean is `way.mean`."""
    barriers = []
    for name, mean in {**way.halfway, ALL: way.mean}.items():
        ends = [each.alone for each in found.ingredients if name == ALL or each.ingredient in (name, found.best)]
        accuracies = [end.accuracy for end in ends]
        loss = mean.loss - fmean(end.loss for end in ends)
        fall = score(task, fmean(accuracies)) - score(task, mean.accuracy)
        error = task.error_below_mean(mean.accuracy, accuracies, found.nodes)
        barriers.append(Barrier(name, mean, loss, fall, error))
    return barriers


def is_one_basin(found: Diagnosis, task: Task) -> bool:
    """Whether all are in one basin with the best as they were trained, and so is the mean of all."""
    return all(barrier.in_basin for barrier in compute_barriers(found, found.variants[0], task))


def is_collapsed(barrier: Barrier) -> bool:
    """Whether a mean falls far below what it is made of, and by more than the error."""
    return not barrier.in_basin and (barrier.fall > COLLAPSE or not isfinite(barrier.mean.loss))


def make_columns(found: Diagnosis, task: Task) -> Columns:
    """For diagnosis.h5 and report.h5: a row an alignment and an ingredient but the best, then one for the mean."""
    rows = [(way, barrier) for way in found.variants for barrier in compute_barriers(found, way, task)]
    barriers = [barrier for _, barrier in rows]
    return {
        "lineup": ([way.variant for way, _ in rows], "1", "how ingredients were aligned with the best one"),
        "setting": ([way.setting for way, _ in rows], "1", "the job's field that does so; empty for as trained"),
        "ingredient": ([b.name for b in barriers], "1", f"the other end; {ALL}: the mean of all ingredients"),
        "accuracy": (np.array([b.mean.accuracy for b in barriers]), "1", "of the midpoint, on validation nodes"),
        "loss": (np.array([b.mean.loss for b in barriers]), "nat", "mean cross-entropy of the midpoint"),
        "barrier_loss": (np.array([b.loss for b in barriers]), "nat", "loss above the mean of the ends"),
        "barrier_accuracy": (np.array([b.fall for b in barriers]), "1", "accuracy below the mean of the ends"),
        "error": (np.array([b.error for b in barriers]), "1", "standard error of barrier_accuracy"),
        "in_basin": (np.array([b.in_basin for b in barriers], dtype=np.uint8), "1", "barrier within twice the error"),
    }


_COLUMNS = ("midpoint", "fall", "±", "rise", "in basin")


def list_midpoints(found: Diagnosis, task: Task) -> list[str]:
    """Lines: each ingredient alone, and its midpoint with the best one, for each way to line ingredients up."""
    over, head = ["", "", ""], ["ingredient", "accuracy", "loss"]
    rows = {i.ingredient: [i.ingredient, f"{i.alone.accuracy:.4f}", f"{i.alone.loss:.4f}"] for i in found.ingredients}
    rows[ALL] = ["mean of all", "", ""]
    for way in found.variants:
        over, head = [*over, way.variant, "", "", "", ""], [*head, *_COLUMNS]
        rows[found.best] += ["best", "", "", "", ""]
        for barrier in compute_barriers(found, way, task):
            rows[barrier.name] += [
                f"{barrier.mean.accuracy:.4f}",
                f"{barrier.fall:+.4f}",
                f"{2 * barrier.error:.4f}",
                f"{barrier.loss:+.4f}",
                "yes" if barrier.in_basin else "NO",
            ]
    return [
        f"midpoints with the best ingredient, {found.best}, on {found.nodes} validation nodes:",
        *(line.rstrip() for line in align_columns([over, head, *rows.values()])),
        "fall: accuracy below, rise: loss (nats) above the mean of the two ends; ±: twice the binomial error of fall.",
    ]
