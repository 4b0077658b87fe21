"""What a model computes on: a whole graph, the subgraph of a union of parts or of a sample, or a block of rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import scipy.sparse as sp
import torch
from torch import Tensor

from gnnsoup_hpc.graph.sparse import Adjacency
from gnnsoup_hpc.utils.out_of_core import BufferPool

# ---- aggregation
# Sums over neighbours with fixed weights: what the first layer of some models computes once for all weights.


@dataclass(frozen=True)
class Aggregation:
    """A product of the graph's structure with features that no weight has a part in.

    name: as files call it. loops: whether a node is its own neighbour too. symmetric: entries are scaled by
    1 / sqrt(degree) of both ends, else by 1 / degree of the row. beside_own: the layer takes the node's own features
    too.
    """

    name: str
    long_name: str
    loops: bool
    symmetric: bool
    beside_own: bool


MEAN = Aggregation("sage", "mean of the in-neighbours' features", loops=False, symmetric=False, beside_own=True)
NORMALISED_SUM = Aggregation("gcn", "GCN's normalised sum of features", loops=True, symmetric=True, beside_own=False)


@dataclass(frozen=True)
class Subgraph:
    """Features and structure. Shapes: features (U, F) float32, adjacency (V, U); V = U but in a block of rows.

    features: a tensor, or a SciPy CSR matrix of those that are not zero, whose `x` is made when it is asked for.

    The first hop of GCN and GraphSAGE does not depend on any weight, so it is computed once a subgraph, unless `hop`
    (V, F) says what it is on a graph that this is a part of; x may then be without columns where it has no other use.
    What is derived takes its memory from `pool`, if there is one.
    """

    features: Tensor | sp.csr_matrix
    adjacency: Adjacency
    hop: Tensor | None = None
    pool: BufferPool | None = None

    @cached_property
    def x(self) -> Tensor:
        """Features with their zeros, (U, F)."""
        return self.features if isinstance(self.features, Tensor) else torch.from_numpy(self.features.toarray())

    @property
    def device(self) -> torch.device:
        """Where it lies."""
        return self.adjacency.indptr.device

    @cached_property
    def mean_x(self) -> Tensor:
        """Mean of the in-neighbours' features, (V, F)."""
        return self.adjacency.mean @ self.x if self.hop is None else self.hop

    @cached_property
    def gcn_x(self) -> Tensor:
        """GCN's normalised sum of features, (V, F)."""
        return self.adjacency.gcn @ self.x if self.hop is None else self.hop

    def to(self, device: torch.device) -> Subgraph:
        """The same on `device`, from pinned memory where that device is a GPU."""
        if self.device == device:
            return self

        def move(x: Tensor) -> Tensor:
            return (x.pin_memory() if device.type == "cuda" else x).to(device, non_blocking=True)

        return Subgraph(move(self.x), self.adjacency.to(device), None if self.hop is None else move(self.hop))


@dataclass(frozen=True)
class Batch:
    """A subgraph, its seed nodes, which a loss or a metric is of, and their targets alone.

    Shapes: seeds (n,) int64 in [0, V), rising; targets (n,) int64, or (n, T) floating.
    """

    graph: Subgraph
    seeds: Tensor
    targets: Tensor

    @property
    def size(self) -> int:
        """Nodes of the subgraph."""
        return self.graph.adjacency.nodes

    def to(self, device: torch.device) -> Batch:
        """The same on `device`."""
        return Batch(self.graph.to(device), self.seeds.to(device), self.targets.to(device))
