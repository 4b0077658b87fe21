"""What a model is to the rest of the package: a function of named parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from gnnsoup_hpc.graph.sparse import Adjacency
from gnnsoup_hpc.graph.subgraph import Aggregation, Subgraph
from gnnsoup_hpc.types import Grouping, Mode, State
from gnnsoup_hpc.utils import counter
from gnnsoup_hpc.utils.rng import derive_seed


class Dropout(ABC):
    """Dropout while training: a share `rate` of numbers is zeroed, the others are scaled up to make up for it."""

    rate: float

    def __call__(self, x: Tensor, layer: int, adjacency: Adjacency | None = None) -> Tensor:
        """States of a layer's rows (V, C), or what it weighs an adjacency's entries with (E, H), after dropout."""
        if self.rate == 0.0:
            return x
        return x * self._draw_mask(x, layer, adjacency).div_(1.0 - self.rate)

    @abstractmethod
    def _draw_mask(self, x: Tensor, layer: int, adjacency: Adjacency | None) -> Tensor:
        """Of x's shape, 1 where it is kept, else 0."""

    @abstractmethod
    def draw_seed(self) -> int:
        """A seed, below 2^62, for a module that draws its masks by itself."""

    @abstractmethod
    def at(self, epoch: int, step: int) -> Dropout:
        """That of one step."""

    @property
    @abstractmethod
    def state(self) -> Tensor:
        """What a checkpoint keeps of it, uint8."""

    @abstractmethod
    def restore(self, state: Tensor) -> None:
        """Go on from there."""


@dataclass(frozen=True)
class DrawnDropout(Dropout):
    """Its masks come from a generator, in the order in which they are asked for."""

    rate: float
    generator: torch.Generator

    def _draw_mask(self, x: Tensor, layer: int, adjacency: Adjacency | None) -> Tensor:
        return torch.empty_like(x).bernoulli_(1.0 - self.rate, generator=self.generator)

    def draw_seed(self) -> int:
        """Whatever is drawn next."""
        return int(torch.randint(2**62, (), generator=self.generator, device=self.generator.device))

    def at(self, epoch: int, step: int) -> DrawnDropout:
        """Whatever is drawn next."""
        return self

    @property
    def state(self) -> Tensor:
        """The generator's."""
        return self.generator.get_state()

    def restore(self, state: Tensor) -> None:
        """Give the generator its state."""
        self.generator.set_state(state)


@dataclass(frozen=True)
class CountedDropout(Dropout):
    """Its masks are functions of a key and of places: layer, node and channel, or both ends of an entry and head.

    So neither threads nor the order of calls change them, and a kernel makes them as it goes.
    """

    rate: float
    key: int

    @property
    def scale(self) -> float:
        """What is kept is multiplied by it."""
        return 1.0 / (1.0 - self.rate)

    @property
    def bar(self) -> int:
        """Of numbers in [0, 2^32), those below it drop."""
        return min(round(self.rate * 2**32), 2**32 - 1)

    def key_of(self, layer: int, entries: bool) -> int:
        """The key of a layer's states, or of its entries."""
        return counter.derive_key(self.key, 2 * layer + entries)

    def _draw_mask(self, x: Tensor, layer: int, adjacency: Adjacency | None) -> Tensor:
        key = self.key_of(layer, adjacency is not None)
        if adjacency is None:
            keys = counter.derive_keys(key, torch.arange(len(x), device=x.device))
        else:
            keys = counter.derive_keys(counter.derive_keys(key, adjacency.row + adjacency.offset), adjacency.indices)
        return (counter.draw(keys, x.shape[1]) >= self.bar).to(x.dtype)

    def draw_seed(self) -> int:
        """The key."""
        return self.key % 2**62

    def at(self, epoch: int, step: int) -> CountedDropout:
        """With a key of that step's own."""
        return replace(self, key=derive_seed(self.key, epoch, step))

    @property
    def state(self) -> Tensor:
        """Nothing."""
        return torch.empty(0, dtype=torch.uint8)

    def restore(self, state: Tensor) -> None:
        """Nothing is to be done."""


@dataclass(frozen=True)
class Layout:
    """How a set's units lie: `groups` of `size`; groups move as wholes, and units within them."""

    groups: int
    size: int

    @property
    def units(self) -> int:
        """Units in all."""
        return self.groups * self.size


