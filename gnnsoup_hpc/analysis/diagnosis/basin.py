"""Barriers, which ingredients are in the basin of the best one, and both as a table.

The barrier between two models is how far their midpoint's loss rises above, or its accuracy falls below, the mean of
its ends (Frankle et al., Linear mode connectivity, ICML 2020, arXiv 1912.05671). An ingredient is in the basin where
that fall is no more than twice its error, as if models were measured on nodes of their own: binomial, or of a metric
that is no share of nodes, by bootstrap.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from statistics import fmean

import numpy as np

from gnnsoup_hpc.config.task import WORDS
from gnnsoup_hpc.evaluation.tasks import Task, score
from gnnsoup_hpc.io.diagnosis import ALL
from gnnsoup_hpc.io.files import Columns
from gnnsoup_hpc.io.records import Diagnosis, EvalResult, Midpoints
from gnnsoup_hpc.utils.text_table import align_columns

COLLAPSE = 0.02  # of accuracy: the instability up to which arXiv 1912.05671 calls a network stable


@dataclass(frozen=True)
class Barrier:
    """Between some models and their mean: `loss`, and `fall` of accuracy, or other metric, with its standard error."""

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
        formula = task.error_below_mean(mean.accuracy, accuracies, found.nodes)
        error = formula if task.counts_hits else way.errors[name]
        barriers.append(Barrier(name, mean, loss, fall, error))
    return barriers


def compute_errors(
    way: Midpoints, alone: Mapping[str, EvalResult], best: str, nodes: int, task: Task
) -> dict[str, float]:
    """Standard errors of the falls by name, of ingredients that are as good as `alone` says.

    They are kept where bootstrap samples tell them, of which no file has all.
    """
    found = {}
    for name, mean in {**way.halfway, ALL: way.mean}.items():
        ends = list(alone.values()) if name == ALL else [alone[best], alone[name]]
        draws = mean.draws, [end.draws for end in ends]
        found[name] = task.error_below_mean(mean.accuracy, [end.accuracy for end in ends], nodes, *draws)
    return found


def is_one_basin(found: Diagnosis, task: Task) -> bool:
    """Whether all are in one basin with the best as they were trained, and so is the mean of all."""
    return all(barrier.in_basin for barrier in compute_barriers(found, found.variants[0], task))


def is_collapsed(barrier: Barrier, task: Task) -> bool:
    """Whether a mean falls far below what it is made of, and by more than the error."""
    return not barrier.in_basin and (barrier.fall > COLLAPSE * task.unit or not isfinite(barrier.mean.loss))


def make_columns(found: Diagnosis, task: Task) -> Columns:
    """For diagnosis.h5 and report.h5: a row an alignment and an ingredient but the best, then one for the mean."""
    rows = [(way, barrier) for way in found.variants for barrier in compute_barriers(found, way, task)]
    barriers = [barrier for _, barrier in rows]
    word, unit = WORDS[task.name], "nat" if task.has_nats else "1"
    return {
        "lineup": ([way.variant for way, _ in rows], "1", "how ingredients were aligned with the best one"),
        "setting": ([way.setting for way, _ in rows], "1", "the job's field that does so; empty for as trained"),
        "ingredient": ([b.name for b in barriers], "1", f"the other end; {ALL}: the mean of all ingredients"),
        "accuracy": (np.array([b.mean.accuracy for b in barriers]), "1", "of the midpoint, on validation nodes"),
        "loss": (np.array([b.mean.loss for b in barriers]), unit, "mean loss of the midpoint"),
        "barrier_loss": (np.array([b.loss for b in barriers]), unit, "loss above the mean of the ends"),
        "barrier_accuracy": (np.array([b.fall for b in barriers]), "1", f"{word} worse than the mean of the ends"),
        "error": (np.array([b.error for b in barriers]), "1", "standard error of barrier_accuracy"),
        "in_basin": (np.array([b.in_basin for b in barriers], dtype=np.uint8), "1", "barrier within twice the error"),
    }


_COLUMNS = ("midpoint", "fall", "±", "rise", "in basin")


def list_midpoints(found: Diagnosis, task: Task) -> list[str]:
    """Lines: each ingredient alone, and its midpoint with the best one, for each way to line ingredients up."""
    over, head = ["", "", ""], ["ingredient", WORDS[task.name], "loss"]
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
    below, how = ("below" if task.higher_is_better else "above"), ("binomial" if task.counts_hits else "bootstrap")
    nats = " (nats)" if task.has_nats else ""
    recomputed = (
        "running statistics of batch norm are recomputed here, ingredients' too, or midpoints would differ from them by"
        " that; the best is chosen by the metrics of ingredients with their own."
    )
    return [
        f"midpoints with the best ingredient, {found.best}, on {found.nodes} validation nodes:",
        *(line.rstrip() for line in align_columns([over, head, *rows.values()])),
        f"fall: {WORDS[task.name]} {below}, rise: loss{nats} above the mean of the two ends; ±: twice the {how} error"
        " of fall.",
        *([recomputed] if found.recomputed else []),
    ]
