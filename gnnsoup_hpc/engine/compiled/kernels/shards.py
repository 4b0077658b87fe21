"""What a rank needs of a structure of which it computes a range of nodes, and what it has to do with others' nodes.

A node is own if its id is from `first` to `last` - 1. `place` (V,) is a node's place in an order that begins with the
nodes that a loss depends on, -1 of others; rows before `inner` there are summed up by layers after the first. Own rows
from `held` on have no entries: what they make is no sum.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gnnsoup_hpc.engine.compiled.kernels.base import compile_kernel
from gnnsoup_hpc.types import IndexArray


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
    ids: Any,
    local: IndexArray,
    place: IndexArray,
    inner: int,
    held: int,
    first: int,
    last: int,
) -> tuple[IndexArray, IndexArray]:
    """CSR over the nodes `ids`, entries in the ids of `local`: whole own rows, and own entries of other inner rows."""
    most = 0
    for i in range(len(ids)):
        most += indptr[ids[i] + 1] - indptr[ids[i]]
    start = np.empty(len(ids) + 1, dtype=indptr.dtype)
    entries = np.empty(most, dtype=indices.dtype)
    start[0] = at = 0
    for i in range(len(ids)):
        v = ids[i]
        own = first <= v < last
        if 0 <= place[v] < (held if own else inner):
            for e in range(indptr[v], indptr[v + 1]):
                if own or first <= indices[e] < last:
                    entries[at] = local[indices[e]]
                    at += 1
        start[i + 1] = at
    return start, entries[:at].copy()


@compile_kernel
def least_class_above(
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
def rows_with_entry(indptr: IndexArray, indices: IndexArray, rows: Any, low: int, high: int) -> Any:
    """Whether each of `rows` has an entry from `low` to `high` - 1, (n,)."""
    found = np.zeros(len(rows), dtype=np.bool_)
    for i in range(len(rows)):
        for e in range(indptr[rows[i]], indptr[rows[i] + 1]):
            if low <= indices[e] < high:
                found[i] = True
                break
    return found


@compile_kernel
def entries_to(start: IndexArray, indices: IndexArray, rows: IndexArray, columns: Any) -> IndexArray:
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
