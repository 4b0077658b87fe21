"""Modules as users write them, for tests of kind = "module"."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_geometric.nn import GCNConv, GraphNorm


class Tuned(nn.Module):
    """A GCN with batch norm, residuals and a linear head."""

    def __init__(self, into: int, hidden: int, out: int, layers: int, rate: float) -> None:
        super().__init__()
        self.first, self.head, self.rate = nn.Linear(into, hidden), nn.Linear(hidden, out), rate
        self.convs = nn.ModuleList(GCNConv(hidden, hidden) for _ in range(layers))
        self.skips = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(layers))
        self.norms = nn.ModuleList(nn.BatchNorm1d(hidden) for _ in range(layers))

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Scores."""
        x = self.first(x)
        for conv, skip, norm in zip(self.convs, self.skips, self.norms, strict=True):
            x = functional.dropout(norm(conv(x, edge_index) + skip(x)).relu(), self.rate, self.training)
        out: Tensor = self.head(x)
        return out


def make(in_channels: int, out_channels: int, hidden: int = 8, layers: int = 2, rate: float = 0.3) -> nn.Module:
    """That of a job."""
    return Tuned(in_channels, hidden, out_channels, layers, rate)


class OffsetByDegree(nn.Module):
    """A linear layer, and an offset of scores for each in-degree that the graph has."""

    def __init__(self, in_channels: int, out_channels: int, deg: Tensor) -> None:
        super().__init__()
        self.linear, self.offset = (
            nn.Linear(in_channels, out_channels),
            nn.Parameter(torch.zeros(len(deg), out_channels)),
        )

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Scores."""
        degree = torch.bincount(edge_index[1], minlength=len(x)).clamp(max=len(self.offset) - 1)
        out: Tensor = self.linear(x) + self.offset[degree]
        return out


class Tied(nn.Module):
    """Two layers that share a weight, a frozen parameter, a buffer, and one that is in no state."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(in_channels, in_channels), nn.Linear(in_channels, in_channels)
        self.second.weight = self.first.weight
        self.head = nn.Linear(in_channels, out_channels)
        self.shift = nn.Parameter(torch.ones(in_channels), requires_grad=False)
        self.register_buffer("scale", torch.full((1,), 0.5))
        self.register_buffer("away", torch.ones(1), persistent=False)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Scores; edges have no part in them."""
        hidden = self.second(self.first(x + self.shift).relu()) * self.scale * self.away
        out: Tensor = self.head(hidden)
        return out


class Twice(nn.Module):
    """Has two of its parts by two names each."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.first, self.norm = GCNConv(in_channels, in_channels), nn.BatchNorm1d(in_channels)
        self.again, self.other_norm = self.first, self.norm
        self.head = nn.Linear(in_channels, out_channels)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Scores, by the same layer twice."""
        x = self.norm(self.first(x, edge_index)).relu()
        out: Tensor = self.head(self.other_norm(self.again(x, edge_index)))
        return out


class Unsteady(nn.Module):
    """Drops at random in evaluation too."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.head = nn.Linear(in_channels, out_channels)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Scores."""
        out: Tensor = self.head(functional.dropout(x, 0.5))
        return out


class Lazy(nn.Module):
    """Learns its number of features from the first that it sees; takes a sparse matrix."""

    def __init__(self, out_channels: int, **options: Any) -> None:
        super().__init__()
        self.head = nn.LazyLinear(out_channels)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        """Scores of sums over neighbours."""
        out: Tensor = self.head(adjacency @ x)
        return out


class Whole(nn.Module):
    """Normalises over all nodes."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv, self.norm, self.head = GCNConv(in_channels, 4), GraphNorm(4), nn.Linear(4, out_channels)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Scores."""
        out: Tensor = self.head(self.norm(self.conv(x, edge_index)))
        return out


class Pairs(nn.Module):
    """Compares all nodes with all."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.head = nn.Linear(in_channels, out_channels)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Scores of means by likeness."""
        out: Tensor = self.head((x @ x.t()).softmax(1) @ x)
        return out


def make_cached(in_channels: int, out_channels: int) -> nn.Module:
    """Keeps the first graph."""
    return GCNConv(in_channels, out_channels, cached=True)


def make_pairs(in_channels: int, out_channels: int) -> nn.Module:
    """Gives a pair."""

    class Two(nn.Linear):
        def forward(self, x: Tensor, edge_index: Tensor) -> Any:
            return x, x

    return Two(in_channels, out_channels)


def make_wide(in_channels: int, out_channels: int) -> nn.Module:
    """One output too many."""
    return GCNConv(in_channels, out_channels + 1)


def make_narrow(in_channels: int, out_channels: int) -> nn.Module:
    """Takes other features."""
    return GCNConv(in_channels + 1, out_channels)


def make_complex(in_channels: int, out_channels: int) -> nn.Module:
    """Has a state of complex numbers."""
    module = GCNConv(in_channels, out_channels)
    module.register_buffer("phase", torch.ones(1, dtype=torch.complex64))
    return module


def make_text(in_channels: int, out_channels: int) -> str:
    """No module."""
    return "a module"


def fail(in_channels: int, out_channels: int) -> nn.Module:
    """Raises."""
    raise RuntimeError("of the user's own\nin two lines")


def fail_without_words(in_channels: int, out_channels: int) -> nn.Module:
    """Raises."""
    assert in_channels < 0
    return nn.Linear(in_channels, out_channels)


NUMBER = 3
