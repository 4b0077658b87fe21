"""What a model is to the rest of the package: a function of named parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from gnnsoup_hpc.graph.subgraph import Aggregation, Subgraph
from gnnsoup_hpc.types import Grouping, State


@dataclass(frozen=True)
class Dropout:
    """Dropout while training: rate, and the generator that its masks come from."""

    rate: float
    generator: torch.Generator

    def __call__(self, x: Tensor) -> Tensor:
        """`x` with a share `rate` of its elements zeroed and the others scaled up; `x` itself at rate 0."""
        if self.rate == 0.0:
            return x
        mask = torch.empty_like(x).bernoulli_(1.0 - self.rate, generator=self.generator)
        return x * mask.div_(1.0 - self.rate)


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
    def hops(self) -> int | None:
        """How many hops away nodes have a part in a node's output; None: unknown, so all may."""

    @property
    def symmetries(self) -> Symmetries | None:
        """What alignment may permute; None: nothing is known of it."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every parameter's name and shape, in order."""

    def groups(self, by: Grouping) -> dict[str, tuple[str, ...]]:
        """Names of the parameters that share one alpha vector, by group."""

    def init_state(self, seed: int) -> State:
        """An initial state: a pure function of the model and `seed`."""

    def forward(self, state: Mapping[str, Tensor], graph: Subgraph, dropout: Dropout | None = None) -> Tensor:
        """Outputs of every node of `graph`, (V, C); with `dropout`, as in training."""

    def to_module(self) -> nn.Module:
        """The same model as a torch module, which a state loads into with strict=True."""

    def record(self) -> dict[str, Any]:
        """What files keep of it, from which it is made again."""


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
