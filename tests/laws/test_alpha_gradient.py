"""The gradient of the loss with respect to alpha, in float64: against central differences, and by its formula."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.nn import functional

from gnnsoup_hpc.graph.subgraph import Subgraph
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.soup.mixing import mix
from gnnsoup_hpc.soup.parameter_matrix import ParameterMatrix
from gnnsoup_hpc.types import Grouping
from tests.arbitrary import in_double, normal, random_structure

INGREDIENTS, NODES = 3, 20
KINDS = [("gcn", 1), ("sage", 1), ("gat", 2)]


@pytest.fixture(params=KINDS, ids=lambda kind: kind[0])
def shelf(request: pytest.FixtureRequest) -> ParameterMatrix:
    """Three ingredients in float64, with norms."""
    kind, heads = request.param
    net = Architecture(kind, 2, features=4, hidden=6, classes=3, heads=heads, norm="layer")
    states = [
        {name: t + 0.2 * normal(index, *t.shape, kind=torch.float32) for name, t in net.init_state(index).items()}
        for index in range(INGREDIENTS)
    ]
    single = ParameterMatrix.of(net, range(INGREDIENTS), states, torch.device("cpu"))
    return ParameterMatrix(net, single.ids, single.weights.double())


@pytest.fixture(scope="module")
def graph() -> Subgraph:
    shape = random_structure(NODES, 60)
    return in_double(Subgraph(normal(7, NODES, 4, kind=torch.float32), shape.adjacency()))


def loss_of(shelf: ParameterMatrix, graph: Subgraph, alpha: Tensor, by: Grouping) -> Tensor:
    nodes = torch.arange(0, NODES, 2)
    logits = shelf.architecture.forward(mix(shelf, alpha, by), graph)[nodes]
    return functional.cross_entropy(logits, nodes % 3)


@pytest.mark.parametrize("by", ["layer", "tensor", "model"])
def test_gradient_is_what_central_differences_say(shelf: ParameterMatrix, graph: Subgraph, by: Grouping) -> None:
    raw = normal(3, len(shelf.groups(by)), INGREDIENTS)
    alpha = raw.softmax(1).requires_grad_()
    assert gradcheck(lambda a: loss_of(shelf, graph, a, by), (alpha,), eps=1e-6, atol=1e-7, rtol=1e-5)
    assert gradcheck(
        lambda r: loss_of(shelf, graph, r.softmax(1), by), (raw.requires_grad_(),), eps=1e-6, atol=1e-7, rtol=1e-5
    )


def test_gradient_is_the_inner_product_with_each_ingredient(shelf: ParameterMatrix, graph: Subgraph) -> None:
    """dL/dalpha[g, i] = <dL/dW^g, W_i^g>."""
    alpha = normal(3, 2, INGREDIENTS).softmax(1).requires_grad_()
    loss_of(shelf, graph, alpha, "layer").backward()

    state = {name: tensor.detach().requires_grad_() for name, tensor in mix(shelf, alpha, "layer").items()}
    nodes = torch.arange(0, NODES, 2)
    functional.cross_entropy(shelf.architecture.forward(state, graph)[nodes], nodes % 3).backward()
    for row, names in enumerate(shelf.architecture.groups("layer").values()):
        for index in range(INGREDIENTS):
            own = shelf.state(shelf.weights[index])
            inner = sum((state[name].grad * own[name]).sum() for name in names)
            torch.testing.assert_close(alpha.grad[row, index], inner)
