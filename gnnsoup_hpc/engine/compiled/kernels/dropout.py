"""Dropout whose masks are functions of a key and of places: utils/counter.py, compiled.

A number below `bar`, in [0, 2^32), drops; what is kept is multiplied by `scale`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gnnsoup_hpc.engine.compiled.kernels.base import compile_kernel
from gnnsoup_hpc.types import IndexArray
from gnnsoup_hpc.utils import counter

_GOLDEN, _FIRST, _SECOND = np.uint64(counter.GOLDEN), np.uint64(counter.FIRST), np.uint64(counter.SECOND)
_GOLDEN_32, _FIRST_32 = np.uint32(counter.GOLDEN_32), np.uint32(counter.FIRST_32)
_SECOND_32 = np.uint32(counter.SECOND_32)


@compile_kernel
def derive_key(key: Any, number: int) -> Any:
    """counter.derive_key."""
    z = np.uint64(key + np.uint64(number) * _GOLDEN)
    z = (z ^ (z >> np.uint64(30))) * _FIRST
    z = (z ^ (z >> np.uint64(27))) * _SECOND
    return z ^ (z >> np.uint64(31))


@compile_kernel
def draw(column: int, low: Any, high: Any) -> Any:
    """counter.draw: a number of 32 bits; each step is cut to as many, so that the compiler makes vectors of such."""
    x = np.uint32(np.uint32(np.uint32(column) * _GOLDEN_32) + low)
    x = np.uint32(np.uint32(x ^ (x >> np.uint32(16))) * _FIRST_32)
    x = np.uint32(x ^ high)
    x = np.uint32(np.uint32(x ^ (x >> np.uint32(15))) * _SECOND_32)
    return np.uint32(x ^ (x >> np.uint32(15)))


@compile_kernel
def drop_states(nodes: IndexArray, key: Any, bar: Any, scale: float, x: Any) -> None:
    """Drop from x (n, C), in place: the states of nodes (n,)."""
    zero, factor = x.dtype.type(0), x.dtype.type(scale)
    for r in range(len(x)):
        own = derive_key(key, nodes[r])
        low, high = np.uint32(own), np.uint32(own >> np.uint64(32))
        row = x[r]
        for j in range(len(row)):
            row[j] = row[j] * factor if draw(j, low, high) >= bar else zero


@compile_kernel
def drop_entries(
    first: int,
    last: int,
    start: IndexArray,
    indices: IndexArray,
    nodes: IndexArray,
    key: Any,
    bar: Any,
    scale: float,
    weights: Any,
    shift: int,
    out: Any,
) -> None:
    """out[e - shift, h] = weights[e - shift, h] after dropout, for the entries e of rows first to last - 1.

    nodes: of rows and columns, by which an entry is known.
    """
    zero, factor = weights.dtype.type(0), weights.dtype.type(scale)
    for r in range(first, last):
        of_row = derive_key(key, nodes[r])
        for e in range(start[r], start[r + 1]):
            own = derive_key(of_row, nodes[indices[e]])
            low, high = np.uint32(own), np.uint32(own >> np.uint64(32))
            for h in range(weights.shape[1]):
                kept = draw(h, low, high) >= bar
                out[e - shift, h] = weights[e - shift, h] * factor if kept else zero
