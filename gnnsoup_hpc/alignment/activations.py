"""Activation matching: units that do the same on the same nodes, by the correlation of their states.

States are those after the activation, at the nodes that views ask for; no label is looked at. Sums run over a stream of
subgraphs, so no more than one of them is in memory. Each set of units is matched by itself, which is exact. What has no
state of its own, the heads of GAT's last layer, and units that never change, so that nothing correlates with them, go
by weights. Source: Li et al., Convergent Learning, arXiv 1511.07543; Ainsworth et al., Git Re-Basin, arXiv 2209.04836,
section 3.1, which takes inner products where we take correlations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from torch import Tensor

from gnnsoup_hpc.alignment.matching import Pair, solve_assignment
from gnnsoup_hpc.alignment.symmetry import unit_layouts
from gnnsoup_hpc.engine.compiled.threads import ThreadTeam
from gnnsoup_hpc.engine.torch import TorchEngine, TorchPlan
from gnnsoup_hpc.graph.subgraph import Batch
from gnnsoup_hpc.models.base import LayeredModel
from gnnsoup_hpc.types import Doubles, IntArray, Permutation, State

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
            wanted = list(_hidden_states(plan, reference))
            for state, moments in zip(states, seen, strict=True):
                for one, ours, theirs in zip(moments, wanted, _hidden_states(plan, state), strict=True):
                    one.add(ours, theirs)
        pairs = zip(states, seen, strict=True)
        return [_match(net, Pair(net, reference, state), moments) for state, moments in pairs]


def _hidden_states(plan: TorchPlan, state: Mapping[str, Tensor]) -> Iterator[Doubles]:
    """States of the seed nodes after each hidden layer, (n, hidden)."""
    for states in _ENGINE.hidden_states(plan, state):
        yield states.double().cpu().numpy()


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
