"""What may be permuted in a model without a change of its outputs, as data.

A set of units is a hidden layer's, and of GAT's last layer its heads, which are averaged. Every parameter is looked at
as a matrix: a weight (out, in) as it is, a bias, a norm's weight or an attention vector as one column. Its rows or its
columns carry the units of a set; a permutation of the set moves them along. Units come in groups: GAT's heads, which
may be permuted as wholes, and the channels within each. GCN's and GraphSAGE's layers are one group.

A permutation is one index array a set, (units,): place i takes what was unit order[i].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.types import Permutation, State


@dataclass(frozen=True)
class Layout:
    """How a set's units lie: `groups` of `size`; a unit of GAT's last layer is a head, in one group by itself."""

    groups: int
    size: int

    @property
    def units(self) -> int:
        """Units in all."""
        return self.groups * self.size


@dataclass(frozen=True)
class Carrier:
    """Whose units a parameter's rows and columns carry; None: those of no set, which stay where they are."""

    parameter: str
    rows: str | None
    columns: str | None


def unit_layouts(net: Architecture) -> dict[str, Layout]:
    """The sets of units of an architecture by name, from the first layer on; none where nothing may be permuted."""
    groups = net.heads if net.kind == "gat" else 1
    sets = {hidden(layer): Layout(groups, net.hidden // groups) for layer in range(net.layers - 1)}
    return sets | ({heads(net): Layout(net.heads, 1)} if net.heads > 1 else {})


def hidden(layer: int) -> str:
    """Name of the set of a hidden layer's units."""
    return f"layer {layer}"


def heads(net: Architecture) -> str:
    """Name of the set of the last layer's heads."""
    return f"layer {net.layers - 1} heads"


def carriers(net: Architecture) -> tuple[Carrier, ...]:
    """Every parameter that carries units of some set."""
    found = (Carrier(name, _rows(net, name), _columns(name)) for name in net.shapes())
    return tuple(carrier for carrier in found if carrier.rows or carrier.columns)


def _rows(net: Architecture, name: str) -> str | None:
    layer = _layer(name)
    if layer < net.layers - 1:
        return hidden(layer)
    # The last bias is added to the heads' mean, so it carries classes alone.
    return heads(net) if net.heads > 1 and not name.endswith("bias") else None


def _columns(name: str) -> str | None:
    layer = _layer(name)
    is_matrix = name.startswith("convs.") and name.endswith("weight")
    return hidden(layer - 1) if is_matrix and layer > 0 else None


def _layer(name: str) -> int:
    return int(name.split(".")[1])


def as_matrix(name: str, tensor: Tensor) -> Tensor:
    """A parameter as a matrix (rows, columns), a view of it; see above."""
    return tensor if name.startswith("convs.") and name.endswith("weight") else tensor.reshape(-1, 1)


def identity_permutation(net: Architecture) -> Permutation:
    """The permutation that leaves everything where it is."""
    return {name: np.arange(layout.units) for name, layout in unit_layouts(net).items()}


def permute(net: Architecture, state: Mapping[str, Tensor], permutation: Permutation) -> State:
    """The state with its units moved along, parameters bit for bit, in PyG's order; outputs are the same.

    Shapes: as they were. Raises: ValueError for a permutation of other sets than the architecture's.
    """
    if permutation.keys() != unit_layouts(net).keys():
        raise ValueError(f"a permutation of {list(permutation)}; the model has {list(unit_layouts(net))}")
    moved = {name: state[name] for name in net.shapes()}
    for carrier in carriers(net):
        tensor = state[carrier.parameter]
        values = as_matrix(carrier.parameter, tensor)
        if carrier.rows:
            values = values[expand_order(permutation[carrier.rows], len(values)).to(values.device)]
        if carrier.columns:
            values = values[:, torch.from_numpy(permutation[carrier.columns]).to(values.device)]
        moved[carrier.parameter] = values.contiguous().view(tensor.shape)
    return moved


def expand_order(order: np.ndarray, rows: int) -> Tensor:
    """An order of units as one of rows, of which each unit has rows / units in succession."""
    repeat = rows // len(order)
    return torch.from_numpy((order[:, None] * repeat + np.arange(repeat)).reshape(-1))
