"""Metrics that scikit-learn defines, of one column of targets at a time, and their bootstrap over nodes.

A column has scores and targets (n,) of the nodes whose target is known: one yes-or-no label, one class against the
others, or one number. A column with no positive or no negative (of numbers: all alike) is left out of a mean over
columns, as OGB's Evaluator does; where all are, the metric is NaN.

`of_draws` is the same of many bootstrap samples at once, each told by how often it has each node (n, B): a column is
sorted once, and what scikit-learn sums up with sample weights are cumulative sums over that order.
Source of the bootstrap: Efron, Annals of Statistics 7(1), 1979; samples are the same for all models of equal nodes, so
that differences are paired.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gnnsoup_hpc.config.task import RANGES, WORDS
from gnnsoup_hpc.types import Doubles, IntArray, MetricName

DRAWS = 200  # B
_SEED = 20_261_127
_CELLS = 1 << 23  # of draws by nodes, in memory together

Counts = npt.NDArray[np.uint8]  # (n, B): how often a bootstrap sample has each node, which is never near 255 times


class Column(NamedTuple):
    """Shapes: scores, targets (n,); rows (n,): where they are among all nodes, which counts are told by."""

    scores: npt.NDArray[Any]
    targets: npt.NDArray[Any]
    rows: IntArray


@dataclass(frozen=True)
class Metric:
    """One figure of many columns. `one` and `draws`: of a column, NaN where it has none."""

    name: MetricName
    one: Callable[[Column], float]
    draws: Callable[[Column, Counts], Doubles]
    higher_is_better: bool = True

    @property
    def words(self) -> str:
        """Its name for people."""
        return WORDS[self.name]

    @property
    def worst(self) -> float:
        """That of a model with a score that is not finite."""
        low, high = RANGES.get(self.name, (0.0, 1.0))
        return low if self.higher_is_better else high

    def compute(self, columns: Iterable[Column]) -> float:
        """The mean over columns; NaN where none has one."""
        found = [self.one(column) for column in columns]
        known = [value for value in found if not math.isnan(value)]
        return sum(known) / len(known) if known else math.nan

    def of_draws(self, columns: Callable[[], Iterable[Column]], nodes: int) -> Doubles:
        """Of each of DRAWS bootstrap samples of so many nodes, (B,)."""
        found = []
        step = max(1, min(DRAWS, _CELLS // max(1, nodes)))
        for first in range(0, DRAWS, step):
            counts = draw_counts(nodes, range(first, min(DRAWS, first + step)))
            found.append(self._average_draws(columns(), counts))
        return np.concatenate(found)

    def _average_draws(self, columns: Iterable[Column], counts: Counts) -> Doubles:
        return _mean_of_known([self.draws(column, counts) for column in columns])


class PooledF1(Metric):
    """F1 of all columns' labels as one column."""

    def compute(self, columns: Iterable[Column]) -> float:
        """NaN where all labels are alike."""
        together = list(columns)
        return self.one(Column(*(np.concatenate([column[part] for column in together]) for part in range(3))))

    def _average_draws(self, columns: Iterable[Column], counts: Counts) -> Doubles:
        return _compute_f1(np.sum([_count_labels(column, counts) for column in columns], axis=0))


def _mean_of_known(values: Sequence[Doubles]) -> Doubles:
    stacked = np.stack(values)
    known = ~np.isnan(stacked)
    return _divide(np.where(known, stacked, 0.0).sum(0), known.sum(0), known.sum(0) > 0)


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


# ---- by rank


def _roc_auc(column: Column) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(column.targets, column.scores)) if varies(column) else math.nan


def _average_precision(column: Column) -> float:
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(column.targets, column.scores)) if varies(column) else math.nan


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
    whole = np.add.reduceat(drawn, first, axis=0, dtype=np.int64)
    own = np.searchsorted(first, places, side="right") - 1  # the run of equal scores that each positive is in
    starts = np.flatnonzero(np.diff(own, prepend=-1))
    above = np.zeros_like(whole)
    above[own[starts]] = np.add.reduceat(drawn[places], starts, axis=0, dtype=np.int64)
    nothing = np.zeros((1, counts.shape[1]))
    positives, every = (np.concatenate([nothing, np.cumsum(each, axis=0)]) for each in (above, whole))
    return positives, every - positives