@dataclass(frozen=True)
class Carrier:
    """Whose units a parameter's rows and columns carry; None: those of no set, which stay where they are."""

    parameter: str
    rows: str | None
    columns: str | None


@dataclass(frozen=True)
class Symmetries:
    """What may be permuted without a change of outputs.

    layouts: the sets of units by name, from the first layer on. carriers: every parameter that carries units of one.
    matrices: parameters that are matrices (out, in) as they are; any other is looked at as one column.
    """

    layouts: Mapping[str, Layout]
    carriers: tuple[Carrier, ...]
    matrices: frozenset[str]


class Model(Protocol):
    """A function of named parameters. With F features and C outputs, a state has the shapes that `shapes` lists."""

    @property
    def kind(self) -> str:
        """Its name in [model] and in files."""

    @property
    def features(self) -> int:
        """F."""

    @property
    def outputs(self) -> int:
        """C."""

    @property
    def weighted(self) -> bool:
        """Whether it takes weights of edges."""

    @property
    def edge_features(self) -> int:
        """D, features of an edge that it takes; 0: none."""

    @property
    def hops(self) -> int | None:
        """How many hops away nodes have a part in a node's output; None: unknown, so all may."""

    @property
    def symmetries(self) -> Symmetries | None:
        """What alignment may permute; None: nothing is known of it."""

    @property
    def integers(self) -> frozenset[str]:
        """Entries of a state that are whole numbers: no mixture has shares of them, and groups leave them out."""

    @property
    def ties(self) -> Mapping[str, str]:
        """Other names that the module has for entries of a state, with their names in it."""

    @property
    def parameters(self) -> frozenset[str]:
        """Entries of a state that are trained."""

    @property
    def statistics(self) -> frozenset[str]:
        """Entries of a state that are running statistics, which a mixture has of its own."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every entry of a state, in order."""

    def groups(self, by: Grouping) -> dict[str, tuple[str, ...]]:
        """Names of the entries that share one alpha vector, by group."""

    def init_state(self, seed: int) -> State:
        """An initial state: a pure function of the model and `seed`."""

    def forward(
        self, state: Mapping[str, Tensor], graph: Subgraph, dropout: Dropout | None = None, mode: Mode = "evaluate"
    ) -> Tensor:
        """Outputs of every node of `graph`, (V, C); with `dropout`, as in training.

        mode: "train" and "fit" normalise by the batch's own statistics, and "train" brings those of `state` up to date.
        """

    def recompute(self, state: Mapping[str, Tensor], graphs: Iterator[Subgraph]) -> State:
        """The state with its running statistics recomputed over all nodes of the graphs."""

    def find_far_reach(self) -> str:
        """Why a node's output cannot be computed from the nodes within `hops` of it, in words; "" where it can."""

    def complete(self, state: State) -> State:
        """The state as `to_module` wants it."""

    def to_module(self) -> nn.Module:
        """The same model as a torch module, which a state loads into with strict=True."""

    def describe_module(self) -> tuple[str, dict[str, Any]]:
        """`package.module:name` of what makes that module, and its arguments."""

    @property
    def takes(self) -> str:
        """What that module is called with beside features: edge_index, or sparse."""

    def record(self) -> dict[str, Any]:
        """What files keep of it, from which it is made again."""


def show_kind(model: Model) -> str:
    """What a model is to engines, in words: "kind 'gcn' with weights of edges"."""
    values = [what for what, taken in (("weights", model.weighted), ("features", model.edge_features)) if taken]
    also = f" with {' and '.join(values)} of edges" if values else ""
    return f"kind {model.kind!r}{also}"


@runtime_checkable
class LayeredModel(Model, Protocol):
    """A model whose layers can be computed one after the other, each on the rows that the next one needs."""

    @property
    def layers(self) -> int:
        """L."""

    @property
    def aggregation(self) -> Aggregation | None:
        """What the first layer's first product is, where no weight has a part in it."""

    @property
    def entry_values(self) -> int:
        """Numbers an entry of the structure that a layer computes and autograd keeps."""

    def widths(self, layer: int) -> tuple[int, int]:
        """Channels that go into and come out of a layer."""

    def layer(
        self, state: Mapping[str, Tensor], layer: int, x: Tensor, graph: Subgraph, dropout: Dropout | None = None
    ) -> Tensor:
        """What one layer makes of the columns' states x (U, C): the rows' next ones, (V, C')."""
