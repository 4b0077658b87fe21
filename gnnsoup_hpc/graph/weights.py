"""Weights of edges that are merged with them: of a source that is prepared, and of a graph that is predicted on."""

from __future__ import annotations

from typing import Any

import numpy as np

from gnnsoup_hpc.types import Doubles, IndexArray, IntArray


def merge_weights(
    row: IntArray, column: IndexArray, source: IndexArray, destination: IndexArray, weight: Doubles, nodes: int
) -> Doubles:
    """The weight of each entry of a structure, (E,): the sum of those of its edges in the source.

    An entry that the source lacks weighs what its reverse does, and a self-loop 1.
    row, column (E,): the structure, sorted, of no edges but these: of the source, their reverses, self-loops.
    source, destination, weight: edges, of which self-loops that the structure lacks are left out.
    """
    keys = row * nodes + column
    wanted = destination.astype(np.int64) * nodes + source
    place = np.searchsorted(keys, wanted)
    found: Any = np.append(keys, -1)[place] == wanted
    place = place[found]
    merged: Any = np.bincount(place, weights=weight[found], minlength=len(keys))
    missing = np.flatnonzero(np.bincount(place, minlength=len(keys)) == 0)
    loops = column[missing] == row[missing]
    merged[missing[loops]] = 1.0
    others = missing[~loops]
    merged[others] = merged[np.searchsorted(keys, column[others].astype(np.int64) * nodes + row[others])]
    return np.asarray(merged, dtype=np.float64)


def find_unfit(weight: Doubles) -> int | None:
    """The first that is no weight: not finite, or negative."""
    wrong = np.flatnonzero(~((weight >= 0) & (weight < np.inf)))
    return int(wrong[0]) if len(wrong) else None
