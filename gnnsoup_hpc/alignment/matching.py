"""Which unit goes where: assignments of the highest gain, from weights or from activations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from gnnsoup_hpc.alignment.symmetry import (
    as_matrix,
    identity_permutation,
    move_units,
    permute,
    symmetries,
    unit_layouts,
)
from gnnsoup_hpc.engine.threads import ThreadTeam
from gnnsoup_hpc.engine.torch import TorchEngine
from gnnsoup_hpc.graph.subgraph import Batch
from gnnsoup_hpc.models.base import LayeredModel, Layout, Model
from gnnsoup_hpc.types import Doubles, IntArray, Permutation, State
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
            places = np.arange(len(order))
            if gain[places, order].sum() > gain[places, orders[name]].sum() + _ROUNDING * pair.scale:
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
        self._here, self._there = (
            {name: as_matrix(known, name, side[name].double().cpu()) for name in [c.parameter for c in self._carriers]}
            for side in (reference, state)
        )
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
                here = self._here[carrier.parameter].numpy()
                moved = move_units(self._there[carrier.parameter], carrier, others).numpy()
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
        return orders

    def similarity(self, orders: Permutation) -> float:
        """The inner product of the reference with the state in these orders, over weights that carry units."""
        moved = {each.parameter: move_units(self._there[each.parameter], each, orders) for each in self._carriers}
        return float(sum(np.vdot(here.numpy(), moved[name].numpy()) for name, here in self._here.items()))


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


def align_states(net: Model, states: Sequence[State], reference: int = 0, seed: int = 0) -> list[State]:
    """Each of `states` with its hidden units in the order of states[reference]'s, by weights; same outputs as before.

    The reference itself comes back as it is.
    """
    orders = match_all_by_weights(net, states, reference, seed)
    return [permute(net, state, order) for state, order in zip(states, orders, strict=True)]


def match_all_by_weights(net: Model, states: Sequence[State], reference: int, seed: int) -> list[Permutation]:
    """For each of `states` the permutation that matches it to the reference, then to all others together."""
    first = states[reference]
    orders = [
        identity_permutation(net) if number == reference else match_by_weights(net, first, state, seed)
        for number, state in enumerate(states)
    ]
    return match_together(net, states, orders, reference, seed)


# ---- activations
# Activation matching: units that do the same on the same nodes, by the correlation of their states.
#
# States are those after the activation, at the nodes that views ask for; no label is looked at. Sums run over a stream
# of subgraphs, so no more than one of them is in memory. Each set of units is matched by itself, which is exact. What
# has no state of its own, the heads of GAT's last layer, and units that never change, so that nothing correlates with
# them, go by weights. Source: Li et al., Convergent Learning, arXiv 1511.07543; Ainsworth et al., Git Re-Basin, arXiv
# 2209.04836, section 3.1, which takes inner products where we take correlations.

_ENGINE = TorchEngine()
_CONSTANT = 1e-9  # variance over mean square: less is rounding, so the unit never changes
_TIE = 1e-6  # share of the weights' say beside a correlation: it decides only where correlations do not


def match_by_activations(
    net: LayeredModel, reference: State, states: Sequence[State], batches: Iterable[Batch]
) -> list[Permutation]:
    """For each of `states`, the permutation that best matches `reference`; the same for any number of threads.

    `batches` are subgraphs whose seed nodes' states are compared; of features and structure as in the whole graph.
    Holds, beside a batch and a layer's states of it, a (hidden, hidden) float64 matrix a state and layer.
    """
    seen = [[Moments(net.widths(layer)[1]) for layer in range(net.layers - 1)] for _ in states]
    with ThreadTeam():  # one thread a product, so that sums do not depend on how many there are
        for batch in batches if seen else ():
            plan = _ENGINE.plan(net, batch, train=True)  # every row: what the whole graph has, and not the seeds alone
            wanted = [ours.double().cpu().numpy() for ours in _ENGINE.hidden_states(plan, reference)]
            for state, moments in zip(states, seen, strict=True):
                for one, ours, theirs in zip(moments, wanted, _ENGINE.hidden_states(plan, state), strict=True):
                    one.add(ours, theirs.double().cpu().numpy())
        pairs = zip(states, seen, strict=True)
        return [_match(net, Pair(net, reference, state), moments) for state, moments in pairs]


class Moments:
    """Sums over nodes that a correlation is made of.

    Shapes: ones, squares (2, hidden): ours and theirs; products (hidden, hidden).
    """

    def __init__(self, units: int) -> None:
        self.nodes = 0
        self.ones, self.squares = np.zeros((2, units)), np.zeros((2, units))
        self.products = np.zeros((units, units))

    def add(self, ours: Doubles, theirs: Doubles) -> None:
        """Count the states (n, hidden) of the same n nodes."""
        self.nodes += len(ours)
        self.ones += ours.sum(0), theirs.sum(0)
        self.squares += (ours**2).sum(0), (theirs**2).sum(0)
        self.products += ours.T @ theirs

    def correlation(self) -> Doubles:
        """Of our unit (row) with theirs (column); 0 for a unit that never changes."""
        nodes = max(1, self.nodes)
        mean, square = self.ones / nodes, self.squares / nodes
        variance = square - mean**2
        changes = variance > _CONSTANT * square
        scale = np.where(changes, 1 / np.sqrt(np.where(changes, variance, 1.0)), 0.0)
        covariance = self.products / nodes - np.outer(mean[0], mean[1])
        return np.asarray(scale[0][:, None] * covariance * scale[1])


def _match(net: LayeredModel, pair: Pair, seen: Sequence[Moments]) -> Permutation:
    """Sets from the first layer on; each gain is a correlation where there is one, and the weights' say besides."""
    found = {
        name: moments.correlation() for name, moments in zip(unit_layouts(net), seen, strict=False)
    }  # hidden layers come first
    orders: dict[str, IntArray] = {}
    for name, layout in unit_layouts(net).items():
        weights = pair.gain(name, orders)
        largest = float(np.abs(weights).max(initial=0.0)) or 1.0
        orders[name] = solve_assignment(found.get(name, np.zeros_like(weights)) + _TIE * weights / largest, layout)
    return orders
