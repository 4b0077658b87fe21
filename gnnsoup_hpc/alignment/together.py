"""All ingredients matched to one another: each in turn to the sum of all others, until that sum hardly grows.

Matched to one reference alone, two ingredients may still lie far from each other, and the mean of all suffers. Each
turn is weight matching from where the ingredient stands, so the norm of the sum of all only rises, and it ends. Source:
Ainsworth et al., Git Re-Basin, arXiv 2209.04836, algorithm 3 (MergeMany). Ours differs in that it begins from matches
to the reference, which stays as it is, and ends where a round no longer pays rather than where nothing at all moves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from gnnsoup_hpc.alignment.symmetry import permute, symmetries
from gnnsoup_hpc.alignment.weights import Pair, descend
from gnnsoup_hpc.engine.compiled.threads import ThreadTeam
from gnnsoup_hpc.models.base import Model
from gnnsoup_hpc.types import Permutation
from gnnsoup_hpc.utils.rng import numpy_generator

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
        whole = _sum([_moved(net, state, order) for state, order in zip(states, found, strict=True)])
        grows = len(others) > 1  # of two, the other is matched to the reference already
        while grows:
            before = _square(whole)
            for number in generator.permutation(others).tolist():
                rest = {name: whole[name] - part for name, part in _moved(net, states[number], found[number]).items()}
                found[number] = descend(Pair(net, rest, states[number]), found[number], seed)
                whole = _sum([rest, _moved(net, states[number], found[number])])
            grows = _square(whole) > before * (1.0 + SETTLED)
    return found


def _moved(net: Model, state: Mapping[str, Tensor], order: Permutation) -> dict[str, Tensor]:
    """A state's parameters that carry units, in an order, in float64."""
    moved = permute(net, state, order)
    return {each.parameter: moved[each.parameter].detach().cpu().double() for each in symmetries(net).carriers}


def _sum(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: sum((state[name] for state in states[1:]), states[0][name]) for name in states[0]}


def _square(state: Mapping[str, Tensor]) -> float:
    """Squared norm."""
    return float(sum(np.vdot(tensor.numpy(), tensor.numpy()) for tensor in state.values()))
