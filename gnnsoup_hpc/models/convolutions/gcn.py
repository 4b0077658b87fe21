"""GCN (Kipf and Welling, ICLR 2017, arXiv 1609.02907)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional

from gnnsoup_hpc.graph.subgraph import NORMALISED_SUM, Subgraph
from gnnsoup_hpc.models.base import Dropout
from gnnsoup_hpc.models.convolutions.base import Convolution, LayerShape


class Gcn(Convolution):
    """A_norm x W^T + b. Source: arXiv 1609.02907, equation 2."""

    aggregation = NORMALISED_SUM
    takes_weights = True
    weighs_as_module = True
    permutable = True
    module = "GCN"

    def parameters(self, shape: LayerShape) -> dict[str, tuple[int, ...]]:
        """Bias and weight."""
        return {"bias": (shape.out,), "lin.weight": (shape.out, shape.into)}

    def forward(
        self, shape: LayerShape, state: Mapping[str, Tensor], x_UC: Tensor, graph: Subgraph, dropout: Dropout | None
    ) -> Tensor:
        """In the cheaper order; the first A_norm x is the subgraph's own."""
        weight, bias = state["lin.weight"], state["bias"]
        if shape.first:
            return functional.linear(graph.gcn_x, weight, bias)
        if shape.out < shape.into:
            return graph.adjacency.gcn @ functional.linear(x_UC, weight) + bias
        return functional.linear(graph.adjacency.gcn @ x_UC, weight, bias)
