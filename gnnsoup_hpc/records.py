"""What passes between rooms. Plain frozen records; no room's logic.

Shape suffixes: V nodes, E entries of the adjacency (in-neighbours), F features, C classes, N ingredients, G groups of
parameters, P parameters, K parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
ByteArray = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]
WordArray = npt.NDArray[np.uint32]
IndexArray = npt.NDArray[np.int32] | npt.NDArray[np.int64]  # int32 where it holds, for half the memory
Dense = npt.NDArray[Any]  # a matrix of float32 or float64
Doubles = npt.NDArray[np.float64]
Precision = Literal["float32", "bfloat16"]  # of dense products while souping
State = dict[str, Tensor]
Draw = Literal["order", "dropout", "edges"]  # what training draws at random
Start = Literal["shared", "own"]  # whose initial state an ingredient starts from
Permutation = Mapping[str, IntArray]  # of a model's units: an index array a set of them (alignment/symmetry.py)
Align = Literal["none", "weights", "activations"]  # how ingredients' units are matched
Grouping = Literal["layer", "tensor", "model"]  # of parameters that share one alpha vector


class Role(IntEnum):
    """What a node's label may be used for."""

    NONE = 0
    TRAIN = 1
    VALIDATION = 2
    TEST = 3


class Rows(Protocol):
    """A matrix of shape (n, width) that need not be in memory; a NumPy array is one, rows.py has others."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, width)."""

    def __getitem__(self, which: slice | IntArray, /) -> Any:
        """The rows of a slice or of ids, as an array."""


@dataclass(frozen=True)
class SourceFile:
    """A file that a graph was read from, as it was then. `changed_ns`: its inode's change time, 0 where unknown."""

    path: str
    size: int
    modified_ns: int
    sha256: str
    changed_ns: int = 0


@dataclass(frozen=True)
class SourceFacts:
    """What a source holds that decides which fields of [graph] matter: a function of its content and its reader alone.

    splits: the number of columns (alternatives) of each split that it has, by the split's name; None where the job
    asked for a random split and the source's own could not be read.
    duplicates: edges that the source has more than once, surplus copies counted.
    edge_values: names of its arrays with values of edges, by the field of [graph] that says what to do with them.
    symmetric: it has the reverse of every edge; self_loops: nodes that have one, of `nodes`.
    """

    splits: Mapping[str, int] | None = field(default_factory=dict)
    duplicates: int = 0
    edge_values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    symmetric: bool = False
    self_loops: int = 0
    nodes: int = 0


@dataclass(frozen=True)
class Graph:
    """A node-classification graph. Row i of the CSR arrays holds node i's in-neighbours, sorted.

    Shapes: x (V, F), y (V,) in [-1, classes) with -1 = no label, indptr (V + 1,), indices (E,), role (V,).
    """

    x: Rows
    y: IntArray
    indptr: IntArray
    indices: IndexArray
    role: ByteArray
    classes: int
    source: str
    source_sha256: str
    files: tuple[SourceFile, ...] = ()
    source_edges: int = 0  # as the source has them, before reverses were added and duplicates merged
    symmetric: bool = False  # known to have the reverse of every entry
    facts: SourceFacts = field(default_factory=SourceFacts)
    split: str = ""  # which split was taken, in words: "stored masks, column 3 of 10"
    notes: tuple[str, ...] = ()  # sentences that prepare says and the report repeats

    @property
    def nodes(self) -> int:
        """|V|."""
        return len(self.y)


@dataclass(frozen=True)
class Preparation:
    """What was done to the features: (x - mean) / scale, or x / row sum. Shapes: mean, scale (F,) or empty.

    float64, in which it is computed; float32 in files of the first version.
    """

    kind: str
    mean: Doubles | FloatArray
    scale: Doubles | FloatArray


@dataclass(frozen=True)
class Partition:
    """Parts of a graph. Shapes: part (V,) in [0, K), order (V,) old node ids with parts contiguous, ptr (K + 1,)."""

    part: IntArray
    order: IntArray
    ptr: IntArray
    edge_cut: int
    edges: int
    balance: float
    validation_balance: float
    options: Mapping[str, int]

    @property
    def parts(self) -> int:
        """K."""
        return len(self.ptr) - 1


