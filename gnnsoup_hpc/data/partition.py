"""METIS partitions, balanced on validation nodes as well as on size; the only user of pymetis.

METIS holds Python's lock, so that no other thread of its process runs: no lease would be renewed and no interrupt be
noticed. Large graphs are cut in a process of its own, which also gives its memory back: `python -m` this module. Arrays
travel as files, nothing is forked.

Validation nodes are what a step of PLS learns from, so they are weighed such that all of them together weigh as much as
all nodes do; METIS then balances the sum of both, for pymetis passes one weight a node. Edges weigh 1 each, or, with
partition.edge_weight = "use", what their two entries weigh. Source: arXiv 2503.11612, section on Partition Learned
Souping; Karypis and Kumar, SIAM J. Sci. Comput. 20(1), 1998.
"""

from __future__ import annotations

import heapq
import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pymetis
import scipy.sparse as sp

from gnnsoup_hpc.config import PartitionJob
from gnnsoup_hpc.errors import PartError
from gnnsoup_hpc.graph.graph import Graph, Partition
from gnnsoup_hpc.runtime.profiling import Meter, host_bytes
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.runtime.signals import block_for_children
from gnnsoup_hpc.runtime.terminal import redirect_to_stderr
from gnnsoup_hpc.types import IndexArray, IntArray, Role
from gnnsoup_hpc.utils.out_of_core import blocks, save, save_text

SECONDS_BETWEEN_LINES = 30.0
UNIT = 1000  # what an edge of mean weight weighs, where METIS is given weights of edges: whole numbers
_ARRAYS = ("indptr", "indices", "weights_of_edges", "weights")  # files that they travel as
COMMAND = (sys.executable, "-m", "gnnsoup_hpc.data.partition")  # of the process that runs METIS

Edges = tuple[IntArray, IndexArray, IntArray]  # symmetric CSR without loops, and METIS's weights, empty for 1 each
Cut = Callable[[Edges, IntArray, PartitionJob], IntArray]  # (edges, weights of nodes, job) -> part of each node


def cut_with_metis(edges: Edges, weights: IntArray, job: PartitionJob) -> IntArray:
    """Part of each node, (n,), by METIS in this process."""
    indptr, indices, weights_of_edges = edges
    adjacency = pymetis.CSRAdjacency(indptr.astype(np.int64, copy=False), indices.astype(np.int64, copy=False))
    options = pymetis.Options(seed=job.seed, ufactor=job.imbalance)
    with redirect_to_stderr():
        _, found = pymetis.part_graph(
            job.parts,
            adjacency=adjacency,
            vweights=weights,
            eweights=weights_of_edges if len(weights_of_edges) else None,
            recursive=False,
            options=options,
        )
    return np.asarray(found, dtype=np.int64)


def cut_in_process(
    folder: Path, meter: Meter, log: Log, edges: Edges, weights: IntArray, job: PartitionJob
) -> IntArray:
    """The same by METIS in a process of its own, whose peak memory is booked on `meter`; arrays go through `folder`.

    Raises: PartError where the child fails, for want of memory as a rule.
    """
    for name, array in zip(_ARRAYS, (*edges, weights), strict=True):
        save(folder / f"{name}.npy", array)
    save_text(folder / "job.json", job.model_dump_json())
    log.say(f"prepare: METIS cuts {len(edges[0]) - 1} nodes, {len(edges[1]) // 2} edges into {job.parts} parts")
    run_metis(folder, log)
    meter.book_child(json.loads((folder / "peak.json").read_text(encoding="utf-8")))
    part: IntArray = np.load(folder / "part.npy")
    return part


def run_metis(folder: Path, log: Log) -> None:
    """Let a process of its own cut what lies in `folder` (`main`). Raises: PartError."""
    code, start = None, time.monotonic()
    with ExitStack() as ending:
        with block_for_children():
            child = ending.enter_context(subprocess.Popen([*COMMAND, str(folder)], stdin=subprocess.DEVNULL))
            ending.callback(child.kill)  # whatever ends us must not leave it behind; nothing happens where it has ended
        while code is None:
            try:
                code = child.wait(SECONDS_BETWEEN_LINES)
            except subprocess.TimeoutExpired:
                log.say(f"prepare: METIS has been at it for {time.monotonic() - start:.0f} s")
    if code:
        raise PartError(
            f"METIS ended with exit code {code}; it needs some 90 bytes of memory for each directed entry of the graph:"
            " use a machine with more memory"
        )


