"""GIN (Xu et al., How Powerful are Graph Neural Networks?, ICLR 2019, arXiv 1810.00826), as somebody would add it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional

from gnnsoup_hpc.graph.sparse import Operator
from gnnsoup_hpc.graph.subgraph import Subgraph
from gnnsoup_hpc.models.base import Dropout
from gnnsoup_hpc.models.convolutions.base import Convolution, LayerShape


class Gin(Convolution):
    """MLP((1 + eps) x + sum of x over in-neighbours). Source: arXiv 1810.00826, equation 4.1."""

    module = "GIN"
    takes_norm = False  # PyG's has it within the MLP

    def parameters(self, shape: LayerShape) -> dict[str, tuple[int, ...]]:
        """Eps, and two linear layers."""
        first = {"eps": (1,), "nn.lins.0.weight": (shape.out, shape.into), "nn.lins.0.bias": (shape.out,)}
        return first | {"nn.lins.1.weight": (shape.out, shape.out), "nn.lins.1.bias": (shape.out,)}

    def forward(
        self, shape: LayerShape, state: Mapping[str, Tensor], x_UC: Tensor, graph: Subgraph, dropout: Dropout | None
    ) -> Tensor:
        """Sums of neighbours, then the MLP."""
        ones = x_UC.new_ones(len(graph.adjacency.indices))
        total = (1.0 + state["eps"]) * graph.adjacency.own(x_UC) + Operator(graph.adjacency, ones) @ x_UC
        hidden = functional.relu(functional.linear(total, state["nn.lins.0.weight"], state["nn.lins.0.bias"]))
        return functional.linear(hidden, state["nn.lins.1.weight"], state["nn.lins.1.bias"])
