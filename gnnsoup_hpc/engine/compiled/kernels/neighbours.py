"""Neighbour samples, drawn by counting: a row's neighbours are a function of the sample's key and of its node alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from gnnsoup_hpc.engine.compiled.kernels.base import compile_kernel
from gnnsoup_hpc.engine.compiled.kernels.dropout import derive_key, draw
from gnnsoup_hpc.types import IndexArray, IntArray

_SHORT = 32  # entries of a row that are sorted one by one


@compile_kernel
def _grow(array: Any, size: int) -> Any:
    """The array, or one of twice the size with the same beginning."""
    if size <= len(array):
        return array
    grown = np.empty(max(size, 2 * len(array)), dtype=array.dtype)
    grown[: len(array)] = array
    return grown


@compile_kernel
def _draw_places(key: Any, degree: int, count: int, places: Any) -> None:
    """`count` distinct numbers below `degree`, every subset equally likely, into `places`.

    Floyd's algorithm (Bentley and Floyd, Communications of the ACM 30(9), 1987): a hub costs no more than any node.
    """
    low, high = np.uint32(key), np.uint32(key >> np.uint64(32))
    for step in range(count):
        highest = degree - count + step
        drawn = np.int64((np.uint64(draw(step, low, high)) * np.uint64(highest + 1)) >> np.uint64(32))
        for before in range(step):
            if places[before] == drawn:
                drawn = np.int64(highest)
                break
        places[step] = drawn


@compile_kernel
def _sort(values: Any) -> None:
    """In place; rows are short as a rule."""
    if len(values) > _SHORT:
        values.sort()
        return
    for i in range(1, len(values)):
        value, j = values[i], i
        while j > 0 and values[j - 1] > value:
            values[j] = values[j - 1]
            j -= 1
        values[j] = value


@compile_kernel
def sample_neighbours(
    indptr: IntArray, indices: IndexArray, seeds: IntArray, fanouts: IntArray, key: Any, local: IndexArray
) -> tuple[IntArray, IntArray, IntArray]:
    """Nodes (n,), seeds first, and CSR of the sampled in-neighbours: start (n + 1,), entries, by their places in nodes.

    Each hop draws min(fanout, degree) in-neighbours of every node that the hop before has newly reached; -1 draws all.
    Nodes of the last hop have none. local (V,) is -1 everywhere, and is so again afterwards.
    """
    count = len(seeds)
    nodes = np.empty(max(64, 8 * count), dtype=np.int64)
    for i in range(count):
        nodes[i] = seeds[i]
        local[seeds[i]] = i
    start = np.zeros(max(64, 8 * count) + 1, dtype=np.int64)
    entries = np.empty(max(64, 16 * count), dtype=np.int64)
    filled = before = 0
    for fanout in fanouts:
        last = count
        for row in range(before, last):
            v = nodes[row]
            first, degree = indptr[v], indptr[v + 1] - indptr[v]
            taken = degree if fanout < 0 else min(fanout, degree)
            entries = _grow(entries, filled + taken)
            nodes = _grow(nodes, count + taken)
            own = entries[filled : filled + taken]
            if taken < degree:
                _draw_places(derive_key(key, v), degree, taken, own)
            else:
                for e in range(taken):
                    own[e] = e
            for e in range(taken):
                u = indices[first + own[e]]
                if local[u] < 0:
                    local[u] = count
                    nodes[count] = u
                    count += 1
                own[e] = local[u]
            _sort(own)
            filled += taken
            start = _grow(start, row + 2)
            start[row + 1] = filled
        before = last
    start = _grow(start, count + 1)
    start[before + 1 : count + 1] = filled
    for i in range(count):
        local[nodes[i]] = -1
    return nodes[:count].copy(), start[: count + 1].copy(), entries[:filled].copy()


@compile_kernel
def gather_rows(x: Any, ids: IntArray, out: Any) -> None:
    """out[i] = x[ids[i]], (n, F)."""
    for i in range(len(ids)):
        out[i] = x[ids[i]]
