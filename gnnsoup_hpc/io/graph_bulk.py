"""The bulk of graph.h5, written block by block in the order of parts: nothing of the size of the features is in memory.

Within a part nodes keep the source's order, so what a slab of source rows holds of one part is one contiguous piece of
the file: features are read once, in order, and written in K pieces a slab.
"""

from __future__ import annotations

from collections.abc import Iterator

import h5py
import numpy as np
import numpy.typing as npt

from gnnsoup_hpc.graph.graph import Graph, Partition
from gnnsoup_hpc.io import files
from gnnsoup_hpc.types import FloatArray, IndexArray, IntArray, Role
from gnnsoup_hpc.utils.hashing import Content, content_sha256
from gnnsoup_hpc.utils.out_of_core import blocks, index_type

_ENTRIES = 1 << 22  # of the adjacency, renumbered together


def fill(file: h5py.File, graph: Graph, partition: Partition) -> str:
    """Write nodes/ and edges/. The hash of what a model sees, in the source's node order, whatever the parts."""
    new_id = np.empty(graph.nodes, dtype=np.int64)
    new_id[partition.order] = np.arange(graph.nodes)
    nodes = file.create_group("nodes", track_order=True)
    x = files.write_space(nodes, "x", (graph.nodes, graph.x.shape[1]), np.float32, "1", "features, prepared")
    content = Content()
    content.add("indices", np.int64, graph.indices.shape, _pieces(graph.indices))
    content.add("indptr", np.int64, graph.indptr.shape, [graph.indptr])
    content.add("role", np.uint8, graph.role.shape, [graph.role])
    content.add("x", np.float32, graph.x.shape, _spread(x, graph, partition, new_id))
    content.add("y", np.int64, graph.y.shape, [graph.y])
    order = partition.order
    files.put(nodes, "y", graph.y[order], "1", "class label; -1 = none")
    files.put(nodes, "split", graph.role[order], "1", "0 no role, 1 train, 2 validation, 3 test")
    files.put(nodes, "original_id", order, "1", "node id in the source")
    _put_edges(file, graph, order, new_id)
    return content.sha256


def put_parts(file: h5py.File, graph: Graph, partition: Partition) -> None:
    """Write parts/: where they begin, and what METIS says of them."""
    parts = file.create_group("parts", track_order=True)
    files.put(parts, "ptr", partition.ptr, "1", "first node of each part")
    counts = np.bincount(partition.part[graph.role == Role.VALIDATION], minlength=partition.parts)
    files.put(parts, "validation", counts, "1", "validation nodes of each part")
    parts.attrs.update(dict(partition.options))
    parts.attrs["edge_cut"] = partition.edge_cut
    parts.attrs["undirected_edges"] = partition.edges
    parts.attrs["balance"] = partition.balance
    parts.attrs["validation_balance"] = partition.validation_balance
    parts.attrs["part_sha256"] = content_sha256({"part": partition.part})


def _pieces(array: IndexArray) -> Iterator[IndexArray]:
    for block in blocks(len(array), 8):
        yield array[block]


def _spread(x: h5py.Dataset, graph: Graph, partition: Partition, new_id: IntArray) -> Iterator[FloatArray]:
    """Put features where they belong in the file; yield them as they come."""
    for slab in blocks(graph.nodes, 4 * graph.x.shape[1]):
        rows = graph.x[slab]
        part = partition.part[slab]
        by_part = np.argsort(part, kind="stable")
        starts = np.flatnonzero(np.diff(part[by_part], prepend=-1))
        for mine in np.split(by_part, starts[1:]):
            first = int(new_id[slab.start + mine[0]])
            x[first : first + len(mine)] = rows[mine]
        yield rows


def _put_edges(file: h5py.File, graph: Graph, order: IntArray, new_id: IntArray) -> None:
    edges = file.create_group("edges", track_order=True)
    indptr = np.concatenate([[0], np.cumsum(np.diff(graph.indptr)[order])]).astype(np.int64)
    files.put(edges, "indptr", indptr, "1", "start of each destination's in-neighbours")
    indices = files.write_space(
        edges, "indices", graph.indices.shape, index_type(graph.nodes), "1", "in-neighbours, sorted"
    )
    start = 0
    while start < graph.nodes:
        stop = int(np.searchsorted(indptr, indptr[start] + _ENTRIES, side="right")) - 1
        stop = min(graph.nodes, max(stop, start + 1))
        if indptr[start] < indptr[stop]:
            indices[indptr[start] : indptr[stop]] = _renumbered(graph, order[start:stop], new_id)
        start = stop


def _renumbered(graph: Graph, nodes: IntArray, new_id: IntArray) -> npt.NDArray[np.int64]:
    """In-neighbours of `nodes` by their new ids, sorted in each row."""
    counts = graph.indptr[nodes + 1] - graph.indptr[nodes]
    row = np.repeat(np.arange(len(nodes)), counts)
    ends = np.cumsum(counts)
    entry = np.arange(ends[-1]) - np.repeat(ends - counts, counts) + np.repeat(graph.indptr[nodes], counts)
    keyed = row * graph.nodes + new_id[graph.indices[entry]]  # rows are already in order, so one sort does both
    keyed.sort()
    return np.asarray(keyed % graph.nodes)
