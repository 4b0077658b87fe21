"""GraphSAGE with mean aggregation (Hamilton, Ying and Leskovec, NeurIPS 2017, arXiv 1706.02216)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional

from gnnsoup_hpc.graph.subgraph import MEAN, Subgraph
from gnnsoup_hpc.models.base import Dropout
from gnnsoup_hpc.models.convolutions.base import Convolution, LayerShape


class Sage(Convolution):
    """mean(x) L^T + b + x R^T. Source: arXiv 1706.02216, algorithm 1."""

    aggregation = MEAN
    takes_weights = True
    permutable = True
    module = "GraphSAGE"

    def parameters(self, shape: LayerShape) -> dict[str, tuple[int, ...]]:
        """Of neighbours, bias, of the node itself."""
        matrix = (shape.out, shape.into)
        return {"lin_l.weight": matrix, "lin_l.bias": (shape.out,), "lin_r.weight": matrix}

    def forward(
        self, shape: LayerShape, state: Mapping[str, Tensor], x_UC: Tensor, graph: Subgraph, dropout: Dropout | None
    ) -> Tensor:
        """In the cheaper order; the first mean(x) is the subgraph's own."""
        left, bias, right = state["lin_l.weight"], state["lin_l.bias"], state["lin_r.weight"]
        if shape.first:
            neighbours = functional.linear(graph.mean_x, left, bias)
        elif shape.out < shape.into:
            neighbours = graph.adjacency.mean @ functional.linear(x_UC, left) + bias
        else:
            neighbours = functional.linear(graph.adjacency.mean @ x_UC, left, bias)
        return neighbours + functional.linear(graph.adjacency.own(x_UC), right)