def partition_graph(graph: Graph, job: PartitionJob, cut: Cut = cut_with_metis) -> Partition:
    """Cut `graph` into K parts, none of them empty; within a part nodes keep their order.

    `cut` is how METIS is called: in this process, or for a large graph in one of its own.
    Raises: PartError for more parts than nodes, or weights of edges that the graph has not.
    """
    if job.parts > graph.nodes:
        raise PartError(f"partition.parts = {job.parts} (K) is more than the graph's {graph.nodes} nodes")
    weights = weigh_nodes(graph)
    part = np.zeros(graph.nodes, dtype=np.int64)
    indptr, indices = _make_undirected(graph)
    if job.parts > 1:
        edges = weigh_edges(graph) if job.edge_weight == "use" else (indptr, indices, np.zeros(0, dtype=np.int64))
        part = _fill_empty(_cut_linked(edges, weights, job, cut), weights, job.parts)
    sizes = np.bincount(part, minlength=job.parts)
    validation = np.bincount(part[graph.role == Role.VALIDATION], minlength=job.parts)
    return Partition(
        part=part,
        order=np.argsort(part, kind="stable"),
        ptr=np.concatenate([[0], np.cumsum(sizes)]),
        edge_cut=_count_cut(indptr, indices, part) // 2,
        edges=len(indices) // 2,
        balance=float(sizes.max() / sizes.mean()),
        validation_balance=float(validation.max() / validation.mean()),
        options={"parts": job.parts, "seed": job.seed, "ufactor": job.imbalance}
        | ({"weights_of_edges": UNIT} if job.edge_weight == "use" else {}),
    )


def weigh_nodes(graph: Graph) -> IntArray:
    """METIS's weight of each node, (V,): 1, and about V / n more for each of the n validation nodes."""
    validation = graph.role == Role.VALIDATION
    extra = max(1, round(graph.nodes / max(1, int(validation.sum()))))
    return np.where(validation, 1 + extra, 1).astype(np.int64)


def weigh_edges(graph: Graph) -> Edges:
    """Edges whose weight is not zero, with METIS's weight of each: UNIT times its share of the mean, at least 1.

    An edge weighs what its two entries, there and back, do together: what a cut would lose. Of E entries all weigh at
    most (UNIT + 1) E, however unlike they are, so that no sum of METIS's, in 64 bits, runs over.
    """
    if graph.weight is None:
        raise PartError("partition.edge_weight = 'use', and the graph has no weights of edges: use 'ignore'")
    entries = graph.weight.astype(np.float64), graph.indices, graph.indptr
    matrix = sp.csr_matrix(entries, shape=(graph.nodes, graph.nodes))
    matrix = matrix + matrix.T
    matrix = (matrix - sp.diags(matrix.diagonal(), format="csr")).tocsr()
    matrix.eliminate_zeros()
    share = matrix.data / matrix.data.mean() if matrix.nnz else matrix.data
    return matrix.indptr, matrix.indices, np.maximum(np.rint(UNIT * share), 1).astype(np.int64)


def _cut_linked(edges: Edges, weights: IntArray, job: PartitionJob, cut: Cut) -> IntArray:
    """Part of each node, (V,). Nodes without an edge are left out of METIS; the lightest parts take them."""
    indptr, indices, weights_of_edges = edges
    degrees = np.diff(indptr)
    linked, alone = np.flatnonzero(degrees > 0), np.flatnonzero(degrees == 0)
    part = np.zeros(len(weights), dtype=np.int64)
    if len(linked):
        if len(alone):
            new_id = np.cumsum(degrees > 0) - 1
            indptr, indices = np.concatenate([[0], np.cumsum(degrees[linked])]), new_id[indices]
        part[linked] = cut((indptr, indices, weights_of_edges), weights[linked], job)
    load = np.bincount(part[linked], weights=weights[linked], minlength=job.parts).astype(np.float64)
    part[alone] = _fill_lightest(load, weights[alone])
    return part


def _make_undirected(graph: Graph) -> tuple[IntArray, IndexArray]:
    """The symmetric CSR structure without self-loops that METIS requires; the graph's own where it is that."""
    ones = np.ones(len(graph.indices), dtype=np.int8)
    matrix = sp.csr_matrix((ones, graph.indices, graph.indptr), shape=(graph.nodes, graph.nodes))
    loops = matrix.diagonal()
    if graph.symmetric and not loops.any():
        return graph.indptr, graph.indices
    if not graph.symmetric:
        matrix = matrix + matrix.T
        loops = matrix.diagonal()
    matrix = (matrix - sp.diags(loops, dtype=np.int8, format="csr")).tocsr()
    return matrix.indptr, matrix.indices


def _count_cut(indptr: IntArray, indices: IndexArray, part: IntArray) -> int:
    """Entries that lead from one part to another, a block of them looked at at a time."""
    across = 0
    for block in blocks(len(indices), indptr.itemsize):
        first = int(np.searchsorted(indptr, block.start, side="right")) - 1
        last = int(np.searchsorted(indptr, block.stop, side="left"))
        bounds: IntArray = np.clip(indptr[first : last + 1], block.start, block.stop)
        across += int((np.repeat(part[first:last], np.diff(bounds)) != part[indices[block]]).sum())
    return across


def _fill_lightest(load: npt.NDArray[np.float64], weights: IntArray) -> IntArray:
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


def main(folder: Path) -> None:
    """The child: cut what lies in `folder`, leave part.npy and peak.json there."""
    job = PartitionJob.model_validate_json((folder / "job.json").read_text(encoding="utf-8"))
    *edges, weights = (np.load(folder / f"{name}.npy") for name in _ARRAYS)
    save(folder / "part.npy", cut_with_metis((edges[0], edges[1], edges[2]), weights, job))
    save_text(folder / "peak.json", json.dumps(host_bytes("VmHWM")))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
