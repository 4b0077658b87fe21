"""The model of tuned-gcn.toml: a GCN with batch norm, residuals and a linear head.

As in Luo et al., Classic GNNs are Strong Baselines, NeurIPS 2024, arXiv 2406.08993, section 3.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional
from torch_geometric.nn import GCNConv


class TunedGcn(nn.Module):
    """Shapes: x (V, in_channels), edge_index (2, E), scores (V, out_channels)."""

    def __init__(self, in_channels: int, hidden: int, out_channels: int, layers: int, dropout: float) -> None:
        super().__init__()
        widths = [in_channels, *[hidden] * layers]
        pairs = list(pairwise(widths))
        self.convs = nn.ModuleList(GCNConv(into, out) for into, out in pairs)
        self.skips = nn.ModuleList(nn.Linear(into, out) for into, out in pairs)
        self.norms = nn.ModuleList(nn.BatchNorm1d(hidden) for _ in pairs)
        self.head, self.dropout = nn.Linear(hidden, out_channels), dropout

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Each layer: convolution plus residual, batch norm, ReLU, dropout."""
        for conv, skip, norm in zip(self.convs, self.skips, self.norms, strict=True):
            x = norm(conv(x, edge_index) + skip(x)).relu()
            x = functional.dropout(x, self.dropout, self.training)
        scores: Tensor = self.head(x)
        return scores


def make(in_channels: int, out_channels: int, hidden: int, layers: int, dropout: float) -> nn.Module:
    """What gnnsoup_hpc calls, with the job's [model.arguments]."""
    return TunedGcn(in_channels, hidden, out_channels, layers, dropout)
