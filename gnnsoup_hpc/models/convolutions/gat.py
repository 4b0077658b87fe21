"""GAT (Velickovic et al., ICLR 2018, arXiv 1710.10903)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional

from gnnsoup_hpc.graph import sparse
from gnnsoup_hpc.graph.subgraph import Subgraph
from gnnsoup_hpc.models.base import Dropout
from gnnsoup_hpc.models.convolutions.base import Convolution, LayerShape

NEGATIVE_SLOPE = 0.2  # of LeakyReLU, arXiv 1710.10903


class Gat(Convolution):
    """Attention over in-neighbours and the node itself; heads are concatenated, in the last layer averaged.

    Source: arXiv 1710.10903, equations 1 to 6.
    """

    has_heads = True
    entry_values = 15
    permutable = True
    module = "GAT"

    def parameters(self, shape: LayerShape) -> dict[str, tuple[int, ...]]:
        """Attention vectors, bias, weight."""
        channels = shape.out if shape.last else shape.out // shape.heads
        attention = (1, shape.heads, channels)
        weight = (shape.heads * channels, shape.into)
        return {"att_src": attention, "att_dst": attention, "bias": (shape.out,), "lin.weight": weight}

    def forward(
        self, shape: LayerShape, state: Mapping[str, Tensor], x_UC: Tensor, graph: Subgraph, dropout: Dropout | None
    ) -> Tensor:
        """Dropout, where there is any, is of the attention weights."""
        adjacency = graph.adjacency.with_self_loops
        x_UHC = functional.linear(x_UC, state["lin.weight"]).view(len(x_UC), shape.heads, -1)
        source, destination = (x_UHC * state["att_src"]).sum(-1), (x_UHC * state["att_dst"]).sum(-1)
        scores = sparse.edge_scores(adjacency, source, adjacency.own(destination))
        weights = sparse.edge_softmax(adjacency, functional.leaky_relu(scores, NEGATIVE_SLOPE))
        out = sparse.weighted_sum(adjacency, dropout(weights, shape.number, adjacency) if dropout else weights, x_UHC)
        return (out.mean(1) if shape.last else out.flatten(1)) + state["bias"]
