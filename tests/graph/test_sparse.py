"""Sparse kernels against dense float64 arithmetic, values and gradients, on any graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck as torch_gradcheck

from gnnsoup_hpc.graph.sparse import Adjacency, Operator, edge_scores, edge_softmax, weighted_sum
from tests.arbitrary import SEEDS, Structure, make_double, normal, random_structure, structure, structures

HEADS, CHANNELS = 2, 3
INDEX_KINDS = st.sampled_from([torch.int32, torch.int64])


def dense_mean(shape: Structure) -> Tensor:
    return shape.dense / shape.dense.sum(1, keepdim=True).clamp(min=1.0)


def dense_gcn(shape: Structure) -> Tensor:
    looped = shape.dense.fill_diagonal_(1.0)
    degree = looped.sum(1)
    return looped / (degree[:, None] * degree[None, :]).sqrt()


def dense_values(adjacency: Adjacency, values_E: Tensor) -> Tensor:
    matrix = torch.zeros(adjacency.nodes, adjacency.nodes, dtype=values_E.dtype)
    return matrix.index_put((adjacency.row.long(), adjacency.indices.long()), values_E)


def grad(seed: int, *shape: int) -> Tensor:
    return normal(seed, *shape).requires_grad_()


def gradcheck(function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> bool:
    """Against central differences, closer than torch's default: the kernels are linear or nearly so."""
    return torch_gradcheck(function, inputs, atol=1e-7, rtol=1e-6)


@given(structures(), INDEX_KINDS)
def test_transpose_is_the_dense_transpose(shape: Structure, kind: torch.dtype) -> None:
    adjacency = shape.adjacency(kind)
    ones = torch.ones(len(shape.entries), dtype=torch.float64)
    assert torch.equal(dense_values(adjacency.transpose, ones), shape.dense.t())
    values = normal(0, len(shape.entries))
    assert torch.equal(
        dense_values(adjacency.transpose, values[adjacency.permutation]), dense_values(adjacency, values).t()
    )


@given(structures(), INDEX_KINDS)
def test_looped_has_each_node_once_beside_its_other_neighbours(shape: Structure, kind: torch.dtype) -> None:
    looped = shape.adjacency(kind).with_self_loops
    pairs = list(zip(looped.row.tolist(), looped.indices.tolist(), strict=True))
    assert len(pairs) == len(set(pairs))
    assert set(pairs) == set(shape.entries) | {(node, node) for node in range(shape.nodes)}
    assert looped.degree.tolist() == looped.indptr.diff().tolist()


