"""The engine against autograd through the plain computation, in float64 and float32."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from gnnsoup_hpc import engine
from gnnsoup_hpc.engine.compiled import passes
from gnnsoup_hpc.engine.compiled.plan import Plan
from gnnsoup_hpc.graph.sparse import Adjacency
from gnnsoup_hpc.graph.subgraph import Batch, Subgraph
from gnnsoup_hpc.models.gnn import Architecture

KINDS = ("gcn", "sage")
FEATURES, HIDDEN, CLASSES = 5, 8, 3


def a_view(seed: int, nodes: int, edges: int, asked: int, dtype: torch.dtype) -> Batch:
    """A random directed graph with loops, isolated nodes and, in x, what dtype holds."""
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.randint(nodes, (2, edges), generator=generator).unique(dim=1)  # sorted by row, distinct
    indptr = torch.zeros(nodes + 1, dtype=torch.int32)
    indptr[1:] = torch.bincount(pairs[0], minlength=nodes).cumsum(0)
    x = torch.randn(nodes, FEATURES, generator=generator, dtype=torch.float64).to(dtype)
    chosen = torch.randperm(nodes, generator=generator)[:asked].sort().values
    labels = torch.randint(CLASSES, (asked,), generator=generator)
    return Batch(Subgraph(x, Adjacency(indptr, pairs[1].int())), chosen, labels)


def a_state(net: Architecture, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for name, shape in net.shapes().items()
    }


def dense(kind: str, view: Batch) -> torch.Tensor:
    """The first or any hop's operator as a dense float64 matrix, straight from its definition."""
    adjacency = view.graph.adjacency
    matrix = torch.zeros(adjacency.nodes, adjacency.nodes, dtype=torch.float64)
    matrix[adjacency.row.long(), adjacency.indices.long()] = 1.0
    if kind == "sage":
        return matrix / matrix.sum(1, keepdim=True).clamp(min=1.0)
    matrix.fill_diagonal_(1.0)
    scale = matrix.sum(1).rsqrt()
    return scale[:, None] * matrix * scale


def plainly(net: Architecture, state: dict[str, torch.Tensor], view: Batch) -> torch.Tensor:
    """Class scores by dense products; nothing of the package computes here."""
    matrix, x = dense(net.kind, view), view.graph.x.double()
    for layer in range(net.layers):
        own = {name.removeprefix(f"convs.{layer}."): t.double() for name, t in state.items()}
        if net.kind == "gcn":
            x = matrix @ x @ own["lin.weight"].T + own["bias"]
        else:
            x = matrix @ x @ own["lin_l.weight"].T + own["lin_l.bias"] + x @ own["lin_r.weight"].T
        if layer < net.layers - 1:
            if net.norm == "layer":
                scale, shift = (state[f"norms.{layer}.{name}"].double() for name in ("weight", "bias"))
                x = functional.layer_norm(x, (HIDDEN,), scale, shift)
            x = x.relu()
    return x[view.nodes]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("norm", ["none", "layer"])
@pytest.mark.parametrize("layers", [1, 2, 3, 4])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-4)])
def test_scores_and_gradients_are_those_of_dense_products(
    kind: str, norm: str, layers: int, dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "_ROWS", 7)  # several blocks, the last one smaller
    net = Architecture(kind, layers, FEATURES, HIDDEN, CLASSES, norm=norm)
    view = a_view(layers, 60, 150, 9, dtype)
    ours, theirs = a_state(net, dtype), a_state(net, torch.float64)
    plan = Plan.of(view, net.kind, net.layers)
    scores, expected = engine.logits(net, ours, plan), plainly(net, theirs, view)
    torch.testing.assert_close(scores.double(), expected, rtol=tolerance, atol=tolerance)
    with torch.no_grad():
        torch.testing.assert_close(engine.logits(net, ours, plan), scores, rtol=0, atol=0)
    functional.cross_entropy(scores, view.labels).backward()
    functional.cross_entropy(expected, view.labels).backward()
    for name, parameter in ours.items():
        found, wanted = parameter.grad, theirs[name].grad
        assert found is not None
        assert wanted is not None
        torch.testing.assert_close(found.double(), wanted, rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_results_do_not_depend_on_the_number_of_threads(kind: str) -> None:
    net = Architecture(kind, 3, FEATURES, HIDDEN, CLASSES)
    view = a_view(0, 400, 2000, 50, torch.float32)
    found, threads = [], torch.get_num_threads()
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        found.append(engine.logits(net, a_state(net, torch.float32), Plan.of(view, kind, 3)))
    torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_a_plan_has_only_what_is_needed() -> None:
    """On the path 0 -> 1 -> ... -> 9, node 9 with three layers needs nodes 9, 8, 7 and the features of 6."""
    indptr = torch.tensor([0, *range(10)], dtype=torch.int32)
    graph = Subgraph(torch.arange(10.0)[:, None], Adjacency(indptr, torch.arange(9, dtype=torch.int32)))
    plan = Plan.of(Batch(graph, torch.tensor([9]), torch.tensor([0])), "sage", 3)
    assert plan.rows == (3, 2, 1)
    assert plan.first.tolist() == [[8.0, 9.0], [7.0, 8.0], [6.0, 7.0]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layers", [1, 3])
def test_a_line_has_the_scores_of_the_states_on_it(kind: str, layers: int) -> None:
    net = Architecture(kind, layers, FEATURES, HIDDEN, CLASSES, norm="layer")
    plan = Plan.of(a_view(layers, 60, 150, 9, torch.float64), kind, layers)
    ends = [{name: torch.randn_like(tensor) for name, tensor in a_state(net, torch.float64).items()} for _ in "ab"]
    line = engine.LinearInterpolator.between(net, *ends, plan)
    for share in (0.0, 0.3, 1.0):
        state = {name: share * ends[0][name] + (1.0 - share) * ends[1][name] for name in ends[0]}
        torch.testing.assert_close(line.scores(net, state, share), engine.logits(net, state, plan))


@pytest.mark.parametrize("kind", [*KINDS, "gat"])
def test_bfloat16_rounds_the_factors_of_products_and_nothing_more(kind: str) -> None:
    net = Architecture(kind, 3, FEATURES, HIDDEN, CLASSES)
    view = a_view(3, 60, 150, 9, torch.float32)
    state, same = a_state(net, torch.float32), a_state(net, torch.float32)
    found = engine.compute_logits(net, state, engine.plan_batch(net, view, precision="bfloat16"))
    wanted = engine.compute_logits(net, same, engine.plan_batch(net, view))
    assert not torch.equal(found, wanted)
    torch.testing.assert_close(found, wanted, rtol=0.02, atol=0.02 * float(wanted.detach().abs().max()))
    functional.cross_entropy(found, view.labels).backward()
    functional.cross_entropy(wanted, view.labels).backward()
    for name, parameter in state.items():
        mine, exact = parameter.grad, same[name].grad
        assert mine is not None
        assert exact is not None
        assert (mine - exact).norm() < 0.1 * exact.norm(), name  # a rounded state may change sides of ReLU
