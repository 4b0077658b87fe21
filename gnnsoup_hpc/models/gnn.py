"""Stacks of graph convolutions as functions of their parameters.

Parameters are named, shaped and laid out as in `torch_geometric.nn`, so state dicts interchange with `strict=True`;
`to_module` makes that module. A hidden layer is: convolution, layer norm where asked, ReLU, dropout.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from gnnsoup_hpc.errors import RunError
from gnnsoup_hpc.graph.subgraph import Aggregation, Subgraph
from gnnsoup_hpc.models.base import Carrier, Dropout, Layout, Symmetries
from gnnsoup_hpc.models.convolutions import find_convolution
from gnnsoup_hpc.models.convolutions.base import Convolution, LayerShape
from gnnsoup_hpc.types import Grouping, Mode, State

_Values = TypeVar("_Values")  # arrays or tensors
EPS = 1e-5  # of layer norm, as in PyG's `mode="node"`


@dataclass(frozen=True)
class Architecture:
    """A stack of one kind of convolution, which all ingredients share; a `LayeredModel`.

    weighted: whether its graph's edges have weights, which it takes.
    """

    kind: str
    layers: int
    features: int
    hidden: int
    classes: int
    heads: int = 1
    norm: str = "none"
    weighted: bool = False

    @property
    def convolution(self) -> Convolution:
        """That of every layer."""
        return find_convolution(self.kind)

    @property
    def outputs(self) -> int:
        """C."""
        return self.classes

    @property
    def edge_features(self) -> int:
        """None: where edges have some, PyG's class computes."""
        return 0

    @property
    def hops(self) -> int:
        """One a layer."""
        return self.layers

    @property
    def aggregation(self) -> Aggregation | None:
        """What the first layer sums up, where no weight has a part in it."""
        return self.convolution.aggregation

    @property
    def entry_values(self) -> int:
        """Numbers an entry that a layer's attention computes; 0 where there is none."""
        return self.convolution.entry_values * self.heads

    def widths(self, layer: int) -> tuple[int, int]:
        """Channels that go into and come out of a layer."""
        into = self.features if layer == 0 else self.hidden
        return into, self.classes if layer == self.layers - 1 else self.hidden

    def shape_of(self, layer: int) -> LayerShape:
        """What a convolution must know of a layer."""
        return LayerShape(layer, *self.widths(layer), self.heads, layer == self.layers - 1)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every parameter's name and shape, in PyG's order."""
        shapes: dict[str, tuple[int, ...]] = {}
        for layer in range(self.layers):
            own = self.convolution.parameters(self.shape_of(layer))
            shapes |= {f"convs.{layer}.{name}": shape for name, shape in own.items()}
        if self.norm == "layer":
            for layer in range(self.layers - 1):
                shapes |= {f"norms.{layer}.weight": (self.hidden,), f"norms.{layer}.bias": (self.hidden,)}
        return shapes

    @property
    def takes(self) -> str:
        """Edges."""
        return "edge_index"

    @property
    def integers(self) -> frozenset[str]:
        """None."""
        return frozenset()

    @property
    def ties(self) -> dict[str, str]:
        """None."""
        return {}

    @property
    def parameters(self) -> frozenset[str]:
        """All of a state."""
        return frozenset(self.shapes())

    @property
    def statistics(self) -> frozenset[str]:
        """None."""
        return frozenset()

    def groups(self, by: Grouping) -> dict[str, tuple[str, ...]]:
        """Names of the parameters that share one alpha vector, by layer (norms with their layer), tensor or model."""
        names = tuple(self.shapes())
        if by == "model":
            return {"model": names}
        if by == "tensor":
            return {name: (name,) for name in names}
        return {
            f"layer {layer}": tuple(name for name in names if layer_of(name) == layer) for layer in range(self.layers)
        }

    def init_state(self, seed: int) -> State:
        """Glorot-uniform weights, zero biases, unit norms: a pure function of the architecture and `seed`."""
        generator = torch.Generator().manual_seed(seed)
        return {name: _initialise(name, shape, generator) for name, shape in self.shapes().items()}

    def forward(
        self, state: Mapping[str, Tensor], graph: Subgraph, dropout: Dropout | None = None, mode: Mode = "evaluate"
    ) -> Tensor:
        """Outputs of every node of `graph`, shape (V, C); with `dropout`, as in training."""
        x = graph.x
        for layer in range(self.layers):
            x = self.layer(state, layer, x, graph, dropout)
        return x

    def layer(
        self, state: Mapping[str, Tensor], layer: int, x: Tensor, graph: Subgraph, dropout: Dropout | None = None
    ) -> Tensor:
        """What one layer makes of the columns' states x (U, C): the rows' next ones, (V, C')."""
        prefix = f"convs.{layer}."
        own = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        x = self.convolution.forward(self.shape_of(layer), own, x, graph, dropout)
        if layer == self.layers - 1:
            return x
        if self.norm == "layer":
            weight, bias = state[f"norms.{layer}.weight"], state[f"norms.{layer}.bias"]
            x = functional.layer_norm(x, x.shape[-1:], weight, bias, EPS)
        x = functional.relu(x)
        return dropout(x, layer) if dropout else x

    def recompute(self, state: Mapping[str, Tensor], graphs: Iterator[Subgraph]) -> State:
        """As it is."""
        return dict(state)

    def find_far_reach(self) -> str:
        """It can."""
        return ""

    def complete(self, state: State) -> State:
        """As it is."""
        return state

    def to_module(self) -> nn.Module:
        """The same architecture as a torch_geometric.nn module, which a state of ours loads into with strict=True.

        Raises: RunError where that has no class of this kind.
        """
        name, arguments = self.describe_module()
        from torch_geometric import nn as modules

        kind: type[nn.Module] = getattr(modules, name.partition(":")[2])
        return kind(**arguments)

    def describe_module(self) -> tuple[str, dict[str, Any]]:
        """`torch_geometric.nn:name` of PyG's class, and its arguments. Raises: RunError where there is none."""
        if not self.convolution.module:
            raise RunError(f"torch_geometric.nn has no class of models of kind {self.kind!r}")
        if self.weighted and not self.convolution.weighs_as_module:
            raise RunError(f"torch_geometric.nn.{self.convolution.module} takes no weights of edges; this model does")
        sizes = {"in_channels": self.features, "hidden_channels": self.hidden, "num_layers": self.layers}
        norm = {"norm": "layer_norm", "norm_kwargs": {"mode": "node"}} if self.norm == "layer" else {}
        heads = {"heads": self.heads} if self.convolution.has_heads else {}
        return f"torch_geometric.nn:{self.convolution.module}", {**sizes, "out_channels": self.classes, **norm, **heads}

    @property
    def symmetries(self) -> Symmetries | None:
        """Each hidden layer's units, in groups of a head's; the last layer's heads, which are averaged."""
        if not self.convolution.permutable:
            return None
        groups = self.heads if self.convolution.has_heads else 1
        last = self.layers - 1
        hidden = [f"layer {layer}" for layer in range(last)]
        heads = f"layer {last} heads" if self.heads > 1 else None
        layouts = {name: Layout(groups, self.hidden // groups) for name in hidden}
        layouts |= {heads: Layout(self.heads, 1)} if heads else {}
        matrices = frozenset(name for name in self.shapes() if name.startswith("convs.") and name.endswith("weight"))
        carriers = []
        for name in self.shapes():
            layer = layer_of(name)
            out = None if name.endswith("bias") else heads  # the last bias is added to the heads' mean
            rows = hidden[layer] if layer < last else out
            columns = hidden[layer - 1] if name in matrices and layer > 0 else None
            if rows or columns:
                carriers.append(Carrier(name, rows, columns))
        return Symmetries(layouts, tuple(carriers), matrices)

    def record(self) -> dict[str, Any]:
        """Its fields; `weighted` where it is so, for older files lack it."""
        return {name: value for name, value in asdict(self).items() if (name, value) != ("weighted", False)}


def layer_of(name: str) -> int:
    """The layer of a parameter; a norm belongs to the layer before it."""
    return int(name.split(".")[1])


def find_norm(state: Mapping[str, _Values], layer: int) -> tuple[_Values, _Values] | tuple[()]:
    """Weight and shift of the layer norm after a layer, (C,) each; nothing where there is none."""
    weight, shift = f"norms.{layer}.weight", f"norms.{layer}.bias"
    return (state[weight], state[shift]) if weight in state else ()


def name_bias(net: Architecture, layer: int) -> str:
    """Name of the bias of a layer of GCN or GraphSAGE."""
    return f"convs.{layer}.{'lin_l.bias' if net.kind == 'sage' else 'bias'}"


def name_weights(net: Architecture, layer: int) -> list[str]:
    """Names of its weights: of what is aggregated and, in GraphSAGE, of the node's own."""
    names = ["lin_l.weight", "lin_r.weight"] if net.kind == "sage" else ["lin.weight"]
    return [f"convs.{layer}.{name}" for name in names]


def _initialise(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if name.startswith("norms.") and name.endswith("weight"):
        return torch.ones(shape)
    if name.endswith("bias") or len(shape) < 2:
        return torch.zeros(shape)
    bound = (6.0 / (shape[-1] + shape[-2])) ** 0.5
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)