def _draw_roc_auc(column: Column, counts: Counts) -> Doubles:
    """The area by trapezia: of equal scores half of the pairs count."""
    if not varies(column):
        return np.full(counts.shape[1], np.nan)
    positives, negatives = _accumulate(column, counts)
    area = ((positives[1:] + positives[:-1]) / 2.0 * np.diff(negatives, axis=0)).sum(0)
    return _divide(area, positives[-1] * negatives[-1], positives[-1] * negatives[-1] > 0)


def _draw_average_precision(column: Column, counts: Counts) -> Doubles:
    """Sum over scores of the recall that each adds times the precision there."""
    if not varies(column):
        return np.full(counts.shape[1], np.nan)
    positives, negatives = _accumulate(column, counts)
    seen = np.maximum(1.0, positives[1:] + negatives[1:])
    area = (np.diff(positives, axis=0) * positives[1:] / seen).sum(0)
    return _divide(area, positives[-1], (positives[-1] > 0) & (negatives[-1] > 0))


def _divide(above: Doubles, below: npt.NDArray[Any], known: npt.NDArray[np.bool_]) -> Doubles:
    found: Doubles = np.divide(above, below, out=np.full(len(above), np.nan), where=known)
    return found


# ---- of predicted labels


def _f1(column: Column) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(column.targets, column.scores, zero_division=0.0)) if varies(column) else math.nan


def _count_labels(column: Column, counts: Counts) -> Doubles:
    """True positives, positives, predicted positives, and all, (4, B)."""
    wanted, said = column.targets == 1, column.scores == 1
    drawn = counts[column.rows].T.astype(np.float64)
    return np.stack([*(drawn @ each.astype(np.float64) for each in (wanted & said, wanted, said)), drawn.sum(1)])


def _compute_f1(sums: Doubles) -> Doubles:
    true, positive, predicted, whole = sums
    return _divide(2.0 * true, positive + predicted, (positive > 0) & (positive < whole))


def _draw_f1(column: Column, counts: Counts) -> Doubles:
    return _compute_f1(_count_labels(column, counts))


# ---- of numbers


def _mae(column: Column) -> float:
    from sklearn.metrics import mean_absolute_error

    return float(mean_absolute_error(column.targets, column.scores)) if len(column.targets) else math.nan


def _draw_mae(column: Column, counts: Counts) -> Doubles:
    drawn = counts[column.rows].T.astype(np.float64)
    whole = drawn.sum(1)
    return _divide(drawn @ np.abs(column.scores - column.targets), whole, whole > 0)


def _r2(column: Column) -> float:
    from sklearn.metrics import r2_score

    return float(r2_score(column.targets, column.scores)) if varies(column) else math.nan


def _draw_r2(column: Column, counts: Counts) -> Doubles:
    drawn = counts[column.rows].T.astype(np.float64)
    whole = np.maximum(1.0, drawn.sum(1))
    centred = column.targets - column.targets.mean() if len(column.targets) else column.targets
    around = drawn @ centred**2 - (drawn @ centred) ** 2 / whole
    squares = drawn @ (column.scores - column.targets) ** 2
    explained: Doubles = 1.0 - _divide(squares, around, around > 1e-12 * (drawn @ centred**2))
    return explained


METRICS: dict[MetricName, Metric] = {
    metric.name: metric
    for metric in (
        Metric("roc_auc", _roc_auc, _draw_roc_auc),
        Metric("average_precision", _average_precision, _draw_average_precision),
        PooledF1("f1_micro", _f1, _draw_f1),
        Metric("f1_macro", _f1, _draw_f1),
        Metric("mae", _mae, _draw_mae, higher_is_better=False),
        Metric("r2", _r2, _draw_r2),
    )
}


def warm_up() -> None:
    """Load scikit-learn, which takes a second."""
    import sklearn.metrics  # noqa: F401


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
