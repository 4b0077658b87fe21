"""Hidden units of one model put in the order of another's, which changes no output.

Pure functions of an architecture and states; who aligns what to what in a run is soup/alignment.py's to say.
Source: Ainsworth et al., Git Re-Basin, ICLR 2023, arXiv 2209.04836.
"""

from __future__ import annotations

from collections.abc import Sequence

from gnnsoup_hpc.alignment.activations import match_by_activations
from gnnsoup_hpc.alignment.matching import match_by_weights, match_together
from gnnsoup_hpc.alignment.symmetry import identity_permutation, permute, unit_layouts
from gnnsoup_hpc.models.base import Model
from gnnsoup_hpc.types import Permutation, State

__all__ = [
    "align_states",
    "identity_permutation",
    "match_all_by_weights",
    "match_by_activations",
    "match_by_weights",
    "match_together",
    "permute",
    "unit_layouts",
]


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
