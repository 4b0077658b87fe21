"""Structures derived from others: transposes, neighbourhoods, renumberings."""

from __future__ import annotations

from typing import Any

import numpy as np

from gnnsoup_hpc.engine.compiled.kernels.base import compile_kernel
from gnnsoup_hpc.types import ByteArray, FloatArray, IndexArray, IntArray


@compile_kernel
def transpose(
    indptr: IndexArray, indices: IndexArray, columns: int, with_places: bool
) -> tuple[IndexArray, IndexArray, IndexArray]:
    """CSR of the transpose, the rows of each column in rising order, and where its entries stand in the structure.

    The last is (E,) where asked for, else empty.
    """
    start = np.zeros(columns + 1, dtype=indptr.dtype)
    for e in range(len(indices)):
        start[indices[e] + 1] += 1
    for c in range(columns):
        start[c + 1] += start[c]
    free = start[:-1].copy()
    rows = np.empty_like(indices)
    places = np.empty(len(indices) if with_places else 0, dtype=indptr.dtype)
    for r in range(len(indptr) - 1):
        for e in range(indptr[r], indptr[r + 1]):
            c = indices[e]
            rows[free[c]] = r
            if with_places:
                places[free[c]] = e
            free[c] += 1
    return start, rows, places


@compile_kernel
def find_frontiers(
    indptr: IndexArray, indices: IndexArray, nodes: IntArray, hops: int, order: IndexArray, local: IndexArray
) -> IntArray:
    """Breadth first along in-neighbours: counts (hops + 1,) of nodes within 0, 1, ... hops of `nodes`.

    Fills order (V,) with the nodes as they are reached, each hop's in rising order, and local (V,), which starts at -1,
    with their places there.
    """
    counts = np.empty(hops + 1, dtype=np.int64)
    filled = len(nodes)
    for i in range(filled):
        order[i] = nodes[i]
        local[nodes[i]] = i
    counts[0] = filled
    before = 0
    for hop in range(hops):
        for i in range(before, filled):
            v = order[i]
            for e in range(indptr[v], indptr[v + 1]):
                if local[indices[e]] == -1:
                    local[indices[e]] = -2
        before = filled
        for v in range(len(local)):
            if local[v] == -2:
                local[v] = filled
                order[filled] = v
                filled += 1
        counts[hop + 1] = filled
    return counts


@compile_kernel
def renumber(
    indptr: IndexArray, indices: IndexArray, values: Any, order: IndexArray, local: IndexArray, loops: bool
) -> tuple[IndexArray, IndexArray, Any]:
    """CSR of the rows `order`, their entries in the ids of `local`, in the order in which they were, with their values.

    With `loops`, exactly one self-loop a row stands at its end; any other is left out. values: of length 0 where
    entries have none; with `loops` they have none.
    """
    most = 0
    for i in range(len(order)):
        most += indptr[order[i] + 1] - indptr[order[i]] + loops
    start = np.empty(len(order) + 1, dtype=indptr.dtype)
    entries = np.empty(most, dtype=indices.dtype)
    kept = np.empty(most if len(values) > 0 else 0, dtype=values.dtype)
    start[0] = at = 0
    for i in range(len(order)):
        v = order[i]
        for e in range(indptr[v], indptr[v + 1]):
            if not loops or indices[e] != v:
                entries[at] = local[indices[e]]
                if len(values) > 0:
                    kept[at] = values[e]
                at += 1
        if loops:
            entries[at] = i
            at += 1
        start[i + 1] = at
    return start, entries[:at], kept[:at]


@compile_kernel
def find_ends_below(start: IndexArray, indices: IndexArray, rows: int, bound: int) -> IndexArray:
    """For each of the first `rows` rows, where its entries (in rising order) stop being below `bound`."""
    end = np.empty(rows, dtype=start.dtype)
    for r in range(rows):
        low, high = start[r], start[r + 1]
        while low < high:
            middle = (low + high) // 2
            if indices[middle] < bound:
                low = middle + 1
            else:
                high = middle
        end[r] = low
    return end


# ---- rows
# Rows that are needed, whole, and what their entries weigh.


