"""Uniform fan-out neighbour sampling (GraphSAGE, arXiv 1706.02216), by our own vectorised sampler or by PyG's.

Both follow one rule, PyG's `NeighborSampler` with replace=False: a hop draws min(fanout, degree) in-neighbours of each
node that the hop before has newly reached, without replacement and uniformly; a node is expanded once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy.sparse as sp
import torch

from gnnsoup_hpc.errors import JobError
from gnnsoup_hpc.types import IndexArray, IntArray
from gnnsoup_hpc.utils.out_of_core import index_type

Kind = Literal["compiled", "own", "pyg"]


@dataclass(frozen=True)
class Sample:
    """Sampled neighbourhood of a batch, by local ids: node i of the sample is node nodes[i] of the graph.

    Shapes: nodes (V',) distinct, the `seeds` seeds first in their order; indptr (V' + 1,), indices (E',): row =
    destination, entries = its sampled in-neighbours, sorted and distinct. Rows that were not expanded are empty.
    """

    nodes: IntArray
    indptr: IntArray
    indices: IntArray
    seeds: int


class EntryLookup:
    """Where entries of samples stand in the whole structure, found by both ends: no sampler needs to know of it."""

    def __init__(self, structure: tuple[IntArray, IndexArray]) -> None:
        """structure: (indptr (V + 1,), indices (E,)), as samplers have it."""
        indptr, indices = structure
        nodes, places = len(indptr) - 1, np.arange(len(indices), dtype=index_type(len(indices)))
        self._matrix = sp.csr_matrix((places, indices, indptr), shape=(nodes, nodes))

    def find(self, sample: Sample) -> IntArray:
        """The place of each entry of the sample, (E',)."""
        row = np.repeat(sample.nodes, np.diff(sample.indptr))
        if not len(row):  # of which SciPy makes a matrix
            return np.empty(0, dtype=np.int64)
        return np.asarray(self._matrix[row, sample.nodes[sample.indices]], dtype=np.int64).reshape(-1)


def resolve_sampler(sampler: Literal["auto", "compiled", "own", "pyg"]) -> Kind:
    """The sampler that a job gets here. Raises: JobError where PyG's is asked for and not installed."""
    if sampler == "pyg" and not has_pyg_sampler():
        raise JobError("train.sampler = 'pyg', but neither pyg-lib nor torch-sparse is installed; use 'auto'")
    return "compiled" if sampler == "auto" else sampler


def has_pyg_sampler() -> bool:
    """Whether PyG can sample neighbours here."""
    from torch_geometric import typing

    return bool(typing.WITH_PYG_LIB or typing.WITH_TORCH_SPARSE)


def draw_samples(
    structure: tuple[IntArray, IndexArray],
    nodes: IntArray,
    size: int,
    fanout: Sequence[int],
    layers: int,
    generator: np.random.Generator,
) -> Iterator[Sample]:
    """A sample of each batch of `size` of the nodes, in random order, by our own sampler.

    structure: (indptr (V + 1,), indices (E,)), row = destination, entries = in-neighbours, distinct.
    """
    sampler = Sampler(*structure)
    order = generator.permutation(nodes)
    for start in range(0, len(order), size):
        yield sampler.sample(order[start : start + size], per_hop(fanout, layers), generator)


def draw_pyg_samples(
    structure: tuple[IntArray, IndexArray],
    nodes: IntArray,
    size: int,
    fanout: Sequence[int],
    layers: int,
    generator: np.random.Generator,
    sampler: Any = None,
) -> Iterator[Sample]:
    """Samples as above, by PyG's NeighborLoader; `sampler` takes the place of PyG's own (a `BaseSampler`).

    PyG draws from torch's global generator, which is seeded from `generator` and put back afterwards.
    """
    from torch_geometric.data import Data
    from torch_geometric.loader import NeighborLoader

    indptr, indices = structure
    row = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    edges = torch.from_numpy(np.stack([indices.astype(np.int64), row]))
    data = Data(edge_index=edges, num_nodes=len(indptr) - 1)
    order = torch.from_numpy(generator.permutation(nodes))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(generator.integers(2**63)))
        loader = NeighborLoader(
            data,
            per_hop(fanout, layers),
            input_nodes=order,
            batch_size=size,
            shuffle=False,
            neighbor_sampler=sampler,
        )
        for batch in loader:
            source, destination = batch.edge_index.numpy()
            yield _make_sample(batch.n_id.numpy(), destination, source, int(batch.batch_size))


def per_hop(fanout: Sequence[int], layers: int) -> list[int]:
    """One fan-out a hop, from the seeds outwards; the last one repeats."""
    return [fanout[min(hop, len(fanout) - 1)] for hop in range(layers)]


class Sampler:
    """Our own sampler on a CSR structure; it keeps a map of 4 or 8 bytes a node."""

    def __init__(self, indptr: IntArray, indices: IndexArray) -> None:
        self._indptr = indptr
        self._indices = indices
        self._local: IndexArray = np.full(len(indptr) - 1, -1, dtype=index_type(len(indptr)))

    def sample(self, seeds: IntArray, fanouts: Sequence[int], generator: np.random.Generator) -> Sample:
        """Expand the distinct `seeds` by one hop a fan-out; -1 = all in-neighbours."""
        reached = [np.asarray(seeds, dtype=np.int64)]
        self._local[seeds] = np.arange(len(seeds))
        count, rows, columns = len(seeds), [], []
        for fanout in fanouts:
            row, source = self._expand(reached[-1], fanout, generator)
            new = np.unique(source[self._local[source] < 0])
            self._local[new] = np.arange(count, count + len(new))
            rows.append(row + count - len(reached[-1]))
            columns.append(self._local[source].astype(np.int64))
            reached.append(new)
            count += len(new)
        nodes = np.concatenate(reached)
        self._local[nodes] = -1
        return _make_sample(nodes, np.concatenate(rows), np.concatenate(columns), len(seeds))

    def _expand(self, nodes: IntArray, fanout: int, generator: np.random.Generator) -> tuple[IntArray, IntArray]:
        """(which of `nodes`, in-neighbour) of each sampled edge."""
        degree = self._indptr[nodes + 1] - self._indptr[nodes]
        many = (degree > fanout) if fanout >= 0 else np.zeros(len(nodes), dtype=np.bool_)
        few = np.flatnonzero(~many)
        ends = np.cumsum(degree[few])
        all_places = np.arange(ends[-1] if len(few) else 0) - np.repeat(ends - degree[few], degree[few])
        some = np.flatnonzero(many)
        chosen = draw_distinct(degree[some], max(fanout, 0), generator)
        row = np.concatenate([np.repeat(few, degree[few]), np.repeat(some, chosen.shape[1])])
        place = np.concatenate([all_places, chosen.reshape(-1)])
        return row, self._indices[self._indptr[nodes[row]] + place].astype(np.int64)


def draw_distinct(bounds: IntArray, count: int, generator: np.random.Generator) -> IntArray:
    """For each bound, `count` distinct numbers below it, every subset equally likely, (n, count). bounds >= count.

    Floyd's algorithm for all rows at once (Bentley and Floyd, Communications of the ACM 30(9), 1987): no row costs more
    for a large bound, so a hub is as cheap as any node.
    """
    chosen = np.empty((len(bounds), count), dtype=np.int64)
    for step in range(count):
        highest = bounds - count + step
        drawn = generator.integers(0, highest + 1) if len(bounds) else highest
        taken = (chosen[:, :step] == drawn[:, None]).any(1)
        chosen[:, step] = np.where(taken, highest, drawn)
    return chosen


def _make_sample(nodes: IntArray, row: IntArray, column: IntArray, seeds: int) -> Sample:
    """CSR of the edges."""
    key = row * len(nodes) + column
    key.sort()
    counts = np.bincount(row, minlength=len(nodes))
    return Sample(nodes, np.concatenate([[0], np.cumsum(counts)]), key % len(nodes), seeds)