@dataclass(frozen=True)
class Measurement:
    """Time and memory of one phase or method; names and units are in `measure.QUANTITIES`; NaN = not measurable."""

    values: Mapping[str, float]

    def __getitem__(self, name: str) -> float:
        return self.values[name]


@dataclass(frozen=True)
class Hyperparameters:
    """What one ingredient is trained with, `vary` resolved."""

    epochs: int
    learning_rate: float
    weight_decay: float
    dropout: float
    drop_edges: float = 0.0
    shared_draws: tuple[Draw, ...] = ()
    start: Start = "shared"
    trunk_epochs: int = 0


@dataclass(frozen=True)
class Epoch:
    """One line of a training history."""

    epoch: int
    loss: float
    validation_accuracy: float
    seconds: float


@dataclass(frozen=True)
class Trunk:
    """The state that ingredients branch from: that of its last epoch."""

    state: State
    history: tuple[Epoch, ...]
    measurement: Measurement


@dataclass(frozen=True)
class Ingredient:
    """A trained model and where it comes from."""

    index: int
    state: State
    history: tuple[Epoch, ...]
    best_epoch: int
    validation_accuracy: float
    test_accuracy: float
    hyperparameters: Hyperparameters
    stopped: str
    measurement: Measurement


@dataclass(frozen=True)
class Step:
    """One gradient step on alpha, or one decision of a greedy method."""

    step: int
    loss: float
    accuracy: float
    learning_rate: float
    seconds: float


@dataclass(frozen=True)
class Mixture:
    """What a method returns. alpha (G, N) float64, a row a group of parameters; rows sum to 1 but for "free" weights.

    `by` says how parameters are grouped (layer, tensor, model), `of` what is mixed: weights or predictions.
    """

    alpha: Tensor
    groups: tuple[str, ...]
    by: Grouping = "model"
    history: tuple[Step, ...] = ()
    of: str = "weights"


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
class Soup:
    """A mixture with its weights (None for an ensemble), its exact accuracies and what making it cost.

    `options` are the method's, and the seed; `ingredients` names what alpha's columns weigh, `shelf_sha256` is the hash
    of their weights and of the graph, and `left_out` says of each other ingredient why it is not there. `test_right`
    has a bit a test node, in the order of graph.h5, padded with 0 to whole bytes: 1 where it is right.
    """

    method: str
    source: str
    options: Mapping[str, Any]
    ingredients: tuple[str, ...]
    shelf_sha256: str
    left_out: tuple[str, ...]
    mixture: Mixture
    state: State | None
    validation_accuracy: float
    test_accuracy: float
    measurement: Measurement
    counts: Mapping[str, int]
    alignment: Alignment | None = None  # of the ingredients before they were mixed; None: as they are
    test_right: ByteArray | None = None  # files of before had none
    paired: Paired | None = None  # likewise


@dataclass(frozen=True)
class Judgement:
    """What one model is worth on some nodes: accuracy, and mean cross-entropy in nats (NaN or inf: not finite)."""

    accuracy: float
    loss: float


@dataclass(frozen=True)
class Diagnosed:
    """One ingredient of a diagnosis: what it is worth alone, and what may tell why it lies where it lies."""

    name: str
    alone: Judgement
    state_sha256: str
    initial_sha256: str
    learning_rate: float
    epochs: int


@dataclass(frozen=True)
class Midpoints:
    """Judgements once the ingredients are lined up in some way with the best one.

    `halfway` has, by name, 0.5 * best + 0.5 * other for each other ingredient; `mean` is that of all ingredients.
    `setting` is the field of a job that lines a shelf up so; empty for ingredients as they were trained.
    """

    lineup: str
    setting: str
    halfway: Mapping[str, Judgement]
    mean: Judgement


@dataclass(frozen=True)
class Diagnosis:
    """Whether ingredients lie in one basin of the loss, on validation nodes. `best` names the most accurate one."""

    graph_sha256: str
    nodes: int
    best: str
    ingredients: tuple[Diagnosed, ...]
    left_out: tuple[str, ...]
    lineups: tuple[Midpoints, ...]
    seconds: float

    def named(self, name: str) -> Diagnosed:
        """The ingredient of that name."""
        return next(ingredient for ingredient in self.ingredients if ingredient.name == name)
