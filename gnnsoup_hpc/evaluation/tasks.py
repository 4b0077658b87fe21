"""What a model's outputs mean: loss, prediction, metric and its error. Everything else says loss and metric."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import zip_longest
from math import inf, sqrt
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from gnnsoup_hpc.config import TaskJob
from gnnsoup_hpc.config.task import TaskSpec
from gnnsoup_hpc.errors import RunError
from gnnsoup_hpc.evaluation.metrics import METRICS, Column, Metric, split_classes, split_columns, varies
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.types import BoolArray, Doubles, MetricName, Role, Targets
from gnnsoup_hpc.utils.text_table import show_number, show_points

if TYPE_CHECKING:
    from torch import Tensor  # a report needs only errors, and torch takes a second to load

NO_CLASS = -1  # predicted where logits are not finite
_OF_OGB = (("multiclass", "accuracy"), ("multilabel", "roc_auc"))  # what its Evaluator has for node sets
_OF_LABELS = ("accuracy", "f1_micro", "f1_macro")  # metrics of what is predicted, and not of scores

Predicted = npt.NDArray[Any]


class Task(Protocol):
    """Shapes: logits (n, C), targets (n,) or (n, T), predicted (n, ...): what `predict` makes of logits."""

    @property
    def outputs(self) -> int:
        """C."""

    @property
    def name(self) -> MetricName:
        """The metric's."""

    @property
    def higher_is_better(self) -> bool:
        """Whether a high metric is good; what chooses goes by `score`, for which a high one always is."""

    @property
    def unit(self) -> float:
        """A difference of the metric that is as much as all of a share: 1, but of an error in the targets' own unit."""

    @property
    def target_scale(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and spread, (T,) each: outputs times spread, plus mean, are in the source's units; () where they are."""

    @property
    def has_nats(self) -> bool:
        """Whether losses are numbers of nats."""

    @property
    def counts_hits(self) -> bool:
        """Whether the metric is a share of nodes, whose errors follow from counts; others' follow from `draws`."""

    def loss(self, logits: Tensor, targets: Tensor, *, scale: float | Tensor = 1.0, train: bool = False) -> Tensor:
        """Mean loss over known targets of logits times `scale`, 1 / temperature, differentiable.

        train: of what ingredients are trained by, with label smoothing where there is some.
        """

    def imitation_loss(self, logits: Tensor, outputs: Tensor, temperature: float) -> Tensor:
        """Mean distance of logits, divided by a temperature, to what `average` made of others', (n, C), differentiable.

        0 where they are alike; times the temperature squared, so that gradients do not fade with it (arXiv 1503.02531,
        section 2).
        """

    def unpack(self, labels: Tensor) -> Tensor:
        """Targets as losses take them, of labels as numbers, (n, T)."""

    def losses(self, logits: Tensor, targets: Tensor) -> Doubles:
        """The loss of each known target, (k,) float64, unweighted; in nats but for a regression."""

    def fit_scale(self, logits: Tensor, targets: Tensor) -> float | Tensor:
        """1 / temperature with the lowest loss; 1 where the task knows none. On a GPU a tensor, so that none waits."""

    def average(self, logits: Tensor) -> Tensor:
        """What an ensemble takes the mean of, (n, C)."""

    def predict(self, outputs: Tensor, members: int = 1) -> Tensor:
        """What the metric is of: a class (n,), yes or no (n, T), scores (n,) or (n, T), or numbers (n, T).

        outputs: logits; of several members the sum of their `average`.
        """

    def warm_up(self) -> None:
        """Load what tells the metric."""

    def predict_both(self, outputs: Tensor, members: int = 1) -> Tensor:
        """What is predicted, with what metrics beside the task's own are of, where there are some: `judge_both`'s."""

    def judge_both(self, both: Predicted, targets: Targets) -> tuple[Predicted, dict[MetricName, float]]:
        """What is predicted, and other metrics that tell what the task's own hides."""

    def metric(self, predicted: Predicted, targets: Targets, recorded: bool = False) -> float:
        """Over all nodes; NaN where these targets have none. recorded: for a file, by whoever defines it."""

    def hits(self, predicted: Predicted, targets: Targets) -> BoolArray | None:
        """Of each node, whether it is predicted right, (n,): what paired differences are counted from; None: `draws`.

        None is right where a score is not finite.
        """

    def draws(self, predicted: Predicted, targets: Targets) -> Doubles | None:
        """The metric of each bootstrap sample of the nodes, (B,), the same samples for all models; None: `hits`."""

    @property
    def guess_words(self) -> str:
        """What `baseline` predicts, for people."""

    def baseline(self, targets: Targets) -> float:
        """The metric of a prediction that looks at no node: the most frequent class, equal scores, or the mean."""

    def error(self, metric: float, nodes: int, draws: Doubles | None = None) -> float:
        """Standard error of a metric over so many nodes; inf where it is not known."""

    def error_below_mean(
        self,
        metric: float,
        ends: Sequence[float],
        nodes: int,
        draws: Doubles | None = None,
        of_ends: Sequence[Doubles | None] = (),
    ) -> float:
        """Standard error of `metric` - mean(ends), all over so many nodes; inf where it is not known."""

    def paired_error(self, only_one: int, only_other: int, nodes: int) -> float:
        """Standard error of the difference of two models, of which so many nodes only one predicts right."""

    def paired_spread(self, one: Doubles | None, other: Doubles | None) -> float:
        """The same by the metric of both on the same bootstrap samples; inf where one is not known."""

    def show(self, difference: float) -> str:
        """A difference of metrics, or an error, for people."""


@dataclass(frozen=True)
class Multiclass:
    """One of C classes a node: cross-entropy; accuracy, of an OGB set by ogb's own Evaluator, or another metric.

    weights: (C,), of classes in the loss; smoothing: of labels, while training.
    Of several classes each is taken against the others, with softmax as score, and the mean is that over classes.
    """

    outputs: int
    ogb_set: str = ""
    higher_is_better: bool = True
    name: MetricName = "accuracy"
    weights: tuple[float, ...] = ()
    smoothing: float = 0.0
    unit: float = 1.0

    # ---- losses

    def loss(self, logits: Tensor, targets: Tensor, *, scale: float | Tensor = 1.0, train: bool = False) -> Tensor:
        """Mean cross-entropy in nats."""
        from torch.nn import functional

        scaled = logits if type(scale) is float and scale == 1.0 else logits * scale
        if not self.weights and not (train and self.smoothing):
            return functional.cross_entropy(scaled, targets)
        weight = _as_tensor(self.weights, logits) if self.weights else None
        return functional.cross_entropy(scaled, targets, weight, label_smoothing=self.smoothing if train else 0.0)

    def imitation_loss(self, logits: Tensor, outputs: Tensor, temperature: float) -> Tensor:
        """Mean Kullback-Leibler divergence from the outputs, each node's made to add up to 1."""
        from torch.nn import functional

        shares = outputs / outputs.sum(1, keepdim=True)
        found = functional.kl_div((logits / temperature).log_softmax(1), shares, reduction="batchmean")
        return found * temperature**2

    def unpack(self, labels: Tensor) -> Tensor:
        """Classes, (n,)."""
        return labels[:, 0].long()

    def losses(self, logits: Tensor, targets: Tensor) -> Doubles:
        """Cross-entropies in nats."""
        from torch.nn import functional

        found: Doubles = functional.cross_entropy(logits.double().cpu(), targets.cpu(), reduction="none").numpy()
        return found

    def fit_scale(self, logits: Tensor, targets: Tensor) -> float | Tensor:
        """By Newton's steps (temperature.py)."""
        from gnnsoup_hpc.evaluation.temperature import fit_scale, fit_scale_there

        weights = _as_tensor(self.weights, logits)[targets] if self.weights else None
        fit = fit_scale if logits.device.type == "cpu" else fit_scale_there
        return fit(logits, targets, weights)

    # ---- predictions

    def average(self, logits: Tensor) -> Tensor:
        """Softmax."""
        return logits.softmax(1)

    def predict(self, outputs: Tensor, members: int = 1) -> Tensor:
        """The class of the highest score, of equals the first, NO_CLASS where scores are not finite; or scores."""
        import torch

        finite = outputs.isfinite().all(1)
        if self.name in _OF_LABELS:
            return outputs.argmax(1).where(finite, NO_CLASS)
        if self.outputs == 2:  # one score, in which what is nearly certain has no ties
            both = outputs if members == 1 else outputs.clamp_min(torch.finfo(outputs.dtype).tiny).log()
            return (both[:, 1] - both[:, 0]).where(finite, np.nan)
        scores = outputs.softmax(1) if members == 1 else outputs / members
        return scores.where(finite[:, None], np.nan)

    @property
    def others(self) -> tuple[Multiclass, ...]:
        """Of two classes what accuracy hides where one of them is rare: metrics of scores."""
        names: tuple[MetricName, ...] = ("roc_auc", "average_precision")
        two = self.counts_hits and self._are_two
        return tuple(replace(self, name=name, ogb_set="") for name in names) if two else ()

    @property
    def _are_two(self) -> bool:
        return self.outputs == 2

    def predict_both(self, outputs: Tensor, members: int = 1) -> Tensor:
        """Where there are others, (n, 2): class and score."""
        import torch

        predicted = self.predict(outputs, members)
        if not self.others:
            return predicted
        return torch.stack([predicted.double(), self.others[0].predict(outputs, members).double()], 1)

    def judge_both(self, both: Predicted, targets: Targets) -> tuple[Predicted, dict[MetricName, float]]:
        """None but of two classes."""
        if not self.others:
            return both, {}
        return both[:, 0].astype(np.int64), {other.name: other.metric(both[:, 1], targets) for other in self.others}

    def columns(self, predicted: Predicted, targets: Targets) -> Iterable[Column]:
        """Yes-or-no columns of what is predicted: of two classes' scores one, else one a class."""
        if predicted.ndim == 1 and self.name not in _OF_LABELS:
            return split_columns(predicted[:, None], targets[:, None].astype(np.float64))
        return split_classes(predicted, targets, max(2, self.outputs))

    # ---- metrics

    @property
    def target_scale(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Of logits none."""
        return (), ()

    @property
    def has_nats(self) -> bool:
        """Cross-entropies are."""
        return True

    @property
    def counts_hits(self) -> bool:
        """Of accuracy."""
        return self.name == "accuracy"

    @property
    def _metric(self) -> Metric:
        return METRICS[self.name]

    def warm_up(self) -> None:
        """Load ogb's Evaluator, for its sets."""
        if self.ogb_set:
            from gnnsoup_hpc.data.sources import ogb

            both = np.arange(2) if self.counts_hits else np.tile([[0.0], [1.0]], self.outputs)
            ogb.evaluate(self.ogb_set, both, both)

    def metric(self, predicted: Predicted, targets: Targets, recorded: bool = False) -> float:
        """A model with a score that is not finite is right nowhere. ogb's own ROC-AUC is told for files alone."""
        if not _is_finite(predicted):
            return 0.0 if self.counts_hits else self._metric.worst
        if self.ogb_set and (self.counts_hits or recorded):
            from gnnsoup_hpc.data.sources import ogb

            return ogb.evaluate(self.ogb_set, predicted, targets)
        if self.counts_hits:
            return int((predicted == targets).sum()) / len(targets)
        return self._metric.compute(self.columns(predicted, targets), len(targets))

    def hits(self, predicted: Predicted, targets: Targets) -> BoolArray | None:
        """Of accuracy."""
        if not self.counts_hits:
            return None
        right: BoolArray = (predicted == targets) & _is_finite(predicted)
        return right

    def draws(self, predicted: Predicted, targets: Targets) -> Doubles | None:
        """But of accuracy."""
        if self.counts_hits:
            return None
        if not _is_finite(predicted):
            predicted = np.zeros_like(predicted)  # what is equally useless, and has an error
        return self._metric.of_draws(lambda: self.columns(predicted, targets), len(targets))

    @property
    def guess_words(self) -> str:
        """The most frequent class, or equal scores."""
        return "majority class" if self.name in _OF_LABELS else "equal scores"

    def baseline(self, targets: Targets) -> float:
        """Of the most frequent class of these nodes, or of scores that are all equal."""
        return self._compute(self.guess(targets), targets)

    def guess(self, targets: Targets) -> Predicted:
        """What to predict without a look at any node."""
        if self.name in _OF_LABELS:
            return np.full(len(targets), np.bincount(targets).argmax())
        return np.zeros(len(targets) if self.outputs <= 2 else (len(targets), self.outputs))

    def _compute(self, predicted: Predicted, targets: Targets) -> float:
        """Without ogb, which looks at the type of arrays."""
        if self.counts_hits:
            return float((predicted == targets).mean())
        return self._metric.compute(self.columns(predicted, targets), len(targets))

    # ---- errors

    def error(self, metric: float, nodes: int, draws: Doubles | None = None) -> float:
        """Binomial, or the spread over bootstrap samples.

        Two nodes right and two wrong are added, so that it is not zero where every node is right (Agresti and Coull,
        The American Statistician 52(2), 1998).
        """
        if not self.counts_hits:
            return _spread(draws)
        smoothed = (metric * nodes + 2.0) / (nodes + 4.0)
        return sqrt(smoothed * (1.0 - smoothed) / nodes)

    def error_below_mean(
        self,
        metric: float,
        ends: Sequence[float],
        nodes: int,
        draws: Doubles | None = None,
        of_ends: Sequence[Doubles | None] = (),
    ) -> float:
        """As if each were measured on nodes of its own: they rise and fall together, so it is, if anything, smaller."""
        pairs = zip_longest(ends, of_ends)
        variance = sum(self.error(end, nodes, own) ** 2 for end, own in pairs) / len(ends) ** 2
        return sqrt(self.error(metric, nodes, draws) ** 2 + variance)

    def paired_error(self, only_one: int, only_other: int, nodes: int) -> float:
        """Were both models equally good, by nodes that only one predicts right: McNemar, Psychometrika 12(2), 1947."""
        return sqrt(only_one + only_other) / nodes

    def paired_spread(self, one: Doubles | None, other: Doubles | None) -> float:
        """Of the differences on each sample."""
        return inf if one is None or other is None else _spread(one - other)

    def show(self, difference: float) -> str:
        """Of shares in points, of which hundredths are told where there are some."""
        if difference == inf:
            return "not known"
        if self.name in ("mae", "r2"):
            return show_number(difference, ".4g")
        tiny = not self.counts_hits and 0.0 < difference < 0.00005
        return f"{100 * difference:.1g} points" if tiny else show_points(difference)


@dataclass(frozen=True)
class Binary(Multiclass):
    """Two classes, one output: binary cross-entropy of its sigmoid. weights: of the first class and the second."""

    def loss(self, logits: Tensor, targets: Tensor, *, scale: float | Tensor = 1.0, train: bool = False) -> Tensor:
        """Mean binary cross-entropy in nats."""
        wanted = self._labels(targets)
        return _average_binary_cross_entropy(logits * scale, wanted, self._weigh(wanted))

    def imitation_loss(self, logits: Tensor, outputs: Tensor, temperature: float) -> Tensor:
        """Mean over nodes and labels of the divergence of two Bernoulli distributions."""
        from torch.nn import functional

        least = functional.binary_cross_entropy(outputs, outputs)
        found = functional.binary_cross_entropy_with_logits(logits / temperature, outputs)
        return (found - least) * temperature**2

    def losses(self, logits: Tensor, targets: Tensor) -> Doubles:
        """Of known labels alone."""
        from torch.nn import functional

        z, wanted = logits.double().cpu(), self._labels(targets.cpu()).double()
        known = ~wanted.isnan()
        found = functional.binary_cross_entropy_with_logits(z[known], wanted[known], reduction="none")
        return np.asarray(found.numpy())

    def fit_scale(self, logits: Tensor, targets: Tensor) -> float | Tensor:
        """One scale for all outputs."""
        from gnnsoup_hpc.evaluation.temperature import fit_binary_scale, fit_binary_scale_there

        wanted = self._labels(targets)
        fit = fit_binary_scale if logits.device.type == "cpu" else fit_binary_scale_there
        return fit(logits, wanted.nan_to_num(), self._weigh(wanted))

    def average(self, logits: Tensor) -> Tensor:
        """Sigmoid."""
        return logits.sigmoid()

    def predict(self, outputs: Tensor, members: int = 1) -> Tensor:
        """Whether a label is likelier than not; or scores."""
        flat = outputs[:, 0] if self._flat else outputs
        finite = flat.isfinite()
        if self.name in _OF_LABELS:
            return (flat > (0.0 if members == 1 else members / 2.0)).long().where(finite, NO_CLASS)
        return flat.where(finite, np.nan)

    @property
    def _are_two(self) -> bool:
        return True

    @property
    def _flat(self) -> bool:
        return True

    def _labels(self, targets: Tensor) -> Tensor:
        """Yes or no as (n, T), NaN where it is missing."""
        return targets[:, None].float()

    def _weigh(self, wanted: Tensor) -> Tensor:
        """(n, T), 0 where a label is missing."""
        known = (~wanted.isnan()).to(wanted)
        if not self.weights:
            return known
        no, yes = _as_tensor(self.weights, wanted).view(2, -1).unbind()
        return known.mul_(yes.where(wanted == 1, no))


@dataclass(frozen=True)
class Multilabel(Binary):
    """T yes-or-no labels a node: binary cross-entropy of those that are known. weights: of all noes, then of all yeses.

    Source of leaving out labels that are alike on all nodes: OGB's Evaluator, arXiv 2005.00687.
    """

    @property
    def _flat(self) -> bool:
        return False

    def unpack(self, labels: Tensor) -> Tensor:
        """Labels as they are, (n, T)."""
        return labels

    def _labels(self, targets: Tensor) -> Tensor:
        return targets

    def columns(self, predicted: Predicted, targets: Targets) -> Iterable[Column]:
        """One a label."""
        return split_columns(predicted, targets)

    @property
    def guess_words(self) -> str:
        """Yes to all, or equal scores."""
        return "yes to all" if self.name in _OF_LABELS else "equal scores"

    def guess(self, targets: Targets) -> Predicted:
        """Yes to all, or equal scores."""
        return np.ones(targets.shape, dtype=np.int64)


@dataclass(frozen=True)
class Regression(Multiclass):
    """T numbers a node: squared error of what is known, of targets less `mean` by `spread`, (T,) each, as models give.

    Predictions and metrics are in the source's units. No output has a temperature.
    """

    mean: tuple[float, ...] = ()
    spread: tuple[float, ...] = ()

    @property
    def target_scale(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Of training nodes, or 0 and 1."""
        return self.mean, self.spread

    @property
    def has_nats(self) -> bool:
        """Squared errors are none."""
        return False

    def loss(self, logits: Tensor, targets: Tensor, *, scale: float | Tensor = 1.0, train: bool = False) -> Tensor:
        """Mean squared error in squares of `spread`."""
        return self._squares(logits, targets).nanmean()

    def imitation_loss(self, logits: Tensor, outputs: Tensor, temperature: float) -> Tensor:
        """Mean squared distance."""
        return (logits - outputs).square().mean()

    def unpack(self, labels: Tensor) -> Tensor:
        """Numbers as they are, (n, T)."""
        return labels

    def losses(self, logits: Tensor, targets: Tensor) -> Doubles:
        """Squared errors of known targets."""
        found: Doubles = self._squares(logits.double().cpu(), targets.cpu()).numpy().reshape(-1)
        return found[~np.isnan(found)]

    def _squares(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """(n, T), NaN where a target is missing, which no gradient comes through."""
        wanted = ((targets - _as_tensor(self.mean, targets)) / _as_tensor(self.spread, targets)).to(outputs)
        return (outputs.masked_fill(wanted.isnan(), 0.0) - wanted).square()

    def fit_scale(self, logits: Tensor, targets: Tensor) -> float | Tensor:
        """None."""
        return 1.0

    def average(self, logits: Tensor) -> Tensor:
        """The outputs themselves."""
        return logits

    def predict(self, outputs: Tensor, members: int = 1) -> Tensor:
        """Numbers in the source's units, float64."""
        scaled = outputs.double() / members
        return scaled * _as_tensor(self.spread, scaled) + _as_tensor(self.mean, scaled)

    def columns(self, predicted: Predicted, targets: Targets) -> Iterable[Column]:
        """One a number."""
        return split_columns(predicted, targets)

    @property
    def guess_words(self) -> str:
        """The mean."""
        return "mean"

    def guess(self, targets: Targets) -> Predicted:
        """The mean of these nodes."""
        return np.broadcast_to(_average(targets, 0.0), targets.shape)


def _average_binary_cross_entropy(logits: Tensor, wanted: Tensor, weights: Tensor) -> Tensor:
    from torch.nn import functional

    losses = functional.binary_cross_entropy_with_logits(logits, wanted.nan_to_num(), reduction="none")
    found: Tensor = (losses * weights).sum() / weights.sum()
    return found


@cache
def _make_tensor(values: tuple[float, ...], device: Any, kind: Any) -> Tensor:
    import torch

    return torch.tensor(values, device=device, dtype=kind)


def _as_tensor(values: tuple[float, ...], like: Tensor) -> Tensor:
    """Numbers where a tensor is, in its type; copied there once."""
    return _make_tensor(values, like.device, like.dtype)


def _is_finite(predicted: Predicted) -> bool:
    if predicted.dtype.kind == "i":
        return not (predicted == NO_CLASS).any()
    return bool(np.isfinite(predicted).all())


def _spread(draws: Doubles | None) -> float:
    return inf if draws is None or np.isnan(draws).all() else float(np.nanstd(draws))


def _average(targets: Targets, empty: float) -> Doubles:
    """The mean of each column's known targets, (T,)."""
    known = ~np.isnan(targets)
    counts = known.sum(0)
    found: Doubles = np.divide(
        np.where(known, targets, 0.0).sum(0), counts, out=np.full(len(counts), empty), where=counts > 0
    )
    return found


# ---- from a job and a graph


def make_task(job: TaskJob, graph: GraphFile) -> Task:
    """The task of a job on a graph, with what it takes from the targets of training nodes.

    Raises: JobError for what means nothing on this graph; RunError where validation or test nodes have no such metric.
    """
    spec = graph.resolve_task(job)
    if spec.metric == "accuracy" and not spec.values:
        return Multiclass(spec.outputs, spec.ogb_set, smoothing=spec.label_smoothing)
    y, roles = graph.y(0, graph.nodes), graph.role(0, graph.nodes)
    made = _make(spec, y[roles == Role.TRAIN])
    for role in (Role.VALIDATION, Role.TEST):
        judged = y[roles == role]
        if not (made.counts_hits or any(map(varies, made.columns(made.guess(judged), judged)))):
            raise RunError(
                f"task.metric = {spec.metric!r}: {graph.source} has no target of which the {role.name.lower()} nodes"
                " have two different values; choose another metric, or another split"
            )
    return made


def _make(spec: TaskSpec, training: Targets) -> Multiclass:
    """From the targets of training nodes."""
    metric = METRICS.get(spec.metric)
    plain: dict[str, Any] = {
        "name": spec.metric,
        "higher_is_better": metric is None or metric.higher_is_better,
        "ogb_set": spec.ogb_set if (spec.kind, spec.metric) in _OF_OGB else "",
    }
    if spec.kind == "regression":
        mean = _average(training, 0.0)
        spread = np.sqrt(_average((training - mean) ** 2, 0.0))
        spread[spread == 0.0] = 1.0
        plain["unit"] = float(spread.mean()) if spec.metric == "mae" else 1.0
        if spec.targets == "none":
            mean, spread = np.zeros_like(mean), np.ones_like(spread)
        return Regression(spec.outputs, **plain, mean=tuple(mean.tolist()), spread=tuple(spread.tolist()))
    plain["weights"] = _balance(spec, training) if spec.class_weights == "balanced" else ()
    if spec.kind == "multiclass":
        return Multiclass(spec.outputs, **plain, smoothing=spec.label_smoothing)
    return (Binary if spec.kind == "binary" else Multilabel)(spec.outputs, **plain)


def _balance(spec: TaskSpec, training: Targets) -> tuple[float, ...]:
    """Nodes / (C n_c) of each class, of labels of each no, then of each yes; 1 for what no training node has."""
    if spec.kind == "multilabel":
        counts = np.stack([(training == answer).sum(0) for answer in (0, 1)])
    else:
        counts = np.bincount(training, minlength=max(2, spec.outputs))
    weights = counts.sum(0) / (len(counts) * np.maximum(1, counts))
    return tuple(np.where(counts > 0, weights, 1.0).reshape(-1).tolist())


def score(task: Task, metric: float) -> float:
    """The metric, its sign turned where a low one is good: of scores the highest is the best. So is the way back."""
    return metric if task.higher_is_better else -metric


def rank_by_score(scores: Sequence[float], ids: Sequence[int]) -> list[int]:
    """Positions of models, the best first; equals by id, so that their order is no matter. A high score is good."""
    return sorted(range(len(ids)), key=lambda i: (-scores[i], ids[i]))
