"""Which unit goes where: assignments of the highest gain, by groups and within them."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from gnnsoup_hpc.models.base import Layout
from gnnsoup_hpc.types import Doubles, IntArray


def solve_assignment(gain: Doubles, layout: Layout) -> IntArray:
    """Order (units,) with the highest sum of gain[i, order[i]] among those that keep groups together.

    gain (units, units) float64: of unit j at place i. For each pair of groups the best assignment within it, then that
    of groups, whose gains are what it reached within them.
    """
    inner = np.empty((layout.groups, layout.groups, layout.size), dtype=np.int64)
    reached = np.empty((layout.groups, layout.groups))
    blocks = gain.reshape(layout.groups, layout.size, layout.groups, layout.size)
    for place in range(layout.groups):
        for group in range(layout.groups):
            block = blocks[place, :, group, :]
            rows, inner[place, group] = linear_sum_assignment(block, maximize=True)
            reached[place, group] = block[rows, inner[place, group]].sum()
    places, groups = linear_sum_assignment(reached, maximize=True)
    return np.asarray(groups[:, None] * layout.size + inner[places, groups]).reshape(-1)


def total_gain(gain: Doubles, order: IntArray) -> float:
    """What an order gains."""
    return float(gain[np.arange(len(order)), order].sum())
