"""Permutations of a model's hidden units, which change no output. What may be permuted the model says (`symmetries`).

A set of units is a hidden layer's, and of GAT's last layer its heads, which are averaged. Every parameter is looked at
as a matrix: a weight (out, in) as it is, a bias, a norm's weight or an attention vector as one column. Its rows or its
columns carry the units of a set; a permutation of the set moves them along. Units come in groups: GAT's heads, which
may be permuted as wholes, and the channels within each. GCN's and GraphSAGE's layers are one group.

A permutation is one index array a set, (units,): place i takes what was unit order[i].
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from gnnsoup_hpc.models.base import Carrier, Layout, Model, Symmetries
from gnnsoup_hpc.types import Permutation, State

_NONE = Symmetries({}, (), frozenset())


def symmetries(net: Model) -> Symmetries:
    """What may be permuted in a model; nothing of one that does not say."""
    return net.symmetries or _NONE


def unit_layouts(net: Model) -> Mapping[str, Layout]:
    """The sets of units of a model by name, from the first layer on; none where nothing may be permuted."""
    return symmetries(net).layouts


def as_matrix(known: Symmetries, name: str, tensor: Tensor) -> Tensor:
    """A parameter as a matrix (rows, columns), a view of it; see above."""
    return tensor if name in known.matrices else tensor.reshape(-1, 1)


def identity_permutation(net: Model) -> Permutation:
    """The permutation that leaves everything where it is."""
    return {name: np.arange(layout.units) for name, layout in unit_layouts(net).items()}


def permute(net: Model, state: Mapping[str, Tensor], permutation: Permutation) -> State:
    """The state with its units moved along, parameters bit for bit, in PyG's order; outputs are the same.

    Shapes: as they were. Raises: ValueError for a permutation of other sets than the architecture's.
    """
    known = symmetries(net)
    if permutation.keys() != known.layouts.keys():
        raise ValueError(f"a permutation of {list(permutation)}; the model has {list(known.layouts)}")
    moved = {name: state[name] for name in net.shapes()}
    for carrier in known.carriers:
        tensor = state[carrier.parameter]
        values = move_units(as_matrix(known, carrier.parameter, tensor), carrier, permutation)
        moved[carrier.parameter] = values.contiguous().view(tensor.shape)
    return moved


def move_units(values: Tensor, carrier: Carrier, orders: Permutation) -> Tensor:
    """A carrier's matrix with the units moved along of those of its sides that `orders` has.

    A unit is rows / units rows in succession.
    """
    if carrier.rows and carrier.rows in orders:
        order = torch.from_numpy(orders[carrier.rows]).to(values.device)
        values = values.reshape(len(order), -1, values.shape[1])[order].flatten(0, 1)
    if carrier.columns and carrier.columns in orders:
        values = values[:, torch.from_numpy(orders[carrier.columns]).to(values.device)]
    return values
