"""Permutations of units: no output changes, every parameter that carries units goes along."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given

from gnnsoup_hpc.alignment.symmetry import identity_permutation, permute, symmetries, unit_layouts
from gnnsoup_hpc.models.gnn import Architecture
from tests.alignment.kit import HIDDEN, every_architecture, same, shuffle, state_of, subgraph
from tests.arbitrary import SEEDS, Structure, in_double, structures


@every_architecture
def test_no_permutation_changes_an_output(net: Architecture) -> None:
    state, graph = state_of(net), subgraph()
    moved = permute(net, state, shuffle(net, 1))
    torch.testing.assert_close(net.forward(moved, graph), net.forward(state, graph), atol=1e-5, rtol=1e-5)
    exact, doubled = ({name: tensor.double() for name, tensor in each.items()} for each in (state, moved))
    double = in_double(graph)
    torch.testing.assert_close(net.forward(doubled, double), net.forward(exact, double), atol=1e-10, rtol=0.0)
    assert net.layers == 1 or not same(moved, state)


@given(structures(), SEEDS)
def test_on_any_graph(shape: Structure, seed: int) -> None:
    net = Architecture("gat", 3, 7, HIDDEN, 3, heads=2, norm="layer")
    state, graph = state_of(net), subgraph(shape, seed)
    moved = permute(net, state, shuffle(net, seed))
    torch.testing.assert_close(net.forward(moved, graph), net.forward(state, graph), atol=1e-5, rtol=1e-5)


@every_architecture
def test_a_permutation_and_its_inverse_are_nothing(net: Architecture) -> None:
    state, there = state_of(net), shuffle(net, 2)
    back = {name: np.argsort(order) for name, order in there.items()}
    assert same(permute(net, permute(net, state, there), back), state)
    assert same(permute(net, state, identity_permutation(net)), state)


def test_what_may_be_permuted() -> None:
    assert unit_layouts(Architecture("sage", 1, 7, 12, 3)) == {}
    assert [
        (name, each.groups, each.size) for name, each in unit_layouts(Architecture("gcn", 3, 7, 12, 3)).items()
    ] == [
        ("layer 0", 1, 12),
        ("layer 1", 1, 12),
    ]
    gat = unit_layouts(Architecture("gat", 2, 7, 12, 3, heads=3))
    assert [(name, each.groups, each.size) for name, each in gat.items()] == [
        ("layer 0", 3, 4),
        ("layer 1 heads", 3, 1),
    ]
    assert list(unit_layouts(Architecture("gat", 1, 7, 12, 3, heads=3))) == ["layer 0 heads"]


def test_carriers_of_sage_with_norms() -> None:
    known = symmetries(Architecture("sage", 2, 7, 12, 3, 1, "layer"))
    found = {each.parameter: (each.rows, each.columns) for each in known.carriers}
    assert found == {
        "convs.0.lin_l.weight": ("layer 0", None),
        "convs.0.lin_l.bias": ("layer 0", None),
        "convs.0.lin_r.weight": ("layer 0", None),
        "convs.1.lin_l.weight": (None, "layer 0"),
        "convs.1.lin_r.weight": (None, "layer 0"),
        "norms.0.weight": ("layer 0", None),
        "norms.0.bias": ("layer 0", None),
    }


def test_place_i_takes_what_was_unit_order_i() -> None:
    net = Architecture("gcn", 2, 7, 3, 2)
    state = state_of(net)
    moved = permute(net, state, {"layer 0": np.array([2, 0, 1])})
    assert torch.equal(moved["convs.0.bias"], state["convs.0.bias"][[2, 0, 1]])
    assert torch.equal(moved["convs.0.lin.weight"], state["convs.0.lin.weight"][[2, 0, 1]])
    assert torch.equal(moved["convs.1.lin.weight"], state["convs.1.lin.weight"][:, [2, 0, 1]])
    assert torch.equal(moved["convs.1.bias"], state["convs.1.bias"])


def test_a_permutation_of_another_architecture_is_refused() -> None:
    net = Architecture("gcn", 2, 7, 12, 3)
    with pytest.raises(ValueError, match="the model has"):
        permute(net, state_of(net), identity_permutation(Architecture("gcn", 3, 7, 12, 3)))
