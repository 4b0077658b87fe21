"""The gradient of the loss in alpha, by every engine, in float64: against central differences, and by its formula."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.nn import functional

from gnnsoup_hpc.engine import ENGINES, Engine, Plan
from gnnsoup_hpc.graph.subgraph import Batch, Subgraph
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.soup.mixing import ParameterMatrix, gradient, mix
from gnnsoup_hpc.types import Grouping
from tests.arbitrary import in_double, normal, random_structure
from tests.runs import CPU

INGREDIENTS, NODES = 3, 20
KINDS = [("gcn", 1), ("sage", 1), ("gat", 2)]
every_engine = pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.name)


@pytest.fixture(params=KINDS, ids=lambda kind: kind[0])
def matrix(request: pytest.FixtureRequest) -> ParameterMatrix:
    """Three ingredients in float64, with norms."""
    kind, heads = request.param
    net = Architecture(kind, 2, features=4, hidden=6, classes=3, heads=heads, norm="layer")
    states = [
        {name: t + 0.2 * normal(index, *t.shape, kind=torch.float32) for name, t in net.init_state(index).items()}
        for index in range(INGREDIENTS)
    ]
    single = ParameterMatrix.of(net, range(INGREDIENTS), states, CPU)
    return ParameterMatrix(net, single.ids, single.weights.double())


@pytest.fixture(scope="module")
def batch() -> Batch:
    graph = Subgraph(normal(7, NODES, 4, kind=torch.float32), random_structure(NODES, 60).adjacency())
    seeds = torch.arange(0, NODES, 2)
    return Batch(in_double(graph), seeds, seeds % 3)


@dataclass(frozen=True)
class Mixed:
    """What a loss is of, but for alpha."""

    engine: Engine
    plan: Plan
    matrix: ParameterMatrix
    by: Grouping


class Loss(torch.autograd.Function):
    """The loss of a mixture; backward is `mixing.gradient` of what the engine pulls back."""

    @staticmethod
    def forward(ctx: Any, alpha: Tensor, of: Mixed) -> Tensor:
        logits, vjp = of.engine.vjp(of.plan, mix(of.matrix, alpha, of.by))
        with torch.enable_grad():
            loss = functional.cross_entropy(leaf := logits.requires_grad_(), of.plan.targets)
        (grad,) = torch.autograd.grad(loss, leaf)
        ctx.gradient = gradient(of.matrix, vjp(grad.contiguous()), of.by)
        return loss.detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.gradient, None


def mixed(engine: Engine, matrix: ParameterMatrix, batch: Batch, by: Grouping) -> Mixed:
    """On all rows for torch, whose operators on a frontier's are float32."""
    return Mixed(engine, engine.plan(matrix.model, batch, train=engine.name == "torch"), matrix, by)


def _checks() -> Iterator[Any]:
    """Each kind by each engine, alphas grouped in each way; groups are no affair of engines."""
    for kind, engine, by in itertools.product(KINDS, ENGINES, ["layer", "tensor", "model"]):
        slow = kind[0] == "gat" and engine.name == "triton" and by != "layer"
        marks = [pytest.mark.slow] if slow else []
        yield pytest.param(kind, engine, by, id=f"{kind[0]}-{by}-{engine.name}", marks=marks)


@pytest.mark.parametrize(("matrix", "engine", "by"), [*_checks()], indirect=["matrix"])
def test_gradient_is_what_central_differences_say(
    matrix: ParameterMatrix, batch: Batch, engine: Engine, by: Grouping
) -> None:
    of = mixed(engine, matrix, batch, by)
    raw = normal(3, len(matrix.groups(by)), INGREDIENTS)
    alpha = raw.softmax(1).requires_grad_()
    close: dict[str, Any] = {"eps": 1e-6, "atol": 1e-7, "rtol": 1e-5}
    close["fast_mode"] = engine.name == "triton"  # along one random direction, for the interpreter is slow
    assert gradcheck(lambda a: Loss.apply(a, of), (alpha,), **close)
    assert gradcheck(lambda r: Loss.apply(r.softmax(1), of), (raw.requires_grad_(),), **close)


@every_engine
def test_gradient_is_the_inner_product_with_each_ingredient(
    matrix: ParameterMatrix, batch: Batch, engine: Engine
) -> None:
    """dL/dalpha[g, i] = <dL/dW^g, W_i^g>."""
    alpha = normal(3, 2, INGREDIENTS).softmax(1).requires_grad_()
    Loss.apply(alpha, mixed(engine, matrix, batch, "layer")).backward()

    state = {name: tensor.detach().requires_grad_() for name, tensor in mix(matrix, alpha, "layer").items()}
    functional.cross_entropy(matrix.model.forward(state, batch.graph)[batch.seeds], batch.targets).backward()
    for row, names in enumerate(matrix.model.groups("layer").values()):
        for index in range(INGREDIENTS):
            own = matrix.state(matrix.weights[index])
            inner = sum((state[name].grad * own[name]).sum() for name in names)
            torch.testing.assert_close(alpha.grad[row, index], inner)
