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

from gnnsoup_hpc.engine.compiled.kernels import slabs
from gnnsoup_hpc.engine.compiled.kernels.sums import add_slab_sums
from gnnsoup_hpc.engine.out_of_core.layers import (
    count_looped_degrees,
    cut_spans,
    find_scale,
    read_block,
    read_slabs,
)
from gnnsoup_hpc.engine.threads import ThreadTeam, cut_chunks
from gnnsoup_hpc.errors import FileError
from gnnsoup_hpc.graph.subgraph import Aggregation
from gnnsoup_hpc.io import first_aggregation as store
from gnnsoup_hpc.io.first_aggregation import FirstAggregationFile
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.types import BoolArray, FloatArray, IntArray
from gnnsoup_hpc.utils.out_of_core import index_type

MEMORY = 1 << 30  # bytes that are of use at most: more would save few passes over the features
_ROW_BYTES = 32  # a row beside its sums and entries: cursor, end, degree


@contextmanager
def open_first_aggregation(
    graph: GraphFile, aggregation: Aggregation, path: Path, say: Callable[[str], None], memory: int = MEMORY
) -> Iterator[FirstAggregationFile]:
    """Yield the sums of an aggregation on the whole graph; they are made where there is none, or none that is right.

    `say` is told why a file that is there is made again. Raises: RunError where it cannot be written.
    """
    try:
        with store.open_file(path, graph, aggregation):
            pass
    except FileError as error:
        if path.exists():
            say(f"{error}; made again")
        store.write(path, graph, aggregation, compute(graph, aggregation, min(memory, MEMORY)))
    with store.open_file(path, graph, aggregation, verify=False) as hop:
        yield hop


def compute(graph: GraphFile, aggregation: Aggregation, memory: int) -> Iterator[tuple[int, FloatArray]]:
    """Blocks (first node, rows (n, F)) of the first hop, in order, within about `memory` bytes and 16 a node."""
    if graph.weighted:
        yield from _compute_weighted(graph, aggregation, memory)
        return
    bounds = graph.bounds(0, graph.nodes)
    degree = count_looped_degrees(graph) if aggregation.loops else np.maximum(np.diff(bounds), 1)
    loopless = degree > np.diff(bounds) if aggregation.loops else np.zeros(0, dtype=np.bool_)
    divisor: FloatArray = degree.astype(np.float32)
    scale: FloatArray = np.reciprocal(np.sqrt(divisor) if aggregation.symmetric else divisor)
    everyone = np.ones(graph.nodes, dtype=np.uint8)
    for start, stop in cut_spans(graph, everyone, 4 * graph.features + _ROW_BYTES, memory // 2):
        yield start, _block(graph, bounds, start, stop, scale, loopless, memory // 4)


def _block(
    graph: GraphFile, bounds: IntArray, start: int, stop: int, scale: FloatArray, loopless: BoolArray, memory: int
) -> FloatArray:
    """Rows start to stop - 1. `loopless` (V,): nodes whose own features GCN adds; of length 0 for GraphSAGE."""
    indices = graph.neighbours(bounds[start : stop + 1])
    cursor, end = bounds[start:stop] - bounds[start], bounds[start + 1 : stop + 1] - bounds[start]
    out = np.zeros((stop - start, graph.features), dtype=np.float32)
    chunks = cut_chunks(bounds[start : stop + 1])
    with ThreadTeam() as team:
        for low, high, x in read_slabs(graph, memory):
            weight = scale[low:high] if len(loopless) else np.ones(high - low, dtype=np.float32)
            rows = {"cursor": cursor, "end": end, "indices": indices, "out": out}
            team.each(partial(add_slab_sums, low=low, high=high, scale=weight, x=x, **rows), chunks)
            here = max(start, low)
            own = here + np.flatnonzero(loopless[here : max(here, min(stop, high))])
            out[own - start] += scale[own, None] * x[own - low]
    out *= scale[start:stop, None]
    return out


def _compute_weighted(graph: GraphFile, aggregation: Aggregation, memory: int) -> Iterator[tuple[int, FloatArray]]:
    """The same where edges have weights."""
    everyone, by_id = np.ones(graph.nodes, dtype=np.uint8), np.empty(0, dtype=index_type(graph.nodes))
    scale = find_scale(graph) if aggregation.symmetric else np.empty(0, dtype=np.float32)
    with ThreadTeam() as team:
        for span in cut_spans(graph, everyone, 4 * graph.features + _ROW_BYTES, memory // 2):
            first, nodes, _, start, entries, values = read_block(graph, span, everyone, by_id, aggregation.loops, scale)
            out = np.zeros((len(nodes), graph.features), dtype=np.float32)
            rows: dict[str, Any] = {"cursor": start[:-1].copy(), "end": start[1:], "total": out}
            for low, high, x in read_slabs(graph, memory // 4):
                step = partial(slabs.add, entries=entries, values=values, scale=scale, low=low, high=high, x=x, **rows)
                team.each(step, cut_chunks(start))
            yield first, out
