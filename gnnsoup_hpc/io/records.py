"""What the files of a run hold, as plain records. Rows of tables are annotated with what the file says of a column.

Shape suffixes: N ingredients, G groups of parameters, P parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import nan
from typing import TYPE_CHECKING, Annotated, Any

from gnnsoup_hpc.config.turns import Hyperparameters
from gnnsoup_hpc.runtime.profiling import Measurement
from gnnsoup_hpc.types import Align, ByteArray, Doubles, Grouping, IntArray, Permutation, State

if TYPE_CHECKING:
    from torch import Tensor  # read by commands that compute nothing, and torch takes a second to load


@dataclass(frozen=True)
class Epoch:
    """One line of a training history. The loss is a number of nats but for a regression, which has no unit."""

    epoch: Annotated[int, "1", "epoch, from 1"]
    loss: Annotated[float, "nat", "mean loss on training nodes, with dropout: cross-entropy but for a regression"]
    validation_accuracy: Annotated[float, "1", "accuracy, or the task's metric, on validation nodes after the epoch"]
    seconds: Annotated[float, "s", "wall time of the epoch, validation included"]


@dataclass(frozen=True)
class TrunkStart:
    """One of several starts that a trunk is chosen from."""

    seed: Annotated[int, "1", "seed of its initial state and draws: a job with this train.seed trains it as its trunk"]
    initial_sha256: Annotated[str, "1", "hash of its initial state"]
    validation_accuracy: Annotated[float, "1", "accuracy, or the task's metric, on validation nodes; NaN: it diverged"]
    seconds: Annotated[float, "s", "wall time of its training"]


@dataclass(frozen=True)
class Trunk:
    """The state that ingredients branch from: that of its last epoch.

    diverged: when its training did, in words; then `state` is what it started from. starts, chosen: what was trained
    where there are several starts, and the row of the one that this trunk is; measurement: of all of them.
    """

    state: State
    history: tuple[Epoch, ...]
    measurement: Measurement
    diverged: str = ""
    starts: tuple[TrunkStart, ...] = ()
    chosen: int = 0


@dataclass(frozen=True)
class Judged:
    """By what a model was judged. metric: whose values its accuracies are; others: test_roc_auc, … beside it.

    draws: the metric of bootstrap samples of nodes, (B,), where its errors are told by them.
    target_mean, target_spread: of a regression, (T,) each: outputs times spread, plus mean, are in the source's units.
    """

    metric: str = "accuracy"
    validation_draws: Doubles | None = field(default=None, compare=False)
    test_draws: Doubles | None = field(default=None, compare=False)
    others: Mapping[str, float] = field(default_factory=dict)
    target_mean: tuple[float, ...] = ()
    target_spread: tuple[float, ...] = ()

    def unscale(self, outputs: Any) -> Any:
        """Outputs (n, T) of a regression in the source's units; of other tasks as they are."""
        return outputs * self.target_spread + self.target_mean if self.target_mean else outputs


@dataclass(frozen=True)
class Ingredient:
    """A trained model and where it comes from. engine: what trained it; judged: what its accuracies are.

    imported: name of the file that it was imported from, empty where it was trained here. Of such a one what is not
    known of its training is None, empty or NaN.
    """

    index: int
    state: State
    history: tuple[Epoch, ...]
    best_epoch: int
    validation_accuracy: float
    test_accuracy: float
    hyperparameters: Hyperparameters | None
    stopped: str
    measurement: Measurement
    engine: str = "torch"
    imported: str = ""
    judged: Judged = field(default_factory=Judged)


@dataclass(frozen=True)
class Step:
    """One gradient step on alpha, or one decision of a greedy method."""

    step: Annotated[int, "1", "step, from 1"]
    loss: Annotated[
        float, "nat", "mean loss on the step's validation nodes, as in training; NaN where the method takes no loss"
    ]
    accuracy: Annotated[float, "1", "accuracy, or the task's metric, on the step's validation nodes"]
    learning_rate: Annotated[float, "1", "learning rate of the step; NaN where there is none"]
    seconds: Annotated[float, "s", "wall time of the step, reading included"]


@dataclass(frozen=True)
class MixingWeights:
    """What a method returns. alpha (G, N) float64, a row a group of parameters; rows sum to 1 but for "free" weights.

    `by` says how parameters are grouped (layer, tensor, model), `of` what is mixed: weights, predictions, or of a
    "distilled" model those that it was taught; then `state` is the model.
    """

    alpha: Tensor
    groups: tuple[str, ...]
    by: Grouping = "model"
    history: tuple[Step, ...] = ()
    of: str = "weights"
    state: State | None = None


