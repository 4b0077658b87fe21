"""METIS partitions, balanced on validation nodes as well as on size; the only user of pymetis.

Validation nodes are what a step of PLS learns from, so they are weighed such that all of them together weigh as much as
all nodes do; METIS then balances the sum of both, for pymetis passes one weight a node. Source: arXiv 2503.11612,
section on Partition Learned Souping; Karypis and Kumar, SIAM J. Sci. Comput. 20(1), 1998.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import pymetis
import scipy.sparse as sp

from gnnsoup_hpc.config import PartitionJob
from gnnsoup_hpc.errors import PartError
from gnnsoup_hpc.graph.graph import Graph, Partition
from gnnsoup_hpc.runtime.terminal import redirect_to_stderr
from gnnsoup_hpc.types import IndexArray, IntArray, Role

_ENTRIES = 1 << 23  # looked at together

# (indptr, indices, weights, job) -> part of each node. METIS holds Python's lock for as long as it runs.
Cut = Callable[[IntArray, IndexArray, IntArray, PartitionJob], IntArray]


def cut_with_metis(indptr: IntArray, indices: IndexArray, weights: IntArray, job: PartitionJob) -> IntArray:
    """Part of each node, (n,), by METIS in this process. indptr, indices: a symmetric CSR structure without loops."""
    adjacency = pymetis.CSRAdjacency(indptr.astype(np.int64, copy=False), indices.astype(np.int64, copy=False))
    options = pymetis.Options(seed=job.seed, ufactor=job.imbalance)
    with redirect_to_stderr():
        _, found = pymetis.part_graph(
            job.parts, adjacency=adjacency, vweights=weights, recursive=False, options=options
        )
    return np.asarray(found, dtype=np.int64)


def partition_graph(graph: Graph, job: PartitionJob, cut: Cut = cut_with_metis) -> Partition:
    """Cut `graph` into K parts, none of them empty; within a part nodes keep their order.

    `cut` is how METIS is called: in this process, or for a large graph in one of its own (metis_apart.py).
    Raises: PartError for more parts than nodes.
    """
    if job.parts > graph.nodes:
        raise PartError(f"partition.parts = {job.parts} (K) is more than the graph's {graph.nodes} nodes")
    weights = node_weights(graph)
    part = np.zeros(graph.nodes, dtype=np.int64)
    if job.parts > 1:
        part = _fill_empty(_cut(graph, weights, job, cut), weights, job.parts)
    sizes = np.bincount(part, minlength=job.parts)
    validation = np.bincount(part[graph.role == Role.VALIDATION], minlength=job.parts)
    across, edges = _edge_cut(graph, part)
    return Partition(
        part=part,
        order=np.argsort(part, kind="stable"),
        ptr=np.concatenate([[0], np.cumsum(sizes)]),
        edge_cut=across,
        edges=edges,
        balance=float(sizes.max() / sizes.mean()),
        validation_balance=float(validation.max() / validation.mean()),
        options={"parts": job.parts, "seed": job.seed, "ufactor": job.imbalance},
    )


def node_weights(graph: Graph) -> IntArray:
    """METIS's weight of each node, (V,): 1, and about V / n more for each of the n validation nodes."""
    validation = graph.role == Role.VALIDATION
    extra = max(1, round(graph.nodes / max(1, int(validation.sum()))))
    return np.where(validation, 1 + extra, 1).astype(np.int64)


def _cut(graph: Graph, weights: IntArray, job: PartitionJob, cut: Cut) -> IntArray:
    """Part of each node, (V,). Nodes without an edge tell METIS nothing; the lightest parts take them."""
    indptr, indices = _undirected(graph)
    degrees = np.diff(indptr)
    linked, alone = np.flatnonzero(degrees > 0), np.flatnonzero(degrees == 0)
    part = np.zeros(graph.nodes, dtype=np.int64)
    if len(linked):
        if len(alone):
            new_id = np.cumsum(degrees > 0) - 1
            indptr, indices = np.concatenate([[0], np.cumsum(degrees[linked])]), new_id[indices]
        part[linked] = cut(indptr, indices, weights[linked], job)
    load = np.bincount(part[linked], weights=weights[linked], minlength=job.parts).astype(np.float64)
    part[alone] = _lightest(load, weights[alone])
    return part


def _undirected(graph: Graph) -> tuple[IntArray, IndexArray]:
    """The symmetric CSR structure without self-loops that METIS requires; the graph's own where it is that."""
    indptr: IntArray = graph.indptr
    indices: IndexArray = graph.indices
    if not graph.symmetric:
        ones = np.ones(len(indices), dtype=np.int8)
        matrix = sp.csr_matrix((ones, indices, indptr), shape=(graph.nodes, graph.nodes))
        matrix = (matrix + matrix.T).tocsr()
        indptr, indices = matrix.indptr, matrix.indices
    loops = np.zeros(graph.nodes, dtype=np.int64)
    keep = np.empty(len(indices), dtype=np.bool_)
    for rows, row in _rows(indptr):
        span = slice(int(indptr[rows.start]), int(indptr[rows.stop]))
        keep[span] = indices[span] != row
        loops[rows] = np.bincount(row[~keep[span]] - rows.start, minlength=rows.stop - rows.start)
    if not loops.any():
        return indptr, indices
    return indptr - np.concatenate([[0], np.cumsum(loops)]), indices[keep]


def _edge_cut(graph: Graph, part: IntArray) -> tuple[int, int]:
    """(edges between parts, all edges) of the undirected graph without loops.

    In a directed graph an edge counts once, though both directions of it may be there.
    """
    indptr, indices = (graph.indptr, graph.indices) if graph.symmetric else _undirected(graph)
    across = loops = 0
    for rows, row in _rows(indptr):
        column = indices[indptr[rows.start] : indptr[rows.stop]]
        across += int((part[row] != part[column]).sum())
        loops += int((row == column).sum())
    return across // 2, (len(indices) - loops) // 2


def _rows(indptr: IntArray) -> Iterator[tuple[slice, IntArray]]:
    """Slices of rows with about `_ENTRIES` entries each, and the row of each of their entries."""
    nodes = len(indptr) - 1
    start = 0
    while start < nodes:
        stop = int(np.searchsorted(indptr, indptr[start] + _ENTRIES, side="right")) - 1
        rows = slice(start, min(nodes, max(stop, start + 1)))
        yield rows, np.repeat(np.arange(rows.start, rows.stop), np.diff(indptr[rows.start : rows.stop + 1]))
        start = rows.stop


def _lightest(load: npt.NDArray[np.float64], weights: IntArray) -> IntArray:
    """Give out nodes, heaviest first, each to the part that is lightest so far; part of each node."""
    part = np.zeros(len(weights), dtype=np.int64)
    heap = [(weight, number) for number, weight in enumerate(load.tolist())]
    heapq.heapify(heap)
    for node in np.argsort(-weights, kind="stable").tolist():
        weight, lightest = heap[0]
        part[node] = lightest
        heapq.heapreplace(heap, (weight + int(weights[node]), lightest))
    return part


def _fill_empty(part: IntArray, weights: IntArray, parts: int) -> IntArray:
    """METIS may leave parts empty where K is near V; each takes half of the heaviest part that can be halved."""
    for empty in np.flatnonzero(np.bincount(part, minlength=parts) == 0):
        load = np.bincount(part, weights=weights, minlength=parts)
        load[np.bincount(part, minlength=parts) < 2] = -1.0
        members = np.flatnonzero(part == load.argmax())
        part[members[len(members) // 2 :]] = empty
    return part
