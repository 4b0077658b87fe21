"""The structure of a graph that is read from its file a piece at a time: which rows are needed, and blocks of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from gnnsoup_hpc.engine.compiled.kernels import slabs
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.types import ByteArray, FloatArray, IndexArray, IntArray
from gnnsoup_hpc.utils.out_of_core import index_type

PIECE_ENTRIES = 1 << 22  # of the adjacency, read together
_PIECE_NODES = 1 << 18

Piece = tuple[int, int, IntArray]  # first node, node after the last, where their entries start


@dataclass(frozen=True)
class RowBlock:
    """Rows of one layer that are computed together, of nodes in rising order.

    Shapes: nodes (n,), start (n + 1,), entries (E,): in-neighbours as rows of what the layer before has made; own (n,):
    the nodes themselves there. first: the place of the block's first row among the layer's.
    """

    first: int
    nodes: IntArray
    own: IndexArray
    start: IntArray
    entries: IndexArray


def cut_pieces(graph: GraphFile, start: int, stop: int) -> Iterator[Piece]:
    """Nodes start to stop - 1, about PIECE_ENTRIES entries at a time."""
    while start < stop:
        indptr = graph.bounds(start, min(stop, start + _PIECE_NODES))
        count = int(np.searchsorted(indptr, indptr[0] + PIECE_ENTRIES, side="right")) - 1
        count = min(len(indptr) - 1, max(count, 1))
        yield start, start + count, indptr[: count + 1]
        start += count


def find_needed_rows(graph: GraphFile, wanted: IntArray, layers: int) -> tuple[ByteArray, ...]:
    """Of each layer, which nodes it must make for the last one to be known of `wanted`: flags (V,)."""
    needed = np.zeros(graph.nodes, dtype=np.uint8)
    needed[wanted] = 1
    found = [needed]
    for _ in range(layers - 1):
        reached = found[0].copy()
        for start, stop, indptr in cut_pieces(graph, 0, graph.nodes) if not found[0].all() else ():
            if found[0][start:stop].any():
                slabs.mark(indptr, graph.neighbours(indptr), found[0][start:stop], reached)
        found.insert(0, reached)
    return tuple(found)


def number_needed(needed: ByteArray) -> IndexArray:
    """Place of each node among those that are needed, (V,)."""
    kind = index_type(len(needed))
    place = np.cumsum(needed, dtype=kind)
    place -= 1
    return np.asarray(place)


def count_looped_degrees(graph: GraphFile) -> FloatArray:
    """In-degree of each node with one self-loop, (V,) float32."""
    degrees = np.empty(graph.nodes, dtype=np.float32)
    for start, stop, indptr in cut_pieces(graph, 0, graph.nodes):
        slabs.count_looped_degrees(indptr, graph.neighbours(indptr), start, degrees[start:stop])
    return degrees


def cut_spans(graph: GraphFile, needed: ByteArray, row_bytes: int, room: int) -> Iterator[tuple[int, int]]:
    """Ranges of nodes whose needed rows, and their entries, fill at most `room`; at least a node each."""
    entry_bytes = np.dtype(index_type(graph.nodes)).itemsize
    first, used = 0, 0
    for start, stop, indptr in cut_pieces(graph, 0, graph.nodes):
        cost = np.cumsum((row_bytes + (np.diff(indptr) + 1) * entry_bytes) * needed[start:stop])
        at = 0
        while at < stop - start:
            spent = int(cost[at - 1]) if at else 0
            fit = int(np.searchsorted(cost, spent + room - used, side="right"))
            if fit == stop - start:
                used += int(cost[-1]) - spent
                break
            fit = max(fit, at + (start + at == first))
            yield first, start + fit
            first, used, at = start + fit, 0, fit
    if first < graph.nodes:
        yield first, graph.nodes


def read_block(graph: GraphFile, span: tuple[int, int], needed: ByteArray, rank: IndexArray, loops: bool) -> RowBlock:
    """The needed rows of a range of nodes; rank (V,): places in what the layer before has made, empty = node ids."""
    first = int(np.count_nonzero(needed[: span[0]]))
    nodes = np.flatnonzero(needed[span[0] : span[1]]) + span[0]
    rows = list(cut_pieces(graph, *span))
    entries = np.empty(_entries(rows, needed) + loops * len(nodes), dtype=index_type(graph.nodes))
    start = np.zeros(len(nodes) + 1, dtype=np.int64)
    filled = 0
    for low, high, indptr in rows:
        if needed[low:high].any():
            mine = needed[low:high]
            filled = slabs.gather(indptr, graph.neighbours(indptr), mine, low, rank, loops, filled, start, entries)
    own = rank[nodes] if len(rank) else nodes.astype(entries.dtype)
    return RowBlock(first, nodes, own, start, entries[: start[-1]])


def _entries(rows: Sequence[Piece], needed: ByteArray) -> int:
    """Entries of the needed rows."""
    return sum(int(np.diff(indptr)[needed[low:high] > 0].sum()) for low, high, indptr in rows)
