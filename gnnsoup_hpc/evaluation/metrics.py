"""Metrics as scikit-learn defines them, of one column of targets at a time, and their bootstrap over nodes.

A column has scores and targets (n,) of the nodes whose target is known: one yes-or-no label, one class against the
others, or one number. A column with no positive or no negative (for R²: of equal numbers) is left out of a mean over
columns, as OGB's Evaluator does; where all are, the metric is NaN.

Nodes are weighed by how often each of some samples has them, (n, B), which is once where it is the metric itself. So a
column is sorted once for all samples, and what scikit-learn sums up with sample weights are sums over that order; its
own functions take ten times as long for hundreds of short columns. Tests hold both to scikit-learn's.
Source of the bootstrap: Efron, Annals of Statistics 7(1), 1979; samples are the same for all models of equal nodes, so
that differences are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gnnsoup_hpc.config.task import RANGES
from gnnsoup_hpc.types import Doubles, IntArray, MetricName

DRAWS = 200  # B
_SEED = 20_261_127
_CELLS = 1 << 21  # of samples by nodes, in memory together

Counts = npt.NDArray[np.uint8]  # (n, B): how often a sample has each node, which is never near 255 times


class Column(NamedTuple):
    """Shapes: scores, targets (n,); rows (n,): where they are among all nodes, which counts are told by."""

    scores: npt.NDArray[Any]
    targets: npt.NDArray[Any]
    rows: IntArray


@dataclass(frozen=True)
class Metric:
    """One figure of many columns. `of_column`: of one, (B,), NaN where a sample of it has none."""

    name: MetricName
    of_column: Callable[[Column, Counts], Doubles]
    higher_is_better: bool = True

    @property
    def worst(self) -> float:
        """That of a model with a score that is not finite."""
        low, high = RANGES.get(self.name, (0.0, 1.0))
        return low if self.higher_is_better else high

    def compute(self, columns: Iterable[Column], nodes: int) -> float:
        """The mean over columns of so many nodes; NaN where none has one."""
        return float(self._average(columns, np.ones((nodes, 1), dtype=np.uint8))[0])

    def of_draws(self, columns: Callable[[], Iterable[Column]], nodes: int) -> Doubles:
        """Of each of DRAWS bootstrap samples of so many nodes, (B,)."""
        step = max(1, min(DRAWS, _CELLS // max(1, nodes)))
        numbers = (range(first, min(DRAWS, first + step)) for first in range(0, DRAWS, step))
        return np.concatenate([self._average(columns(), draw_counts(nodes, some)) for some in numbers])

    def _average(self, columns: Iterable[Column], counts: Counts) -> Doubles:
        found = np.stack([self.of_column(column, counts) for column in columns])
        known = ~np.isnan(found)
        return _divide(np.where(known, found, 0.0).sum(0), known.sum(0), known.sum(0) > 0)


class PooledF1(Metric):
    """F1 of all columns' labels as one column."""

    def _average(self, columns: Iterable[Column], counts: Counts) -> Doubles:
        return _compute_f1(np.sum([_count_labels(column, counts) for column in columns], axis=0))


def draw_counts(nodes: int, draws: Sequence[int]) -> Counts:
    """How often each of some bootstrap samples has each node, (n, B); a function of nodes and the samples' numbers."""
    counts = np.empty((nodes, len(draws)), dtype=np.uint8)
    for place, number in enumerate(draws):
        drawn = np.random.default_rng([_SEED, nodes, number]).integers(0, nodes, nodes)
        counts[:, place] = np.bincount(drawn, minlength=nodes)
    return counts


def varies(column: Column) -> bool:
    """Whether a yes-or-no column has a positive and a negative; of numbers, whether they differ."""
    return len(column.targets) > 1 and bool((column.targets != column.targets[0]).any())


def _divide(above: Doubles, below: npt.NDArray[Any], known: npt.NDArray[np.bool_]) -> Doubles:
    found: Doubles = np.divide(above, below, out=np.full(len(above), np.nan), where=known)
    return found


# ---- by rank


