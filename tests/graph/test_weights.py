"""Weights of edges: operators, models and samples against dense float64 arithmetic and PyG, on any graph."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck
from torch_geometric.nn.conv.gcn_conv import gcn_norm
from torch_geometric.nn.models import GCN

from gnnsoup_hpc.engine import ENGINES, Engine, TorchEngine, choose_engine
from gnnsoup_hpc.graph.sampling import EntryLookup, Sampler
from gnnsoup_hpc.graph.sparse import Adjacency
from gnnsoup_hpc.graph.subgraph import Batch, Subgraph
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.train.batches import dropout_edge
from tests.arbitrary import SEEDS, Structure, normal, random_structure, structures, weigh

CPU = torch.device("cpu")


def dense(adjacency: Adjacency) -> Tensor:
    matrix = torch.zeros(adjacency.nodes, adjacency.columns, dtype=torch.float64)
    matrix[adjacency.row.long(), adjacency.indices.long()] = adjacency.values.double()
    return matrix


def dense_mean(adjacency: Adjacency) -> Tensor:
    matrix = dense(adjacency)
    total = matrix.sum(1, keepdim=True)
    return torch.where(total > 0, matrix / total, 0.0)


def dense_gcn(adjacency: Adjacency) -> Tensor:
    """By PyG: its weights of the same edges."""
    edges, weight = gcn_norm(adjacency.edge_index, adjacency.weight, adjacency.nodes)
    return torch.zeros(adjacency.nodes, adjacency.nodes, dtype=torch.float64).index_put((edges[1], edges[0]), weight)


OPERATORS = {"mean": dense_mean, "gcn": dense_gcn}
every_operator = pytest.mark.parametrize("name", OPERATORS)


@every_operator
@given(shape=structures(), seed=SEEDS)
def test_operators_are_dense_ones(shape: Structure, seed: int, name: str) -> None:
    adjacency = weigh(shape.adjacency(), seed)
    x = normal(seed, shape.nodes, 3).requires_grad_()
    operator = getattr(adjacency, name)
    torch.testing.assert_close(operator @ x, OPERATORS[name](adjacency) @ x, rtol=1e-10, atol=1e-10)
    assert gradcheck(operator.__matmul__, (x,), atol=1e-7, rtol=1e-6)


@every_operator
@given(shape=structures(), seed=SEEDS)
def test_weights_of_one_are_none(shape: Structure, seed: int, name: str) -> None:
    plain = shape.adjacency()
    ones = Adjacency(plain.indptr, plain.indices, weight=plain.values)
    x = normal(seed, shape.nodes, 3, kind=torch.float32)
    torch.testing.assert_close(getattr(ones, name) @ x, getattr(plain, name) @ x)


@every_operator
@given(shape=structures(), seed=SEEDS, data=st.data())
def test_a_block_of_rows_is_that_of_the_whole(shape: Structure, seed: int, name: str, data: st.DataObject) -> None:
    whole = weigh(shape.adjacency(), seed)
    start = data.draw(st.integers(0, shape.nodes - 1))
    stop = data.draw(st.integers(start + 1, shape.nodes))
    first, last = int(whole.indptr[start]), int(whole.indptr[stop])
    assert whole.weight is not None
    block = Adjacency(
        whole.indptr[start : stop + 1] - first,
        whole.indices[first:last],
        shape.nodes,
        start,
        whole.with_self_loops.degree,
        torch.float64,
        weight=whole.weight[first:last],
    )
    x = normal(seed, shape.nodes, 3)
    torch.testing.assert_close(getattr(block, name) @ x, (getattr(whole, name) @ x)[start:stop])


@given(structures(), SEEDS)
def test_a_module_gets_them_as_pyg_has_them(shape: Structure, seed: int) -> None:
    adjacency = weigh(shape.adjacency(), seed)
    torch.testing.assert_close(adjacency.matrix.to_dense(), dense(adjacency))


@given(structures(), SEEDS, st.sampled_from([0.0, 0.4, 1.0]))
def test_edges_that_are_left_keep_theirs(shape: Structure, seed: int, rate: float) -> None:
    adjacency = weigh(shape.adjacency(), seed)
    nodes = torch.arange(shape.nodes)
    view = Batch(Subgraph(normal(0, shape.nodes, 2), adjacency), nodes, nodes)
    left = dropout_edge(view, rate, seed).graph.adjacency
    plain = view_without_weights(view, rate, seed)
    assert torch.equal(left.indices, plain.indices)
    torch.testing.assert_close(dense(left), dense(adjacency) * (dense(plain) != 0))


def view_without_weights(view: Batch, rate: float, seed: int) -> Adjacency:
    adjacency = view.graph.adjacency
    plain = Subgraph(view.graph.x, Adjacency(adjacency.indptr, adjacency.indices))
    return dropout_edge(Batch(plain, view.seeds, view.targets), rate, seed).graph.adjacency


@given(structures(), SEEDS)
def test_a_sample_has_those_of_its_entries(shape: Structure, seed: int) -> None:
    adjacency = weigh(shape.adjacency(), seed, torch.float32)
    assert adjacency.weight is not None
    sample = Sampler(*shape.csr).sample(np.array([shape.nodes - 1]), [2, -1], np.random.default_rng(seed))
    found = adjacency.weight.numpy()[EntryLookup(shape.csr).find(sample)]
    row = np.repeat(sample.nodes, np.diff(sample.indptr))
    wanted = dense(adjacency).numpy()[row, sample.nodes[sample.indices]]
    np.testing.assert_array_equal(found, wanted.astype(np.float32))


def make_batch(nodes: int = 60, entries: int = 240) -> Batch:
    shape = random_structure(nodes, entries)
    seeds = torch.arange(0, nodes, 3)
    return Batch(Subgraph(normal(1, nodes, 5), weigh(shape.adjacency(), 2)), seeds, seeds % 3)


def to_double(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.double().requires_grad_() for name, tensor in state.items()}


@pytest.mark.parametrize("norm", ["none", "layer"])
@pytest.mark.parametrize("train", [True, False], ids=["train", "evaluate"])
def test_gcn_is_pygs_forward_and_backward(norm: str, train: bool) -> None:
    net = Architecture("gcn", 3, 5, 8, 4, norm=norm, weighted=True)
    batch, state = make_batch(), to_double(net.init_state(0))
    options: dict[str, Any] = {"norm": "layer_norm", "norm_kwargs": {"mode": "node"}} if norm == "layer" else {}
    module = GCN(5, 8, 3, 4, **options).double()
    module.load_state_dict(state, strict=True)
    engine = TorchEngine()
    found = engine.logits(engine.plan(net, batch, train=train), state)
    adjacency = batch.graph.adjacency
    wanted = module(batch.graph.x, adjacency.edge_index, edge_weight=adjacency.weight)[batch.seeds]
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    grad = normal(3, *found.shape)
    found.backward(grad)
    wanted.backward(grad)
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(state[name].grad, parameter.grad, rtol=1e-10, atol=1e-10)


def test_sage_is_a_dense_weighted_mean() -> None:
    net = Architecture("sage", 2, 5, 8, 4, weighted=True)
    batch, state = make_batch(), to_double(net.init_state(0))
    engine = TorchEngine()
    found = engine.logits(engine.plan(net, batch), state)
    mean, x = dense_mean(batch.graph.adjacency), batch.graph.x
    for layer in range(2):
        left, bias, right = (state[f"convs.{layer}.{name}"] for name in ("lin_l.weight", "lin_l.bias", "lin_r.weight"))
        x = mean @ x @ left.t() + bias + x @ right.t()
        x = x.relu() if layer == 0 else x
    torch.testing.assert_close(found, x[batch.seeds], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("engine", ENGINES[:2], ids=lambda engine: engine.name)
def test_attention_takes_none(engine: Engine) -> None:
    attention = Architecture("gat", 2, 5, 8, 4)
    for device in (CPU, torch.device("cuda")):
        assert choose_engine(replace(attention, weighted=True), device).name == "torch"
    with pytest.raises(ValueError, match="knows no weights"):
        engine.plan(attention, make_batch())


def test_records_have_them_where_there_are_any() -> None:
    plain, net = (Architecture("gcn", 2, 5, 8, 4, weighted=weighted) for weighted in (False, True))
    assert "weighted" not in plain.record()
    assert net.record() == plain.record() | {"weighted": True}