@dataclass(frozen=True)
class Alignment:
    """Ingredients' hidden units in the order of one of them's, before anything is mixed.

    Shapes: orders, one a set of units, (N, units): a row an ingredient, in the order of `ids`; empty for by = none.
    """

    by: Align
    reference: int
    ids: tuple[int, ...]
    orders: Mapping[str, IntArray]

    def of(self, index: int) -> Permutation:
        """The permutation of the ingredient `index`."""
        row = self.ids.index(index)
        return {name: order[row] for name, order in self.orders.items()}


@dataclass(frozen=True)
class Paired:
    """A soup and the best ingredient on the same test nodes: how many only one of the two gets right."""

    best: str
    only_soup: int
    only_best: int


@dataclass(frozen=True)
class Recomputed:
    """Of a soup's running statistics: seconds of recomputing them, mixing included, and metrics with both kinds.

    mixed: as weights are; anew: recomputed, also where the soup is an ingredient, which keeps its own.
    validation_error: standard error of their difference on the validation nodes; NaN of a file that does not tell it.
    """

    seconds: float
    validation_mixed: float
    test_mixed: float
    validation_anew: float
    test_anew: float
    validation_error: float = nan


@dataclass(frozen=True)
class Soup:
    """A mixture with its weights (None for an ensemble), its exact accuracies or other metric, and its cost.

    `options` are the method's, and the seed; `ingredients` names what alpha's columns weigh, `ingredients_sha256` is
    the hash of their weights and of the graph, and `left_out` says of each other ingredient why it is not there.
    `test_right` has a bit a test node, in the order of graph.h5, padded with 0 to whole bytes: 1 where it is right.
    `judged` says what its accuracies are.
    """

    method: str
    source: str
    options: Mapping[str, Any]
    ingredients: tuple[str, ...]
    ingredients_sha256: str
    left_out: tuple[str, ...]
    mixture: MixingWeights
    state: State | None
    validation_accuracy: float
    test_accuracy: float
    measurement: Measurement
    counts: Mapping[str, int]
    alignment: Alignment | None = None  # of the ingredients before they were mixed; None: as they are
    test_right: ByteArray | None = None  # files of before had none
    paired: Paired | None = None  # likewise
    recomputed: Recomputed | None = None  # of models with batch norm
    judged: Judged = field(default_factory=Judged)


@dataclass(frozen=True)
class EvalResult:
    """One model on some nodes: the task's metric, and the mean loss (NaN or inf: not finite).

    draws: the metric of bootstrap samples, (B,), where its errors are told by them; files have the errors alone.
    """

    accuracy: float
    loss: float
    draws: Doubles | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Diagnosed:
    """One ingredient of a diagnosis: its own accuracy, or other metric, and loss; what may explain where it lies."""

    ingredient: Annotated[str, "1", "name of the ingredient's file"]
    accuracy: Annotated[float, "1", "accuracy, or the task's metric; exact, on validation nodes"]
    loss: Annotated[float, "nat", "mean loss on validation nodes: cross-entropy but for a regression"]
    state_sha256: Annotated[str, "1", "hash of the weights"]
    initial_sha256: Annotated[str, "1", "hash of the state that training started from; empty where it is not known"]
    learning_rate: Annotated[float, "1", "Adam's learning rate; NaN where it is not known"]
    epochs: Annotated[float, "1", "epochs asked for; NaN where it is not known"]

    @property
    def alone(self) -> EvalResult:
        """Its own accuracy and loss."""
        return EvalResult(self.accuracy, self.loss)


@dataclass(frozen=True)
class Midpoints:
    """Accuracy and loss of means of ingredients whose units are matched in one way with those of the best one.

    `halfway` has, by name, 0.5 * best + 0.5 * other for each other ingredient; `mean` is that of all ingredients.
    `setting` is the field of a job that matches units so; empty for ingredients as they were trained.
    `errors` has, by name, standard errors of falls that were told by bootstrap samples, the mean's as "all".
    """

    variant: str
    setting: str
    halfway: Mapping[str, EvalResult]
    mean: EvalResult
    errors: Mapping[str, float] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Diagnosis:
    """Whether ingredients lie in one basin of the loss, on validation nodes. `best` names the best one.

    recomputed: whether all were measured with recomputed running statistics of batch norm, ingredients too; the best
    one is that of ingredients with their own.
    """

    graph_sha256: str
    nodes: int
    best: str
    ingredients: tuple[Diagnosed, ...]
    left_out: tuple[str, ...]
    variants: tuple[Midpoints, ...]
    seconds: float
    metric: str = "accuracy"
    recomputed: bool = False

    def named(self, name: str) -> Diagnosed:
        """The ingredient of that name."""
        return next(each for each in self.ingredients if each.ingredient == name)
