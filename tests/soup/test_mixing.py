"""Mixing and the matrix: exact at the corners, a weighted sum in between, whatever the grouping."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.soup import mixing
from gnnsoup_hpc.soup.mixing import ParameterMatrix, mix
from gnnsoup_hpc.types import Grouping, State
from tests.arbitrary import SEEDS, normal
from tests.runs import CPU

GROUPINGS: list[Grouping] = ["layer", "tensor", "model"]
NETS = [
    Architecture(kind, layers, 4, 6, 3, heads, norm)
    for kind, heads in (("gcn", 1), ("sage", 1), ("gat", 2))
    for layers, norm in ((1, "none"), (2, "layer"), (12, "layer"))
]
nets = st.sampled_from(NETS)
groupings = st.sampled_from(GROUPINGS)


def states(net: Architecture, seed: int, count: int = 3) -> list[State]:
    return [
        {name: normal(seed + index, *shape, kind=torch.float32) for name, shape in net.shapes().items()}
        for index in range(count)
    ]


def matrix_of(net: Architecture, rows: list[State]) -> ParameterMatrix:
    return ParameterMatrix.of(net, range(len(rows)), rows, CPU)


@given(nets, SEEDS)
def test_states_come_back_from_their_rows(net: Architecture, seed: int) -> None:
    rows = states(net, seed)
    matrix = matrix_of(net, rows)
    assert len(matrix) == 3
    assert matrix.ids == (0, 1, 2)
    for row, wanted in zip(matrix.weights, rows, strict=True):
        found = matrix.state(row)
        assert list(found) == list(net.shapes())
        assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


@given(nets, groupings)
def test_groups_lie_side_by_side_and_cover_a_row_once(net: Architecture, by: Grouping) -> None:
    matrix = matrix_of(net, states(net, 0, 1))
    spans = list(matrix.groups(by).values())
    assert spans[0][0] == 0
    assert [stop for _, stop in spans[:-1]] == [start for start, _ in spans[1:]]
    assert spans[-1][1] == matrix.weights.shape[1]
    assert matrix.groups(by).keys() == net.groups(by).keys()


@given(nets, groupings, SEEDS)
def test_a_mixture_is_the_weighted_sum_of_each_group(net: Architecture, by: Grouping, seed: int) -> None:
    rows = states(net, seed)
    matrix = matrix_of(net, rows)
    alpha = normal(seed, len(matrix.groups(by)), 3).softmax(1)
    found = mix(matrix, alpha, by)
    for share, group in zip(alpha, matrix.groups(by), strict=True):
        for name in net.groups(by)[group]:
            wanted = sum(part * row[name].double() for part, row in zip(share, rows, strict=True))
            torch.testing.assert_close(found[name].double(), wanted, atol=1e-6, rtol=1e-6)


@given(nets, groupings, st.integers(0, 2))
def test_one_weight_of_one_gives_that_ingredient_bit_for_bit(net: Architecture, by: Grouping, index: int) -> None:
    rows = states(net, 5)
    matrix = matrix_of(net, rows)
    alpha = torch.eye(3, dtype=torch.float64)[index].expand(len(matrix.groups(by)), 3)
    found = mix(matrix, alpha, by)
    assert all(torch.equal(found[name], tensor) for name, tensor in rows[index].items())


@pytest.mark.parametrize("shape", [(1, 3), (2, 2), (3, 3)])
def test_an_alpha_of_another_shape_is_refused(shape: tuple[int, int]) -> None:
    net = Architecture("gcn", 2, 4, 6, 3)
    with pytest.raises(ValueError, match=r"expected \(2, 3\)"):
        mix(matrix_of(net, states(net, 0)), torch.ones(shape, dtype=torch.float64), "layer")


@given(nets, groupings, SEEDS)
def test_what_a_gpu_computes_is_the_same(net: Architecture, by: Grouping, seed: int) -> None:
    """By its operations, on a CPU."""
    matrix = matrix_of(net, states(net, seed))
    groups, group_of = matrix.groups(by), matrix.group_of(by)
    alpha = normal(seed, len(groups), len(matrix))
    ours = matrix.state(mixing._mix_there(matrix.weights, alpha.float(), group_of))
    torch.testing.assert_close(ours, mix(matrix, alpha, by))
    one = torch.eye(len(matrix))[[1] * len(groups)]
    assert torch.equal(mixing._mix_there(matrix.weights, one, group_of), matrix.weights[1])
    grads = {name: normal(seed + 9, *shape) for name, shape in net.shapes().items()}
    row = torch.cat([grads[name].flatten() for name in matrix.spans])
    bounds = [0, *(stop for _, stop in groups.values())]
    found = mixing._multiply_there(row, matrix.weights, bounds)
    torch.testing.assert_close(found, mixing.gradient(matrix, grads, by))
