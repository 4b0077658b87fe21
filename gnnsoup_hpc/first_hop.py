"""The first hop of GraphSAGE and GCN on the whole graph, out of core: made once, kept as a file of the run.

Rows are aggregated a block at a time, while the features pass by in slabs, in the order of the file; each row has a
cursor in its rising entries. So memory holds one block and one slab, and features are read once a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gnnsoup_hpc.compiled.first import looped_degrees, slab_sums
from gnnsoup_hpc.crew import Crew, cut
from gnnsoup_hpc.errors import FileError
from gnnsoup_hpc.records import FloatArray, IndexArray, IntArray
from gnnsoup_hpc.rows import blocks
from gnnsoup_hpc.store import first_hop as store
from gnnsoup_hpc.store.first_hop import FirstHop
from gnnsoup_hpc.store.graph import GraphFile

MEMORY = 1 << 30  # bytes that are of use at most: more would save few passes over the features
_ROW_BYTES = 32  # a row beside its sums and entries: cursor, end, degree


@contextmanager
def opened(
    graph: GraphFile, kind: str, path: Path, say: Callable[[str], None], memory: int = MEMORY
) -> Iterator[FirstHop]:
    """Yield the first hop of models of `kind`, gcn or sage; it is made where there is none, or none that is right.

    `say` is told why a file that is there is made again. Raises: RunError where it cannot be written.
    """
    if not _is_there(graph, kind, path, say):
        store.write(path, graph, kind, computed(graph, kind, min(memory, MEMORY)))
    with store.opened(path, graph, kind, verify=False) as hop:
        yield hop


def _is_there(graph: GraphFile, kind: str, path: Path, say: Callable[[str], None]) -> bool:
    if not path.exists():
        return False
    try:
        with store.opened(path, graph, kind):
            return True
    except FileError as error:
        say(f"{error}; made again")
        return False


def computed(graph: GraphFile, kind: str, memory: int) -> Iterator[tuple[int, FloatArray]]:
    """Blocks (first node, rows (n, F)) of the first hop, in order, within about `memory` bytes and 16 a node."""
    bounds = graph.bounds(0, graph.nodes)
    spans = list(_spans(bounds, 4 * graph.features + _ROW_BYTES, graph.id_type.itemsize, memory // 2))
    degree = np.empty(graph.nodes, dtype=np.int64)
    for start, stop in spans:
        if kind == "gcn":
            mine = bounds[start : stop + 1] - bounds[start]
            degree[start:stop] = looped_degrees(mine, _entries(graph, bounds, start, stop), start)
        else:
            degree[start:stop] = np.maximum(np.diff(bounds[start : stop + 1]), 1)
    divisor: FloatArray = degree.astype(np.float32)
    scale: FloatArray = np.reciprocal(np.sqrt(divisor) if kind == "gcn" else divisor)
    loopless = degree > np.diff(bounds) if kind == "gcn" else np.zeros(0, dtype=np.bool_)
    for start, stop in spans:
        yield start, _block(graph, bounds, start, stop, scale, loopless, memory // 4)


def _spans(bounds: IntArray, row_bytes: int, entry_bytes: int, memory: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows that take about `memory` bytes each, and one row at least."""
    load = bounds * entry_bytes + np.arange(len(bounds)) * row_bytes
    start = 0
    while start < len(bounds) - 1:
        stop = max(start + 1, int(np.searchsorted(load, load[start] + memory, side="right")) - 1)
        yield start, stop
        start = stop


def _entries(graph: GraphFile, bounds: IntArray, start: int, stop: int) -> IndexArray:
    """In-neighbours of nodes start to stop - 1."""
    out: IndexArray = np.empty(bounds[stop] - bounds[start], dtype=graph.id_type)
    graph.neighbours(int(bounds[start]), int(bounds[stop]), out)
    return out


def _block(
    graph: GraphFile,
    bounds: IntArray,
    start: int,
    stop: int,
    scale: FloatArray,
    loopless: np.ndarray[tuple[int], np.dtype[np.bool_]],
    memory: int,
) -> FloatArray:
    """Rows start to stop - 1. `loopless` (V,): nodes whose own features GCN adds; of length 0 for GraphSAGE."""
    indices = _entries(graph, bounds, start, stop)
    cursor, end = bounds[start:stop] - bounds[start], bounds[start + 1 : stop + 1] - bounds[start]
    out = np.zeros((stop - start, graph.features), dtype=np.float32)
    lanes = cut(bounds[start : stop + 1])
    with Crew() as crew:
        for slab in blocks(graph.nodes, 4 * max(1, graph.features), memory):
            low, high = slab.start, slab.stop
            x = np.empty((high - low, graph.features), dtype=np.float32)
            graph.x(low, high, x)
            weight = scale[slab] if len(loopless) else np.ones(high - low, dtype=np.float32)
            crew.each(partial(_add, (cursor, end, indices, low, high, weight, x, out)), lanes)
            here = max(start, low)
            own = here + np.flatnonzero(loopless[here : max(here, min(stop, high))])
            out[own - start] += scale[own, None] * x[own - low]
    out *= scale[start:stop, None]
    return out


def _add(rest: tuple[Any, ...], first: int, last: int) -> None:
    slab_sums(first, last, *rest)
