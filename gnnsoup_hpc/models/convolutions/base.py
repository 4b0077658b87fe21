"""What a kind of graph convolution is. A model is a stack of them, with norm, ReLU and dropout between."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from gnnsoup_hpc.graph.subgraph import Aggregation, Subgraph
from gnnsoup_hpc.models.base import Dropout


@dataclass(frozen=True)
class LayerShape:
    """One layer of a stack: its number, channels in and out, heads, and whether it is the last."""

    number: int
    into: int
    out: int
    heads: int
    last: bool

    @property
    def first(self) -> bool:
        """Whether it takes the features."""
        return self.number == 0


class Convolution(ABC):
    """One kind of convolution. Its parameters are named, shaped and laid out as in torch_geometric.nn.

    module: name of the class of torch_geometric.nn that stacks it, "" where there is none. takes_norm: whether that
    class has a norm after each hidden layer. aggregation: what the first layer sums up with fixed weights, if it is one
    that engine/frontier.py has a kernel for. has_heads: whether `model.heads` says something. entry_values: numbers a
    head and entry that autograd keeps. takes_weights: whether it makes use of weights of edges;
    weighs_as_module: and so does that class. permutable: whether rows and columns of matrices named "...weight" carry
    the units of this layer and of the one before, and everything else is a vector of this layer's units, so that
    alignment may permute them; never where a layer has units within, as an MLP does.
    """

    module: ClassVar[str] = ""
    takes_norm: ClassVar[bool] = True
    aggregation: ClassVar[Aggregation | None] = None
    has_heads: ClassVar[bool] = False
    entry_values: ClassVar[int] = 0
    takes_weights: ClassVar[bool] = False
    weighs_as_module: ClassVar[bool] = False
    permutable: ClassVar[bool] = False

    @abstractmethod
    def parameters(self, shape: LayerShape) -> dict[str, tuple[int, ...]]:
        """Names and shapes of a layer's parameters, in PyG's order.

        They start at 0 where a name ends in "bias" or the shape has fewer than two sizes, else by Glorot's draw.
        """

    @abstractmethod
    def forward(
        self, shape: LayerShape, state: Mapping[str, Tensor], x_UC: Tensor, graph: Subgraph, dropout: Dropout | None
    ) -> Tensor:
        """What a layer makes of the columns' states, of graph.x in the first layer: the rows' next ones, (V, C').

        graph.adjacency multiplies (`mean @ x`, `gcn @ x`) and picks the rows' own states (`own(x)`); of the features
        these products are `graph.mean_x` and `graph.gcn_x`. graph/sparse.py has softmax and weighted sums over entries.
        """
