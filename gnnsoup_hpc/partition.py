"""METIS partitions, balanced on validation nodes as well as on size; the only user of pymetis.

Validation nodes are what a step of PLS learns from, so they are weighed such that all of them together weigh as much as
all nodes do; METIS then balances the sum of both, for pymetis passes one weight a node. Source: arXiv 2503.11612,
section on Partition Learned Souping; Karypis and Kumar, SIAM J. Sci. Comput. 20(1), 1998.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pymetis
import scipy.sparse as sp

from gnnsoup_hpc.errors import PartError
from gnnsoup_hpc.job import PartitionJob
from gnnsoup_hpc.records import Graph, IntArray, Partition, Role


def partitioned(graph: Graph, job: PartitionJob) -> Partition:
    """Cut `graph` into K parts, none of them empty; within a part nodes keep their order.

    Raises: PartError for more parts than nodes.
    """
    if job.parts > graph.nodes:
        raise PartError(f"partition.parts = {job.parts} (K) is more than the graph's {graph.nodes} nodes")
    weights = node_weights(graph)
    indptr, indices = _undirected(graph)
    part = _fill_empty(_metis(indptr, indices, weights, job), weights, job.parts)
    sizes = np.bincount(part, minlength=job.parts)
    validation = np.bincount(part[graph.role == Role.VALIDATION], minlength=job.parts)
    row = np.repeat(np.arange(graph.nodes), np.diff(indptr))
    return Partition(
        part=part,
        order=np.argsort(part, kind="stable"),
        ptr=np.concatenate([[0], np.cumsum(sizes)]),
        edge_cut=int((part[row] != part[indices]).sum()) // 2,
        edges=len(indices) // 2,
        balance=float(sizes.max() / sizes.mean()),
        validation_balance=float(validation.max() / validation.mean()),
        options={"parts": job.parts, "seed": job.seed, "ufactor": job.imbalance},
    )


def node_weights(graph: Graph) -> IntArray:
    """METIS's weight of each node, (V,): 1, and about V / n more for each of the n validation nodes."""
    validation = graph.role == Role.VALIDATION
    extra = max(1, round(graph.nodes / max(1, int(validation.sum()))))
    return np.where(validation, 1 + extra, 1).astype(np.int64)


def _undirected(graph: Graph) -> tuple[IntArray, IntArray]:
    """The symmetric CSR structure without self-loops that METIS requires, int64."""
    ones = np.ones(len(graph.indices), dtype=np.int8)
    matrix = sp.csr_matrix((ones, graph.indices, graph.indptr), shape=(graph.nodes, graph.nodes))
    matrix = (matrix + matrix.T).tocsr()
    matrix.setdiag(0)
    matrix.eliminate_zeros()
    return matrix.indptr.astype(np.int64), matrix.indices.astype(np.int64)


def _metis(indptr: IntArray, indices: IntArray, weights: IntArray, job: PartitionJob) -> IntArray:
    """Part of each node, (V,). Nodes without an edge tell METIS nothing; the lightest parts take them."""
    part = np.zeros(len(weights), dtype=np.int64)
    if job.parts == 1:
        return part
    linked = np.flatnonzero(np.diff(indptr) > 0)
    if len(linked):
        new_id = np.cumsum(np.diff(indptr) > 0) - 1
        starts = np.concatenate([[0], np.cumsum(np.diff(indptr)[linked])]).astype(np.int64)
        _, found = pymetis.part_graph(
            job.parts,
            adjacency=pymetis.CSRAdjacency(starts, new_id[indices].astype(np.int64)),
            vweights=weights[linked],
            recursive=False,
            options=pymetis.Options(seed=job.seed, ufactor=job.imbalance),
        )
        part[linked] = np.asarray(found)
    alone = np.flatnonzero(np.diff(indptr) == 0)
    load = np.bincount(part[linked], weights=weights[linked], minlength=job.parts).astype(np.float64)
    part[alone] = _lightest(load, weights[alone])
    return part


def _lightest(load: npt.NDArray[np.float64], weights: IntArray) -> IntArray:
    """Give out nodes, heaviest first, each to the part that is lightest so far; part of each node."""
    part = np.zeros(len(weights), dtype=np.int64)
    load = load.copy()
    for node in np.argsort(-weights, kind="stable"):
        part[node] = load.argmin()
        load[part[node]] += weights[node]
    return part


def _fill_empty(part: IntArray, weights: IntArray, parts: int) -> IntArray:
    """METIS may leave parts empty where K is near V; each takes half of the heaviest part that can be halved."""
    sizes = np.bincount(part, minlength=parts)
    for empty in np.flatnonzero(sizes == 0):
        load = np.bincount(part, weights=weights, minlength=parts)
        load[np.bincount(part, minlength=parts) < 2] = -1.0
        members = np.flatnonzero(part == load.argmax())
        part[members[len(members) // 2 :]] = empty
    return part