@pytest.mark.parametrize(("name", "dense"), [("mean", dense_mean), ("gcn", dense_gcn)])
@given(shape=structures(), kind=INDEX_KINDS, seed=SEEDS)
def test_operators_of_a_graph(
    shape: Structure, kind: torch.dtype, seed: int, name: str, dense: Callable[[Structure], Tensor]
) -> None:
    x = grad(seed, shape.nodes, CHANNELS)
    exact: Operator = getattr(make_double(shape.adjacency(kind)), name)
    single: Operator = getattr(shape.adjacency(kind), name)
    wanted = dense(shape) @ x
    torch.testing.assert_close(exact @ x, wanted, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(single @ x.float(), wanted.float(), atol=1e-5, rtol=1e-5)
    assert gradcheck(exact.__matmul__, (x,))


@given(structures(), INDEX_KINDS, SEEDS)
def test_operator_of_any_values(shape: Structure, kind: torch.dtype, seed: int) -> None:
    adjacency = shape.adjacency(kind)
    values, x = normal(seed, len(shape.entries)), grad(seed + 1, CHANNELS, shape.nodes).t()
    operator = Operator(adjacency, values)
    torch.testing.assert_close(operator @ x, dense_values(adjacency, values) @ x)
    assert gradcheck(operator.__matmul__, (x,))


@given(structures(), INDEX_KINDS, SEEDS)
def test_edge_scores(shape: Structure, kind: torch.dtype, seed: int) -> None:
    adjacency = shape.adjacency(kind)
    source, destination = grad(seed, shape.nodes, HEADS), grad(seed + 1, shape.nodes, HEADS)
    found = edge_scores(adjacency, source, destination)
    assert found.shape == (len(shape.entries), HEADS)
    for score, (row, column) in zip(found, shape.entries, strict=True):
        assert torch.equal(score, source[column] + destination[row])
    assert gradcheck(lambda s, d: edge_scores(adjacency, s, d), (source, destination))


@given(structures(), INDEX_KINDS, SEEDS, st.sampled_from([1.0, 1e3]))
def test_edge_softmax(shape: Structure, kind: torch.dtype, seed: int, size: float) -> None:
    looped = shape.adjacency(kind).with_self_loops
    scores = (size * normal(seed, len(looped.indices), HEADS)).requires_grad_()
    found = edge_softmax(looped, scores)
    for head in range(HEADS):
        masked = dense_values(looped, scores[:, head]).masked_fill(
            dense_values(looped, torch.ones(len(scores))) == 0.0, float("-inf")
        )
        torch.testing.assert_close(dense_values(looped, found[:, head]), masked.softmax(1))


@given(structures(), INDEX_KINDS, SEEDS)
def test_gradient_of_edge_softmax(shape: Structure, kind: torch.dtype, seed: int) -> None:
    looped = shape.adjacency(kind).with_self_loops
    assert gradcheck(lambda scores: edge_softmax(looped, scores), (grad(seed, len(looped.indices), HEADS),))


@given(structures(), INDEX_KINDS, SEEDS)
def test_weighted_sum(shape: Structure, kind: torch.dtype, seed: int) -> None:
    adjacency = shape.adjacency(kind)
    weights, x = grad(seed, len(shape.entries), HEADS), grad(seed + 1, shape.nodes, HEADS, CHANNELS)
    found = weighted_sum(adjacency, weights, x)
    for head in range(HEADS):
        torch.testing.assert_close(found[:, head], dense_values(adjacency, weights[:, head]) @ x[:, head])
    assert gradcheck(lambda w, v: weighted_sum(adjacency, w, v), (weights, x))


def test_means_of_a_graph_worked_by_hand() -> None:
    """0 hears 1 and 2; 1 hears itself; 2 hears nobody."""
    adjacency = structure(3, {(0, 1), (0, 2), (1, 1)}).adjacency()
    x = torch.tensor([[1.0], [10.0], [100.0]])
    assert (adjacency.mean @ x).flatten().tolist() == [55.0, 10.0, 0.0]
    third, half_of_root = 1 / 3, (1 / 3) ** 0.5
    wanted = torch.tensor([third + half_of_root * 110.0, 10.0, 100.0])
    torch.testing.assert_close((adjacency.gcn @ x).flatten(), wanted)


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


def everything(shape: Structure, x_VHC: Tensor) -> list[Tensor]:
    """Results and gradients of all kernels, in a row as GAT and the others use them."""
    adjacency, x = shape.adjacency(), x_VHC.clone().requires_grad_()
    flat = x.flatten(1)
    weights = edge_softmax(adjacency.with_self_loops, edge_scores(adjacency.with_self_loops, x.sum(2), x.mean(2)))
    results = [
        adjacency.mean @ flat,
        adjacency.gcn @ flat,
        weights,
        weighted_sum(adjacency.with_self_loops, weights, x),
    ]
    torch.stack([(result**2).sum() for result in results]).sum().backward()
    assert x.grad is not None
    return [*(result.detach() for result in results), x.grad]


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    shape = random_structure(3000, 40_000)
    x = normal(1, 3000, HEADS, 16, kind=torch.float32)
    with threads(1):
        alone = everything(shape, x)
    with threads(2):
        together = everything(shape, x)
    for one, two in zip(alone, together, strict=True):
        assert torch.equal(one, two)
