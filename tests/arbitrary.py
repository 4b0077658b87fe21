"""Arbitrary graphs for property tests, what they look like as dense matrices, and doubles of what is float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp
import torch
from hypothesis import strategies as st
from torch import Tensor

from gnnsoup_hpc.graph.graph import Graph
from gnnsoup_hpc.graph.sparse import Adjacency
from gnnsoup_hpc.graph.subgraph import Batch, Subgraph
from gnnsoup_hpc.models.base import Model
from gnnsoup_hpc.types import Role, State

SEEDS = st.integers(0, 2**16)


@dataclass(frozen=True)
class Structure:
    """A directed graph; `entries` are (destination, source) pairs, sorted and distinct."""

    nodes: int
    entries: tuple[tuple[int, int], ...]

    @property
    def csr(self) -> tuple[np.ndarray, np.ndarray]:
        """(indptr, indices), row = destination."""
        rows = np.array([row for row, _ in self.entries], dtype=np.int64)
        indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=self.nodes))])
        return indptr.astype(np.int64), np.array([column for _, column in self.entries], dtype=np.int64)

    @property
    def edge_index(self) -> Tensor:
        """(2, E): sources, destinations."""
        return torch.tensor(self.entries, dtype=torch.int64).reshape(-1, 2).flip(1).t()

    @property
    def dense(self) -> Tensor:
        """The (V, V) float64 matrix."""
        matrix = torch.zeros(self.nodes, self.nodes, dtype=torch.float64)
        matrix[self.edge_index[1], self.edge_index[0]] = 1.0
        return matrix

    def adjacency(self, kind: torch.dtype = torch.int32) -> Adjacency:
        """As our kernels take it."""
        indptr, indices = self.csr
        return Adjacency(torch.from_numpy(indptr).to(kind), torch.from_numpy(indices).to(kind))


def structure(nodes: int, entries: set[tuple[int, int]]) -> Structure:
    """The structure of a set of (destination, source) pairs."""
    return Structure(nodes, tuple(sorted(entries)))


def random_structure(nodes: int, entries: int, seed: int = 0) -> Structure:
    """A directed structure of about that many entries, self-loops among them, its last node without any edge."""
    ends = np.random.default_rng(seed).integers(0, nodes - 1, (entries, 2))
    return structure(nodes, {(0, 0), *map(tuple, ends.tolist())})


@st.composite
def structures(draw: st.DrawFn, max_nodes: int = 8) -> Structure:
    """Any directed graph: isolated nodes, self-loops, one node, no edges."""
    nodes = draw(st.integers(1, max_nodes))
    ends = st.integers(0, nodes - 1)
    return structure(nodes, draw(st.sets(st.tuples(ends, ends), max_size=3 * nodes)))


@st.composite
def graphs(draw: st.DrawFn, max_nodes: int = 14) -> Graph:
    """Any node-classification graph with a validation node; some nodes may have no label."""
    shape = draw(structures(max_nodes))
    roles = draw(st.lists(st.sampled_from(list(Role)), min_size=shape.nodes, max_size=shape.nodes))
    roles[draw(st.integers(0, shape.nodes - 1))] = Role.VALIDATION
    return graph(shape, roles, draw(SEEDS))


def graph(shape: Structure, roles: list[Role], seed: int = 0, classes: int = 3) -> Graph:
    """A graph of that structure and those roles; nodes without a role have no label, so that a leak is seen."""
    rng = np.random.default_rng(seed)
    role = np.array(roles, dtype=np.uint8)
    y = np.where(role == Role.NONE, -1, rng.integers(0, classes, shape.nodes)).astype(np.int64)
    x = rng.normal(size=(shape.nodes, 4)).astype(np.float32)
    return Graph(x, y, *shape.csr, role, classes, "arbitrary", "0" * 64)


def in_double(subgraph: Subgraph) -> Subgraph:
    """The same in float64, with all operators that are made of its structure."""
    hop = None if subgraph.hop is None else subgraph.hop.double()
    return Subgraph(subgraph.x.double(), make_double(subgraph.adjacency), hop)


def make_sparse(batch: Batch) -> Batch:
    """The same, of whose features most are zero, and kept as sparse ones."""
    x = batch.graph.x * (torch.rand(batch.graph.x.shape, generator=torch.Generator().manual_seed(9)) < 0.3)
    return replace(batch, graph=Subgraph(sp.csr_matrix(x.numpy()), batch.graph.adjacency))


def make_double(adjacency: Adjacency) -> Adjacency:
    """The same structure, whose operators are float64."""
    weight = None if adjacency.weight is None else adjacency.weight.double()
    return Adjacency(adjacency.indptr, adjacency.indices, dtype=torch.float64, weight=weight)


def weigh(adjacency: Adjacency, seed: int, dtype: torch.dtype = torch.float64) -> Adjacency:
    """The structure with weights, a third of them zero and some large."""
    generator, count = np.random.default_rng(seed), len(adjacency.indices)
    weight = torch.from_numpy(generator.random(count) * generator.choice([0.0, 1.0, 100.0], count))
    return Adjacency(adjacency.indptr, adjacency.indices, dtype=dtype, weight=weight.to(dtype))


def aggregation_matrix(name: str, shape: Structure) -> Tensor:
    """What the first layer of GraphSAGE ("sage") or GCN ("gcn") multiplies features by, (V, V) float64."""
    matrix = shape.dense
    if name == "sage":
        return matrix / matrix.sum(1, keepdim=True).clamp(min=1.0)
    matrix.fill_diagonal_(1.0)
    scale = matrix.sum(1).rsqrt()
    return scale[:, None] * matrix * scale


def random_batch(
    shape: Structure, seeds: Sequence[int], features: int, classes: int, seed: int = 0, weighted: bool = False
) -> Batch:
    """A batch with normal features and random targets, and weights of edges if it is `weighted`."""
    structure = weigh(shape.adjacency(), seed, torch.float32) if weighted else shape.adjacency()
    graph = Subgraph(normal(seed, shape.nodes, features, kind=torch.float32), structure)
    targets = torch.randint(classes, (len(seeds),), generator=torch.Generator().manual_seed(seed))
    return Batch(graph, torch.tensor(seeds), targets)


def random_state(model: Model, seed: int = 1, kind: torch.dtype = torch.float32) -> State:
    """Normal parameters: biases and norms are not at their start."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator).to(kind) for name, shape in model.shapes().items()}


def normal(seed: int, *shape: int, kind: torch.dtype = torch.float64) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=kind)
