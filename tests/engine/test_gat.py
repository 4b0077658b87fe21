"""GAT's compiled path against autograd through the plain computation, in float64 and float32."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from gnnsoup_hpc import engine
from gnnsoup_hpc.engine.compiled import gat
from gnnsoup_hpc.engine.compiled.gat import gradients, passes
from gnnsoup_hpc.engine.compiled.gat.plan import GatPlan
from gnnsoup_hpc.graph.sparse import Adjacency
from gnnsoup_hpc.graph.subgraph import Batch, Subgraph
from gnnsoup_hpc.models.gnn import Architecture
from tests.engine.test_engine import CLASSES, FEATURES, HIDDEN, a_state, a_view


def plainly(net: Architecture, state: dict[str, torch.Tensor], view: Batch) -> torch.Tensor:
    """Class scores by dense matrices in float64; nothing of the package computes here."""
    adjacency, x = view.graph.adjacency, view.graph.x.double()
    edges = torch.eye(adjacency.nodes, dtype=torch.bool)
    edges[adjacency.row.long(), adjacency.indices.long()] = True
    for layer in range(net.layers):
        own = {name.removeprefix(f"convs.{layer}."): t for name, t in state.items()}
        values = (x @ own["lin.weight"].T).view(len(x), net.heads, -1)
        source, destination = (values * own["att_src"]).sum(-1), (values * own["att_dst"]).sum(-1)
        scores = functional.leaky_relu(source[None] + destination[:, None], 0.2)  # (row, column, head)
        weights = scores.masked_fill(~edges[..., None], -torch.inf).softmax(1)
        out = torch.einsum("rch,chd->rhd", weights, values)
        x = (out.mean(1) if layer == net.layers - 1 else out.flatten(1)) + own["bias"]
        if layer < net.layers - 1:
            if net.norm == "layer":
                scale, shift = (state[f"norms.{layer}.{name}"] for name in ("weight", "bias"))
                x = functional.layer_norm(x, (net.hidden,), scale, shift)
            x = x.relu()
    return x[view.nodes]


def compared(net: Architecture, view: Batch, tolerance: float) -> None:
    """Scores and all gradients are those of the plain computation."""
    ours, theirs = a_state(net, view.graph.x.dtype), a_state(net, torch.float64)
    plan = GatPlan.of(view, net.layers)
    scores, expected = gat.logits(net, ours, plan), plainly(net, theirs, view)
    torch.testing.assert_close(scores.double(), expected, rtol=tolerance, atol=tolerance)
    with torch.no_grad():
        torch.testing.assert_close(gat.logits(net, ours, plan), scores, rtol=0, atol=0)
    functional.cross_entropy(scores, view.labels).backward()
    functional.cross_entropy(expected, view.labels).backward()
    for name, parameter in ours.items():
        found, wanted = parameter.grad, theirs[name].grad
        assert found is not None
        assert wanted is not None
        torch.testing.assert_close(found.double(), wanted, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: n + m)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks, the last one smaller."""
    for module in (gat.layer, passes, gradients):
        monkeypatch.setattr(module, "ROWS", 7)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("norm", ["none", "layer"])
@pytest.mark.parametrize("layers", [1, 2, 3, 4])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_scores_and_gradients_are_those_of_dense_matrices(
    heads: int, norm: str, layers: int, dtype: torch.dtype, tolerance: float
) -> None:
    net = Architecture("gat", layers, FEATURES, HIDDEN, CLASSES, heads, norm)
    compared(net, a_view(layers, 60, 150, 9, dtype), tolerance)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("features", [FEATURES, HIDDEN + 1])
@pytest.mark.parametrize("classes", [2, HIDDEN])
def test_both_orders_of_sum_and_product(features: int, classes: int) -> None:
    """What is wider than what comes of it is multiplied before it is summed up, in the first layer and the last."""
    net = Architecture("gat", 3, features, HIDDEN, classes, heads=2)
    view = a_view(5, 60, 150, 9, torch.float64)
    x = torch.randn(60, features, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    compared(net, Batch(Subgraph(x, view.graph.adjacency), view.nodes, view.labels % classes), 1e-9)


@pytest.mark.parametrize("edges", [0, 150])
def test_one_node_is_asked_for(edges: int) -> None:
    """Of a graph without edges each node attends to itself alone."""
    net = Architecture("gat", 3, FEATURES, HIDDEN, CLASSES, heads=2, norm="layer")
    compared(net, a_view(3, 60, edges, 1, torch.float64), 1e-9)


def test_large_scores_do_not_overflow() -> None:
    """Attention is told from scores less their row's largest."""
    net = Architecture("gat", 2, FEATURES, HIDDEN, CLASSES)
    view = a_view(0, 60, 150, 9, torch.float32)
    state = {name: tensor.detach() * 50 for name, tensor in a_state(net, torch.float32).items()}
    found = gat.logits(net, state, GatPlan.of(view, 2))
    expected = plainly(net, {name: tensor.double() for name, tensor in state.items()}, view)
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3)


def test_results_do_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gnnsoup_hpc.engine.sharding._SECTION_ROWS", 30)  # many of them
    net = Architecture("gat", 3, FEATURES, HIDDEN, CLASSES, heads=2, norm="layer")
    view = a_view(0, 400, 2000, 50, torch.float32)
    plan = GatPlan.of(view, 3)
    assert min(len(plan.shard.sections_of(layer)) for layer in range(4)) > 3
    found, threads = [], torch.get_num_threads()
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        state = a_state(net, torch.float32)
        scores = gat.logits(net, state, plan)
        functional.cross_entropy(scores, view.labels).backward()
        found.append([scores, *(tensor.grad for tensor in state.values())])
    torch.set_num_threads(threads)
    assert all(torch.equal(one, other) for one, other in zip(found[0], found[1], strict=True))
    assert all(torch.equal(one, other) for one, other in zip(found[0], found[2], strict=True))


def test_a_plan_has_only_what_is_needed() -> None:
    """On the path 0 -> 1 -> ... -> 9, node 9 with two layers needs nodes 9 and 8, and the features of 7."""
    indptr = torch.tensor([0, *range(10)], dtype=torch.int32)
    graph = Subgraph(torch.arange(10.0)[:, None], Adjacency(indptr, torch.arange(9, dtype=torch.int32)))
    plan = GatPlan.of(Batch(graph, torch.tensor([9]), torch.tensor([0])), 2)
    assert plan.rows == (2, 1)
    assert plan.x.tolist() == [[9.0], [8.0], [7.0]]
    assert plan.indices.tolist() == [1, 0, 2, 1]  # of each row the in-neighbour, then the node itself
    columns = plan.transposes[1]
    assert [columns.rows[a:b].tolist() for a, b in zip(columns.start, columns.end, strict=True)] == [[0], [0]]


def test_the_engine_takes_this_path_for_gat() -> None:
    net = Architecture("gat", 2, FEATURES, HIDDEN, CLASSES, heads=2)
    view = a_view(1, 60, 150, 9, torch.float32)
    ready = engine.plan_batch(net, view)
    assert isinstance(ready, GatPlan)
    state = a_state(net, torch.float32)
    torch.testing.assert_close(engine.compute_logits(net, state, ready), net.forward(state, view.graph)[view.nodes])