@compile_kernel
def holds(indices: IndexArray, start: int, stop: int, node: int) -> bool:
    """Whether one of the entries start to stop - 1 is `node`."""
    found = False
    for e in range(start, stop):
        found |= indices[e] == node
    return found


@compile_kernel
def gather(
    indptr: IndexArray,
    indices: IndexArray,
    weights: Any,
    needed: ByteArray,
    base: int,
    rank: IndexArray,
    loops: bool,
    row: int,
    start: IndexArray,
    entries: IndexArray,
    values: Any,
) -> int:
    """Append the needed rows of a piece to a CSR structure that has `row` rows so far; the rows that it has then.

    Entry c becomes rank[c] (c itself where rank is empty), in the same order. With `loops` a row that has no entry of
    its own node, base + its number in the piece, gets one, before the first that is greater. weights, values: of
    entries of the piece and of the structure, both of length 0 where there are none; an entry that `loops` adds weighs
    1.
    """
    at = start[row]
    for r in range(len(needed)):
        if not needed[r]:
            continue
        own = base + r
        owed = loops and not holds(indices, indptr[r] - indptr[0], indptr[r + 1] - indptr[0], own)
        for e in range(indptr[r] - indptr[0], indptr[r + 1] - indptr[0]):
            c = indices[e]
            if owed and c > own:
                entries[at] = rank[own] if len(rank) > 0 else own
                if len(values) > 0:
                    values[at] = 1
                at += 1
                owed = False
            entries[at] = rank[c] if len(rank) > 0 else c
            if len(values) > 0:
                values[at] = weights[e]
            at += 1
        if owed:
            entries[at] = rank[own] if len(rank) > 0 else own
            if len(values) > 0:
                values[at] = 1
            at += 1
        row += 1
        start[row] = at
    return row


@compile_kernel
def normalise(start: IndexArray, entries: IndexArray, own: IndexArray, scale: Any, values: Any) -> None:
    """Multiply values (E,) by the scale of both ends, in place; divide them by their row's sum where scale is empty.

    Shapes: own (rows,): which column a row's node is; scale (columns,). A row whose sum is zero stays as it is.
    """
    for r in range(len(start) - 1):
        if len(scale) > 0:
            factor = scale[own[r]]
            for e in range(start[r], start[r + 1]):
                values[e] = values[e] * factor * scale[entries[e]]
        else:
            total = 0.0
            for e in range(start[r], start[r + 1]):
                total += values[e]
            if total > 0.0:
                for e in range(start[r], start[r + 1]):
                    values[e] /= total


# ---- shards
# What a rank needs of a structure of which it computes a range of nodes, and what it has to do with others' nodes.
#
# A node is own if its id is from `first` to `last` - 1. `place` (V,) is a node's place in an order that begins with
# the nodes that a loss depends on, -1 of others; rows before `inner` there are summed up by layers after the first.
# Own rows from `held` on have no entries: what they make is no sum.


@compile_kernel
def mark_needed(
    indptr: IndexArray,
    indices: IndexArray,
    order: IndexArray,
    inner: int,
    held: int,
    first: int,
    last: int,
    flag: Any,
) -> None:
    """Set flag (V,) of own nodes of `order`, of their in-neighbours, and of inner rows that have an own one."""
    for k in range(len(order)):
        v = order[k]
        if first <= v < last:
            flag[v] = True
            if k < held:
                for e in range(indptr[v], indptr[v + 1]):
                    flag[indices[e]] = True
        elif k < inner:
            for e in range(indptr[v], indptr[v + 1]):
                if first <= indices[e] < last:
                    flag[v] = True
                    break


