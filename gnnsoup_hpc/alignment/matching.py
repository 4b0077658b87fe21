"""Which unit goes where: assignments of the highest gain, by groups and within them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from gnnsoup_hpc.alignment.symmetry import as_matrix, expand_order, identity_permutation, permute, symmetries
from gnnsoup_hpc.engine.compiled.threads import ThreadTeam
from gnnsoup_hpc.models.base import Carrier, Layout, Model, Symmetries
from gnnsoup_hpc.types import Doubles, IntArray, Permutation
from gnnsoup_hpc.utils.rng import numpy_generator


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


# ---- weights
# Weight matching: the permutation whose weights have the largest inner product with a reference's.
#
# By coordinate descent: one set of units at a time, exactly, given the others' present orders, until none improves;
# that ends, since the inner product rises each time. Source: Ainsworth et al., Git Re-Basin, arXiv 2209.04836,
# algorithm 1. Ours differs in where it begins. The paper begins from the identity, which may end in a poor optimum:
# the first layers are then matched by columns of later ones that are in no order yet. Here it begins from the best of
# three: the identity, and orders found from the first set on, or from the last one back, from those weights alone
# whose other side is known.

_ROUNDING = 1e-12  # of the largest possible inner product: less is no improvement


def match_by_weights(
    net: Model, reference: Mapping[str, Tensor], state: Mapping[str, Tensor], seed: int
) -> Permutation:
    """The permutation of `state` that best matches `reference`; the same for any number of threads.

    `seed` is that of the order in which sets are visited. Holds both states in float64.
    """
    pair = Pair(net, reference, state)
    with ThreadTeam():  # products on one thread, so that they do not depend on how many there are
        names = list(pair.layouts)
        starts = [identity_permutation(net), pair.one_by_one(names), pair.one_by_one(names[::-1])]
        similar = [pair.similarity(start) for start in starts]
        return descend(pair, starts[int(np.argmax(similar))], seed)


def descend(pair: Pair, start: Permutation, seed: int) -> Permutation:
    """Where coordinate descent from `start` ends.

    A set is looked at again once one that shares a weight with it has changed.
    """
    generator, orders, stale = numpy_generator(seed), dict(start), set(start)
    while stale:
        for name in generator.permutation(sorted(stale)).tolist():
            stale.discard(name)
            gain = pair.gain(name, orders)
            order = solve_assignment(gain, pair.layouts[name])
            if total_gain(gain, order) > total_gain(gain, orders[name]) + _ROUNDING * pair.scale:
                orders[name] = order
                stale |= pair.neighbours[name]
    return orders


class Pair:
    """A reference and a state to be permuted, both in float64."""

    def __init__(self, net: Model, reference: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
        known = symmetries(net)
        self.layouts, self._carriers = known.layouts, known.carriers
        self.neighbours = {
            name: {s for c in self._carriers if name in (c.rows, c.columns) for s in (c.rows, c.columns) if s} - {name}
            for name in self.layouts
        }
        self._here = {each.parameter: _to_matrix(known, reference, each.parameter) for each in self._carriers}
        self._there = {each.parameter: _to_matrix(known, state, each.parameter) for each in self._carriers}
        self.scale = float(sum(np.linalg.norm(a) * np.linalg.norm(self._there[n]) for n, a in self._here.items()))

    def gain(self, name: str, orders: Permutation) -> Doubles:
        """Inner products (units, units) of the reference's units (rows) with the state's.

        Over all weights that carry the set, the other sides of which stand in `orders`; a side that does not is not
        known yet, and the weight does not count.
        """
        units = self.layouts[name].units
        found = np.zeros((units, units))
        others = {other: order for other, order in orders.items() if other != name}
        for carrier in self._carriers:
            sides = {carrier.rows, carrier.columns}
            if name in sides and sides <= {name, None, *others}:
                here, moved = self._here[carrier.parameter], self._move(carrier, others)
                if carrier.rows == name:
                    found += here.reshape(units, -1) @ moved.reshape(units, -1).T
                else:
                    found += here.T @ moved
        return found

    def one_by_one(self, names: Iterable[str]) -> Permutation:
        """Sets matched in turn, each by weights whose other side is known by then."""
        orders: dict[str, IntArray] = {}
        for name in names:
            orders[name] = solve_assignment(self.gain(name, orders), self.layouts[name])
        return {name: orders[name] for name in self.layouts}

    def similarity(self, orders: Permutation) -> float:
        """The inner product of the reference with the state in these orders, over weights that carry units."""
        return float(sum(np.vdot(self._here[each.parameter], self._move(each, orders)) for each in self._carriers))

    def _move(self, carrier: Carrier, orders: Permutation) -> Doubles:
        """What the state has of a carrier, with the sides that are in `orders` moved."""
        there = self._there[carrier.parameter]
        rows, columns = carrier.rows, carrier.columns
        if rows and rows in orders:
            there = there[expand_order(orders[rows], len(there)).numpy()]
        return there[:, orders[columns]] if columns and columns in orders else there


def _to_matrix(known: Symmetries, state: Mapping[str, Tensor], name: str) -> Doubles:
    return as_matrix(known, name, state[name].detach().cpu().double()).numpy()


# ---- together
# All ingredients matched to one another: each in turn to the sum of all others, until that sum hardly grows.
#
# Matched to one reference alone, two ingredients may still lie far from each other, and the mean of all suffers. Each
# turn is weight matching from where the ingredient stands, so the norm of the sum of all only rises, and it ends.
# Source: Ainsworth et al., Git Re-Basin, arXiv 2209.04836, algorithm 3 (MergeMany). Ours differs in that it begins
# from matches to the reference, which stays as it is, and ends where a round no longer pays rather than where nothing
# at all moves.

SETTLED = 1e-3  # growth of the sum's squared norm, relative, for which another round does not pay


def match_together(
    net: Model, states: Sequence[Mapping[str, Tensor]], orders: Sequence[Permutation], reference: int, seed: int
) -> list[Permutation]:
    """Better permutations of `states` than `orders`, or those; the reference's is kept. The same on any threads.

    `seed` is that of the turns. Holds a few states in float64 beside `states`.
    """
    found, generator = list(orders), numpy_generator(seed)
    others = [number for number in range(len(states)) if number != reference]
    with ThreadTeam():  # products on one thread, so that they do not depend on how many there are
        whole = _sum([_move(net, state, order) for state, order in zip(states, found, strict=True)])
        grows = len(others) > 1  # of two, the other is matched to the reference already
        while grows:
            before = _square(whole)
            for number in generator.permutation(others).tolist():
                rest = {name: whole[name] - part for name, part in _move(net, states[number], found[number]).items()}
                found[number] = descend(Pair(net, rest, states[number]), found[number], seed)
                whole = _sum([rest, _move(net, states[number], found[number])])
            grows = _square(whole) > before * (1.0 + SETTLED)
    return found


def _move(net: Model, state: Mapping[str, Tensor], order: Permutation) -> dict[str, Tensor]:
    """A state's parameters that carry units, in an order, in float64."""
    moved = permute(net, state, order)
    return {each.parameter: moved[each.parameter].detach().cpu().double() for each in symmetries(net).carriers}


def _sum(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: sum((state[name] for state in states[1:]), states[0][name]) for name in states[0]}


def _square(state: Mapping[str, Tensor]) -> float:
    """Squared norm."""
    return float(sum(np.vdot(tensor.numpy(), tensor.numpy()) for tensor in state.values()))
