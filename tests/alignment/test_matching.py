"""Matching by weights and by activations: copies of a model are found again, and what is not a copy fits better."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from gnnsoup_hpc.alignment.matching import (
    Moments,
    Pair,
    align_states,
    match_all_by_weights,
    match_by_activations,
    match_by_weights,
    match_together,
    solve_assignment,
)
from gnnsoup_hpc.alignment.symmetry import identity_permutation, permute
from gnnsoup_hpc.models.base import Layout
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.types import Permutation, State
from tests.alignment.kit import HIDDEN, batches, every_architecture, same, shuffle, state_of, subgraph


def copies(net: Architecture, count: int = 4) -> list[State]:
    """A state, and permuted copies of it."""
    return [state_of(net), *(permute(net, state_of(net), shuffle(net, seed)) for seed in range(1, count))]


@every_architecture
def test_permuted_copies_become_equal_by_weights(net: Architecture) -> None:
    states = copies(net)
    assert all(same(found, states[2]) for found in align_states(net, states, reference=2))


@every_architecture
def test_permuted_copies_become_equal_by_activations(net: Architecture) -> None:
    states = copies(net)
    found = match_by_activations(net, states[0], states, batches())
    assert all(same(permute(net, state, order), states[0]) for state, order in zip(states, found, strict=True))


@every_architecture
def test_the_mean_of_aligned_copies_is_the_model(net: Architecture) -> None:
    states, graph = copies(net), subgraph()
    mean = {name: torch.stack([each[name] for each in align_states(net, states)]).mean(0) for name in states[0]}
    torch.testing.assert_close(net.forward(mean, graph), net.forward(states[0], graph), atol=1e-5, rtol=1e-5)


@every_architecture
def test_aligned_strangers_do_what_they_did(net: Architecture) -> None:
    states, graph = [state_of(net, seed) for seed in range(3)], subgraph()
    by_weight = align_states(net, states)
    orders = match_by_activations(net, states[0], states, batches())
    by_state = [permute(net, state, order) for state, order in zip(states, orders, strict=True)]
    for before, *after in zip(states, by_weight, by_state, strict=True):
        for each in after:
            torch.testing.assert_close(net.forward(each, graph), net.forward(before, graph), atol=1e-5, rtol=1e-5)


@every_architecture
def test_the_reference_matches_itself(net: Architecture) -> None:
    state = state_of(net)
    for order in (match_by_weights(net, state, state, 0), *match_by_activations(net, state, [state], batches())):
        assert order.keys() == identity_permutation(net).keys()
        assert all((order[name] == identity_permutation(net)[name]).all() for name in order)


@every_architecture
def test_strangers_come_closer_by_weights(net: Architecture) -> None:
    reference, state = state_of(net, 0), state_of(net, 1)
    pair = Pair(net, reference, state)
    found = match_by_weights(net, reference, state, 0)
    rivals = [identity_permutation(net), *(shuffle(net, seed) for seed in range(20))]
    assert all(pair.similarity(found) >= pair.similarity(rival) for rival in rivals)
    assert net.layers == 1 or pair.similarity(found) > pair.similarity(identity_permutation(net))


def test_similarity_is_the_inner_product_of_the_permuted_state() -> None:
    net = Architecture("gat", 3, 7, HIDDEN, 3, heads=3, norm="layer")
    reference, state, order = state_of(net, 0), state_of(net, 1), shuffle(net, 5)
    moved = permute(net, state, order)
    fixed = "convs.2.bias"  # carries no unit
    wanted = sum(float((reference[name].double() * moved[name].double()).sum()) for name in moved if name != fixed)
    assert Pair(net, reference, state).similarity(order) == pytest.approx(wanted, rel=1e-9)


def test_noisy_copies_are_found_again() -> None:
    net = Architecture("sage", 4, 7, HIDDEN, 3, norm="layer")
    state, order = state_of(net), shuffle(net, 3)
    noisy = {name: tensor + 0.02 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1))
             for name, tensor in state.items()}  # fmt: skip
    moved = permute(net, noisy, order)
    (by_state,) = match_by_activations(net, state, [moved], batches())
    for found in (match_by_weights(net, state, moved, 0), by_state):
        assert same(permute(net, moved, found), noisy)


@every_architecture
def test_together_the_sum_of_all_only_grows(net: Architecture) -> None:
    """The reference stays; nothing is changed where all are equal already."""
    states = [state_of(net, seed) for seed in range(4)]
    orders = [identity_permutation(net), *(match_by_weights(net, states[0], state, 0) for state in states[1:])]
    found = match_together(net, states, orders, 0, 0)
    before, after = (
        square_of_sum([permute(net, state, order) for state, order in zip(states, each, strict=True)])
        for each in (orders, found)
    )
    assert after >= before * (1 - 1e-9)
    assert same(permute(net, states[0], found[0]), states[0])
    equal = [states[0]] * 3
    assert all(
        same(permute(net, states[0], order), states[0])
        for order in match_together(net, equal, [identity_permutation(net)] * 3, 1, 0)
    )


def test_together_finds_what_a_poor_reference_hides() -> None:
    """Noisy copies of a model, and a stranger as the reference: matches to it differ, to one another they need not."""
    net = Architecture("sage", 2, 7, HIDDEN, 3)
    model, generator = state_of(net, 1), torch.Generator().manual_seed(0)
    noisy = [
        {name: tensor + 0.05 * torch.randn(tensor.shape, generator=generator) for name, tensor in model.items()}
        for _ in range(5)
    ]
    states = [state_of(net, 0), *(permute(net, state, shuffle(net, seed)) for seed, state in enumerate(noisy))]
    orders = [identity_permutation(net), *(match_by_weights(net, states[0], state, 0) for state in states[1:])]

    def spread_of(each: list[Permutation]) -> float:
        copies = [permute(net, state, order) for state, order in zip(states, each, strict=True)][1:]
        return sum(float(torch.stack([copy[name] for copy in copies]).var(0).sum()) for name in model)

    assert spread_of(match_together(net, states, orders, 0, 0)) < 0.5 * spread_of(orders)


def square_of_sum(states: list[State]) -> float:
    return sum(float(sum(state[name].double() for state in states).square().sum()) for name in states[0])


def test_neither_threads_nor_how_nodes_are_cut_up_change_the_result() -> None:
    net = Architecture("sage", 3, 7, HIDDEN, 3)
    reference, state = state_of(net, 0), state_of(net, 1)
    found = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found += [match_by_weights(net, reference, state, 0), *match_by_activations(net, reference, [state], batches())]
        found += match_all_by_weights(net, [reference, state, state_of(net, 2)], 0, 0)
    torch.set_num_threads(1)
    for name in identity_permutation(net):
        for one, three in zip(found[:5], found[5:], strict=True):
            assert (one[name] == three[name]).all()


def test_units_that_never_change_go_by_weights() -> None:
    """Dead units have no correlation; copies become equal all the same."""
    net = Architecture("gcn", 3, 7, HIDDEN, 3)
    state = state_of(net)
    state["convs.0.bias"][:4] = -100.0
    state["convs.1.bias"][3:6] = -100.0
    moved = permute(net, state, shuffle(net, 8))
    (order,) = match_by_activations(net, state, [moved], batches())
    assert same(permute(net, moved, order), state)


def test_correlation_is_numpys() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(3.0, 2.0, (50, 4)), rng.normal(-1.0, 1.0, (50, 4))
    ours[:, 1] = 7.0
    moments = Moments(4)
    for start in range(0, 50, 20):
        moments.add(ours[start : start + 20], theirs[start : start + 20])
    found = moments.correlation()
    for i, j in itertools.product(range(4), range(4)):
        wanted = 0.0 if i == 1 else np.corrcoef(ours[:, i], theirs[:, j])[0, 1]
        assert found[i, j] == pytest.approx(wanted, abs=1e-12)


def test_best_order_keeps_groups_together() -> None:
    """Against all orders that do."""
    layout, gain = Layout(3, 2), np.random.default_rng(4).normal(size=(6, 6))
    rivals = [
        np.concatenate([2 * group + np.array(inner) for group, inner in zip(groups, inners, strict=True)])
        for groups in itertools.permutations(range(3))
        for inners in itertools.product([(0, 1), (1, 0)], repeat=3)
    ]
    found = solve_assignment(gain, layout)
    gains = [gain[range(6), order].sum() for order in (found, *rivals)]
    assert gains[0] == pytest.approx(max(gains[1:]))
    assert any((found == rival).all() for rival in rivals)