@compile_kernel
def cut_out(
    indptr: IndexArray,
    indices: IndexArray,
    values: Any,
    ids: Any,
    local: IndexArray,
    place: IndexArray,
    inner: int,
    held: int,
    first: int,
    last: int,
) -> tuple[IndexArray, IndexArray, Any]:
    """CSR over the nodes `ids`, entries in the ids of `local`: whole own rows, and own entries of other inner rows.

    Last come the entries' values, of length 0 where `values` is.
    """
    most = 0
    for i in range(len(ids)):
        most += indptr[ids[i] + 1] - indptr[ids[i]]
    start = np.empty(len(ids) + 1, dtype=indptr.dtype)
    entries = np.empty(most, dtype=indices.dtype)
    kept = np.empty(most if len(values) > 0 else 0, dtype=values.dtype)
    start[0] = at = 0
    for i in range(len(ids)):
        v = ids[i]
        own = first <= v < last
        if 0 <= place[v] < (held if own else inner):
            for e in range(indptr[v], indptr[v + 1]):
                if own or first <= indices[e] < last:
                    entries[at] = local[indices[e]]
                    if len(values) > 0:
                        kept[at] = values[e]
                    at += 1
        start[i + 1] = at
    return start, entries[:at].copy(), kept[:at].copy()


@compile_kernel
def find_least_classes(
    indptr: IndexArray, indices: IndexArray, classes: Any, most: int, low: int, high: int, out: Any
) -> None:
    """out[c] = least class of a row from `low` to `high` - 1 that has the entry c, if that is at most `most`."""
    for r in range(low, high):
        mine = classes[r]
        if mine <= most:
            for e in range(indptr[r], indptr[r + 1]):
                if mine < out[indices[e]]:
                    out[indices[e]] = mine


@compile_kernel
def find_rows_with_entry(indptr: IndexArray, indices: IndexArray, rows: Any, low: int, high: int) -> Any:
    """Whether each of `rows` has an entry from `low` to `high` - 1, (n,)."""
    found = np.zeros(len(rows), dtype=np.bool_)
    for i in range(len(rows)):
        for e in range(indptr[rows[i]], indptr[rows[i] + 1]):
            if low <= indices[e] < high:
                found[i] = True
                break
    return found


@compile_kernel
def find_entries_to(start: IndexArray, indices: IndexArray, rows: IndexArray, columns: Any) -> IndexArray:
    """Where the entries of `rows` stand, in their order, whose columns are flagged in `columns` (U,)."""
    count = 0
    for i in range(len(rows)):
        for e in range(start[rows[i]], start[rows[i] + 1]):
            count += columns[indices[e]]
    found = np.empty(count, dtype=start.dtype)
    at = 0
    for i in range(len(rows)):
        for e in range(start[rows[i]], start[rows[i] + 1]):
            if columns[indices[e]]:
                found[at] = e
                at += 1
    return found


# ---- union
# The subgraph induced by ranges of nodes, from rows of CSR as they lie in a file.


@compile_kernel
def localise(
    bounds: IntArray,
    neighbours: IndexArray,
    starts: IntArray,
    stops: IntArray,
    shifts: IntArray,
    indptr: IndexArray,
    row: int,
    entries: IndexArray,
    filled: int,
    weight_read: FloatArray,
    weights: FloatArray,
    features_read: FloatArray,
    features: FloatArray,
) -> int:
    """Append the rows of one range of nodes, without what leads out of all ranges; how many entries there are then.

    Shapes: bounds (n + 1,), where each row starts in the file; neighbours (bounds[n] - bounds[0],) by their ids there.
    Node v of the range starts[r] <= v < stops[r] (R,), in rising order, is local node v - shifts[r]. Fills indptr from
    `row` + 1 on and entries from `filled` on, which may lie in the memory of `neighbours` at or before its beginning.
    Weights (n,) and features (n, D) of neighbours, as read, become those of entries likewise; of length or D 0 where
    there are none.
    """
    r, last = 0, len(starts) - 1
    base = bounds[0]
    for i in range(len(bounds) - 1):
        for e in range(bounds[i] - base, bounds[i + 1] - base):
            v = neighbours[e]
            while r < last and v >= stops[r]:  # neighbours of a row rise, so the range is near the last one's
                r += 1
            while r > 0 and v < starts[r]:
                r -= 1
            if starts[r] <= v < stops[r]:
                entries[filled] = v - shifts[r]
                if len(weight_read):
                    weights[filled] = weight_read[e]
                for c in range(features_read.shape[1]):
                    features[filled, c] = features_read[e, c]
                filled += 1
        indptr[row + i + 1] = filled
    return filled