def _accumulate(column: Column, counts: Counts) -> tuple[Doubles, Doubles]:
    """Positives and negatives at or above some scores, the highest first, (k + 1, B); the first row is 0.

    These are all that a positive has, and the lowest of those between two of them.
    """
    order = np.argsort(-column.scores, kind="stable")
    sorted_scores, positive = column.scores[order], column.targets[order] == 1
    first = np.append(0, np.flatnonzero(np.diff(sorted_scores)) + 1)  # of equal scores
    holds = np.logical_or.reduceat(positive, first)
    first = first[holds | np.append(True, holds[:-1])]
    drawn, places = counts[column.rows[order]], np.flatnonzero(positive)
    whole = np.add.reduceat(drawn, first, axis=0, dtype=np.int32)
    own = np.searchsorted(first, places, side="right") - 1  # the run of equal scores that each positive is in
    starts = np.flatnonzero(np.diff(own, prepend=-1))
    above = np.zeros_like(whole)
    above[own[starts]] = np.add.reduceat(drawn[places], starts, axis=0, dtype=np.int32)
    nothing = np.zeros((1, counts.shape[1]))
    positives, every = (np.concatenate([nothing, np.cumsum(each, axis=0)]) for each in (above, whole))
    return positives, every - positives


def _roc_auc(column: Column, counts: Counts) -> Doubles:
    """The area by trapezia: of equal scores half of the pairs count."""
    if not varies(column):
        return np.full(counts.shape[1], np.nan)
    positives, negatives = _accumulate(column, counts)
    area = ((positives[1:] + positives[:-1]) / 2.0 * np.diff(negatives, axis=0)).sum(0)
    return _divide(area, positives[-1] * negatives[-1], positives[-1] * negatives[-1] > 0)


def _average_precision(column: Column, counts: Counts) -> Doubles:
    """Sum over scores of the recall that each adds times the precision there."""
    if not varies(column):
        return np.full(counts.shape[1], np.nan)
    positives, negatives = _accumulate(column, counts)
    seen = np.maximum(1.0, positives[1:] + negatives[1:])
    area = (np.diff(positives, axis=0) * positives[1:] / seen).sum(0)
    return _divide(area, positives[-1], (positives[-1] > 0) & (negatives[-1] > 0))


# ---- of predicted labels


def _count_labels(column: Column, counts: Counts) -> Doubles:
    """True positives, positives, predicted positives, and all, (4, B)."""
    wanted, said = column.targets == 1, column.scores == 1
    drawn = counts[column.rows].T.astype(np.float64)
    return np.stack([*(drawn @ each.astype(np.float64) for each in (wanted & said, wanted, said)), drawn.sum(1)])


def _compute_f1(sums: Doubles) -> Doubles:
    true, positive, predicted, whole = sums
    return _divide(2.0 * true, positive + predicted, (positive > 0) & (positive < whole))


def _f1(column: Column, counts: Counts) -> Doubles:
    return _compute_f1(_count_labels(column, counts))


# ---- of numbers


def _mae(column: Column, counts: Counts) -> Doubles:
    drawn = counts[column.rows].T.astype(np.float64)
    whole = drawn.sum(1)
    return _divide(drawn @ np.abs(column.scores - column.targets), whole, whole > 0)


def _r2(column: Column, counts: Counts) -> Doubles:
    if not varies(column):
        return np.full(counts.shape[1], np.nan)
    drawn = counts[column.rows].T.astype(np.float64)
    centred = column.targets - column.targets.mean()
    squares = drawn @ centred**2
    around = squares - (drawn @ centred) ** 2 / np.maximum(1.0, drawn.sum(1))
    left = drawn @ (column.scores - column.targets) ** 2
    explained: Doubles = 1.0 - _divide(left, around, around > 1e-12 * squares)
    return explained


METRICS: dict[MetricName, Metric] = {
    metric.name: metric
    for metric in (
        Metric("roc_auc", _roc_auc),
        Metric("average_precision", _average_precision),
        PooledF1("f1_micro", _f1),
        Metric("f1_macro", _f1),
        Metric("mae", _mae, higher_is_better=False),
        Metric("r2", _r2),
    )
}


# ---- columns


def split_columns(scores: npt.NDArray[Any], targets: npt.NDArray[Any]) -> Iterator[Column]:
    """Of scores and targets (n, T), without what is missing."""
    for mine, wanted in zip(scores.T, targets.T, strict=True):
        rows = np.flatnonzero(~np.isnan(wanted))
        yield Column(mine[rows], wanted[rows], rows)


def split_classes(scores: npt.NDArray[Any], targets: IntArray, classes: int) -> Iterator[Column]:
    """Each class against the others. scores: (n,) predicted classes; or (n, C)."""
    rows = np.arange(len(targets))
    for number in range(classes):
        mine = scores == number if scores.ndim == 1 else scores[:, number]
        yield Column(mine.astype(np.float64), (targets == number).astype(np.float64), rows)
