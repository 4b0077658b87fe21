"""The subgraph induced by ranges of nodes, from rows of CSR as they lie in a file."""

from __future__ import annotations

from gnnsoup_hpc.engine.compiled.kernels.base import compile_kernel
from gnnsoup_hpc.types import IndexArray, IntArray


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
) -> int:
    """Append the rows of one range of nodes, without what leads out of all ranges; how many entries there are then.

    Shapes: bounds (n + 1,), where each row starts in the file; neighbours (bounds[n] - bounds[0],) by their ids there.
    Node v of the range starts[r] <= v < stops[r] (R,), in rising order, is local node v - shifts[r]. Fills indptr from
    `row` + 1 on and entries from `filled` on, which may lie in the memory of `neighbours` at or before its beginning.
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
                filled += 1
        indptr[row + i + 1] = filled
    return filled
