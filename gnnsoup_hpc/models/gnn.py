"""GCN, GraphSAGE and GAT as functions of their parameters.

Parameters are named, shaped and laid out as in `torch_geometric.nn.{GCN,GraphSAGE,GAT}`, so state dicts interchange
with `strict=True`; `as_pyg` makes that module. A hidden layer is: convolution, layer norm where asked, ReLU, dropout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from gnnsoup_hpc.config import ModelJob
from gnnsoup_hpc.graph import sparse
from gnnsoup_hpc.graph.subgraph import Subgraph
from gnnsoup_hpc.types import Grouping, State

if TYPE_CHECKING:
    from torch_geometric.nn.models.basic_gnn import BasicGNN

NEGATIVE_SLOPE = 0.2  # of GAT's LeakyReLU, arXiv 1710.10903


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
class Architecture:
    """What all ingredients share. With F features and C classes, a state has the shapes that `shapes` lists."""

    kind: str
    layers: int
    features: int
    hidden: int
    classes: int
    heads: int = 1
    norm: str = "none"

    @classmethod
    def of(cls, job: ModelJob, features: int, classes: int) -> Architecture:
        """The job's architecture for a graph with that many features and classes."""
        return cls(job.kind, job.layers, features, job.hidden, classes, job.heads, job.norm)

    def widths(self, layer: int) -> tuple[int, int]:
        """Channels that go into and come out of a layer."""
        into = self.features if layer == 0 else self.hidden
        return into, self.classes if layer == self.layers - 1 else self.hidden

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every parameter's name and shape, in PyG's order."""
        shapes: dict[str, tuple[int, ...]] = {}
        for layer in range(self.layers):
            shapes |= {f"convs.{layer}.{name}": shape for name, shape in self._convolution(layer).items()}
        if self.norm == "layer":
            for layer in range(self.layers - 1):
                shapes |= {f"norms.{layer}.weight": (self.hidden,), f"norms.{layer}.bias": (self.hidden,)}
        return shapes

    def _convolution(self, layer: int) -> dict[str, tuple[int, ...]]:
        into, out = self.widths(layer)
        if self.kind == "gcn":
            return {"bias": (out,), "lin.weight": (out, into)}
        if self.kind == "sage":
            return {"lin_l.weight": (out, into), "lin_l.bias": (out,), "lin_r.weight": (out, into)}
        channels = out if layer == self.layers - 1 else out // self.heads
        attention = (1, self.heads, channels)
        return {"att_src": attention, "att_dst": attention, "bias": (out,), "lin.weight": (self.heads * channels, into)}

    def groups(self, by: Grouping) -> dict[str, tuple[str, ...]]:
        """Names of the parameters that share one alpha vector, by layer (norms with their layer), tensor or model."""
        names = tuple(self.shapes())
        if by == "model":
            return {"model": names}
        if by == "tensor":
            return {name: (name,) for name in names}
        return {
            f"layer {layer}": tuple(name for name in names if name.split(".")[1] == str(layer))
            for layer in range(self.layers)
        }

    def initial_state(self, seed: int) -> State:
        """Glorot-uniform weights, zero biases, unit norms: a pure function of the architecture and `seed`."""
        generator = torch.Generator().manual_seed(seed)
        return {name: _initial(name, shape, generator) for name, shape in self.shapes().items()}

    def logits(self, state: Mapping[str, Tensor], graph: Subgraph, drop: Dropout | None = None) -> Tensor:
        """Class scores of every node of `graph`, shape (V, C); with `drop`, as in training."""
        x = graph.x
        for layer in range(self.layers):
            x = self.layer(state, layer, x, graph, drop)
        return x

    def layer(
        self, state: Mapping[str, Tensor], layer: int, x_UC: Tensor, graph: Subgraph, drop: Dropout | None = None
    ) -> Tensor:
        """What one layer makes of the columns' states: the rows' next ones, (V, C'). The first layer takes graph.x."""
        layer_of = {"gcn": _gcn, "sage": _sage, "gat": _gat}[self.kind]
        own = {name.removeprefix(f"convs.{layer}."): t for name, t in state.items() if f"convs.{layer}." in name}
        x = layer_of(self, layer, own, x_UC, graph, drop)
        if layer == self.layers - 1:
            return x
        if self.norm == "layer":
            x = _layer_norm(x, state[f"norms.{layer}.weight"], state[f"norms.{layer}.bias"])
        x = functional.relu(x)
        return drop(x) if drop else x

    def as_pyg(self) -> BasicGNN:
        """The same architecture as a torch_geometric.nn module, which a state of ours loads into with strict=True."""
        from torch_geometric import nn

        norm = {"norm": "layer_norm", "norm_kwargs": {"mode": "node"}} if self.norm == "layer" else {}
        heads = {"heads": self.heads} if self.kind == "gat" else {}
        module = {"gcn": nn.GCN, "sage": nn.GraphSAGE, "gat": nn.GAT}[self.kind]
        return module(self.features, self.hidden, self.layers, self.classes, **norm, **heads)


def _initial(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if name.startswith("norms.") and name.endswith("weight"):
        return torch.ones(shape)
    if name.endswith("bias"):
        return torch.zeros(shape)
    bound = (6.0 / (shape[-1] + shape[-2])) ** 0.5
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)


def _layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Layer norm over channels; the variance is biased and eps is 1e-5, as in PyG's `mode="node"`."""
    return functional.layer_norm(x, x.shape[-1:], weight, bias, 1e-5)


def _gcn(
    net: Architecture, layer: int, own: Mapping[str, Tensor], x: Tensor, graph: Subgraph, drop: Dropout | None
) -> Tensor:
    """A_norm x W^T + b, in the cheaper order; the first A_norm x is the subgraph's own."""
    weight, bias = own["lin.weight"], own["bias"]
    into, out = net.widths(layer)
    if layer == 0:
        return functional.linear(graph.gcn_x, weight, bias)
    if out < into:
        return graph.adjacency.gcn @ functional.linear(x, weight) + bias
    return functional.linear(graph.adjacency.gcn @ x, weight, bias)


def _sage(
    net: Architecture, layer: int, own: Mapping[str, Tensor], x: Tensor, graph: Subgraph, drop: Dropout | None
) -> Tensor:
    """mean(x) L^T + b + x R^T, in the cheaper order; the first mean(x) is the subgraph's own."""
    left, bias, right = own["lin_l.weight"], own["lin_l.bias"], own["lin_r.weight"]
    into, out = net.widths(layer)
    if layer == 0:
        neighbours = functional.linear(graph.mean_x, left, bias)
    elif out < into:
        neighbours = graph.adjacency.mean @ functional.linear(x, left) + bias
    else:
        neighbours = functional.linear(graph.adjacency.mean @ x, left, bias)
    return neighbours + functional.linear(graph.adjacency.own(x), right)


def _gat(
    net: Architecture, layer: int, own: Mapping[str, Tensor], x: Tensor, graph: Subgraph, drop: Dropout | None
) -> Tensor:
    """Attention over in-neighbours and the node itself; heads are concatenated, in the last layer averaged."""
    adjacency = graph.adjacency.looped
    x_VHC = functional.linear(x, own["lin.weight"]).view(len(x), net.heads, -1)
    source, destination = (x_VHC * own["att_src"]).sum(-1), (x_VHC * own["att_dst"]).sum(-1)
    scores = sparse.edge_scores(adjacency, source, adjacency.own(destination))
    weights = sparse.edge_softmax(adjacency, functional.leaky_relu(scores, NEGATIVE_SLOPE))
    out = sparse.weighted_sum(adjacency, drop(weights) if drop else weights, x_VHC)
    return (out.mean(1) if layer == net.layers - 1 else out.flatten(1)) + own["bias"]
