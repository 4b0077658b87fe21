"""What a model's outputs mean: loss, prediction, metric and its error. Everything else says loss and metric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING, Protocol

from gnnsoup_hpc.types import BoolArray, Doubles, IntArray

if TYPE_CHECKING:
    from torch import Tensor  # a report needs only errors, and torch takes a second to load

NO_CLASS = -1  # predicted where logits are not finite


class Task(Protocol):
    """Shapes: logits (n, C), targets (n,) or (n, T), predicted (n,): what `predict` makes of logits."""

    @property
    def outputs(self) -> int:
        """C."""

    @property
    def higher_is_better(self) -> bool:
        """Whether a high metric is good; what chooses goes by `score`, for which a high one always is."""

    def loss(self, logits: Tensor, targets: Tensor, *, scale: float | Tensor = 1.0) -> Tensor:
        """Mean loss over nodes of logits times `scale`, 1 / temperature, differentiable."""

    def losses(self, logits: Tensor, targets: Tensor) -> Doubles:
        """Each node's loss, (n,) float64, in nats."""

    def fit_scale(self, logits: Tensor, targets: Tensor) -> float | Tensor:
        """1 / temperature with the lowest loss; 1 where the task knows none. On a GPU a tensor, so that none waits."""

    def average(self, logits: Tensor) -> Tensor:
        """What an ensemble takes the mean of, (n, C)."""

    def predict(self, logits: Tensor) -> Tensor:
        """A prediction a node, (n,)."""

    def metric(self, predicted: IntArray, targets: IntArray) -> float:
        """Over all nodes."""

    def hits(self, predicted: IntArray, targets: IntArray) -> BoolArray:
        """Of each node, whether it is predicted right, (n,): what paired differences are counted from."""

    def error(self, metric: float, nodes: int) -> float:
        """Standard error of a metric over so many nodes."""

    def error_below_mean(self, metric: float, ends: Sequence[float], nodes: int) -> float:
        """Standard error of `metric` - mean(ends), all over the same nodes."""

    def paired_error(self, only_one: int, only_other: int, nodes: int) -> float:
        """Standard error of the difference of two models, of which so many nodes only one predicts right."""


@dataclass(frozen=True)
class Multiclass:
    """One of C classes a node: cross-entropy, and accuracy, of an OGB set by ogb's own Evaluator."""

    outputs: int
    ogb_set: str = ""
    higher_is_better: bool = True

    def loss(self, logits: Tensor, targets: Tensor, *, scale: float | Tensor = 1.0) -> Tensor:
        """Mean cross-entropy in nats."""
        from torch.nn import functional

        return functional.cross_entropy(logits if type(scale) is float and scale == 1.0 else logits * scale, targets)

    def losses(self, logits: Tensor, targets: Tensor) -> Doubles:
        """Cross-entropies in nats."""
        from torch.nn import functional

        found: Doubles = functional.cross_entropy(logits.double().cpu(), targets.cpu(), reduction="none").numpy()
        return found

    def fit_scale(self, logits: Tensor, targets: Tensor) -> float | Tensor:
        """By Newton's steps (temperature.py)."""
        from gnnsoup_hpc.evaluation.temperature import fit_scale, fit_scale_there

        return fit_scale(logits, targets) if logits.device.type == "cpu" else fit_scale_there(logits, targets)

    def average(self, logits: Tensor) -> Tensor:
        """Softmax."""
        return logits.softmax(1)

    def predict(self, logits: Tensor) -> Tensor:
        """The class of the highest score, of equals the first; NO_CLASS where scores are not finite."""
        finite = logits.isfinite().all(1)
        return logits.argmax(1).where(finite, NO_CLASS)

    def metric(self, predicted: IntArray, targets: IntArray) -> float:
        """Share of nodes that are right; a model with a score that is not finite is right nowhere."""
        if (predicted == NO_CLASS).any():
            return 0.0
        if self.ogb_set:
            from gnnsoup_hpc.data.sources import ogb

            return ogb.compute_accuracy(self.ogb_set, predicted, targets)
        return int((predicted == targets).sum()) / len(targets)

    def hits(self, predicted: IntArray, targets: IntArray) -> BoolArray:
        """None where a score is not finite."""
        right: BoolArray = (predicted == targets) & (not (predicted == NO_CLASS).any())
        return right

    def error(self, metric: float, nodes: int) -> float:
        """Binomial.

        Two nodes right and two wrong are added, so that it is not zero where every node is right (Agresti and Coull,
        The American Statistician 52(2), 1998).
        """
        smoothed = (metric * nodes + 2.0) / (nodes + 4.0)
        return sqrt(smoothed * (1.0 - smoothed) / nodes)

    def error_below_mean(self, metric: float, ends: Sequence[float], nodes: int) -> float:
        """As if each were a binomial of its own: they rise and fall together, so it is, if anything, smaller."""
        variance = sum(self.error(end, nodes) ** 2 for end in ends) / len(ends) ** 2
        return sqrt(self.error(metric, nodes) ** 2 + variance)

    def paired_error(self, only_one: int, only_other: int, nodes: int) -> float:
        """Were both models equally good, by nodes that only one predicts right: McNemar, Psychometrika 12(2), 1947."""
        return sqrt(only_one + only_other) / nodes


def make_task(source: str, outputs: int) -> Task:
    """The task of a graph from that source, with so many outputs a node."""
    kind, _, name = source.partition(":")
    return Multiclass(outputs, name if kind == "ogb" else "")


def score(task: Task, metric: float) -> float:
    """The metric, its sign turned where a low one is good: of scores the highest is the best. So is the way back."""
    return metric if task.higher_is_better else -metric


def rank_by_score(scores: Sequence[float], ids: Sequence[int]) -> list[int]:
    """Positions of models, the best first; equals by id, so that their order is no matter. A high score is good."""
    return sorted(range(len(ids)), key=lambda i: (-scores[i], ids[i]))
