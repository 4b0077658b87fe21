"""Class scores of the nodes that are asked for, differentiable in the weights: by compiled passes where there are any.

On a CPU models run over a plan (passes.py, of GAT attention/); everything on a GPU through `Architecture.logits`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gnnsoup_hpc.engine.compiled import gat
from gnnsoup_hpc.engine.compiled.gat.passes import GatForwardBackward as AttentionPass
from gnnsoup_hpc.engine.compiled.gat.plan import GatPlan
from gnnsoup_hpc.engine.compiled.passes import ForwardBackward, HaloExchange, Interpolation, multiply_first
from gnnsoup_hpc.engine.compiled.plan import Plan, ReadRows
from gnnsoup_hpc.engine.compiled.sharding import NodeShare
from gnnsoup_hpc.engine.compiled.threads import Workspace
from gnnsoup_hpc.graph.sparse import Adjacency
from gnnsoup_hpc.graph.subgraph import Batch, Subgraph
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.types import Dense, Precision

_ENTRY_WORK = 8  # of an entry's channel, forward and backward, in products that take as long
_HEAD_WORK = 24  # of an entry's weight, in channels that take as long to sum up

Planned = Plan | GatPlan  # what one rank computes on, or several together
Ready = Planned | Batch  # what `scores` computes on


def plan_batch(
    net: Architecture,
    view: Batch,
    space: Workspace | None = None,
    precision: Precision = "float32",
    split: NodeShare | None = None,
    x_of: ReadRows | None = None,
) -> Ready:
    """What `scores` computes on, built once a view: a plan on a CPU, on a GPU the view itself.

    Plans that are used one after the other may share a `space`. `split` and `x_of`: as in `Plan.of`.
    """
    if view.graph.x.device.type != "cpu":
        return replace(view, precision=precision)
    if net.kind == "gat":
        planned = GatPlan.of(view, net.layers, split, x_of, _attention_work(net))
        return replace(planned, precision=precision)
    plan = Plan.of(view, net.kind, net.layers, space, split, x_of, _row_work(net))
    return replace(plan, precision=precision)


def _row_work(net: Architecture) -> list[int]:
    """What a row's dense products cost in each layer, forward and backward, in entries that are summed up."""
    return [
        (3 if layer else 2) * (2 if net.kind == "sage" else 1) * width * out // (_ENTRY_WORK * net.hidden)
        for layer, (width, out) in enumerate(net.widths(layer) for layer in range(net.layers))
    ]


def _attention_work(net: Architecture) -> list[int]:
    """The same of GAT: first of what the first layer attends to, then of each layer's rows and what the next does."""
    products, entry = [0] * (net.layers + 1), 0
    for layer in range(net.layers):
        out, width = net.shapes()[f"convs.{layer}.lin.weight"]
        early = out < width  # values are summed up, else states for each head
        products[layer if early else layer + 1] += (3 if layer else 2) * out * width
        products[layer] += 4 * net.heads * width  # scores
        entry += (out if early else net.heads * width) + _HEAD_WORK * net.heads
    return [max(1, net.layers * work // (_ENTRY_WORK * entry)) for work in products]


def compute_logits(net: Architecture, state: Mapping[str, Tensor], ready: Ready) -> Tensor:
    """Class scores of the nodes that are asked for, (n, C), differentiable in the state's parameters."""
    if isinstance(ready, GatPlan):
        return gat.logits(net, state, ready)
    if isinstance(ready, Plan):
        return logits(net, state, ready)
    device = ready.graph.x.device.type
    with torch.autocast(device, torch.bfloat16, enabled=ready.precision == "bfloat16"):
        return net.forward(state, ready.graph)[ready.nodes].to(ready.graph.x.dtype)


def compute_local_logits(net: Architecture, state: Mapping[str, Tensor], plan: Planned, swap: HaloExchange) -> Tensor:
    """Class scores of a rank's own share of the asked nodes, which all ranks compute at once, (n, C)."""
    return torch.from_numpy(begin(net, state, plan, swap, keep=False).forward())


def begin(
    net: Architecture, state: Mapping[str, Tensor], plan: Planned, swap: HaloExchange | None = None, keep: bool = True
) -> ForwardBackward | AttentionPass:
    """A pass forward and, if `keep`, backward of a state that needs no gradient by itself; `swap`: as in `Pass`."""
    if isinstance(plan, GatPlan):
        return AttentionPass(net, plan, _arrays(net, state), keep=keep, swap=swap)
    return ForwardBackward(net, plan, _arrays(net, state), keep=keep, swap=swap)


def logits(net: Architecture, state: Mapping[str, Tensor], plan: Plan) -> Tensor:
    """The same by a plan."""
    found: Tensor = _Logits.apply(net, plan, *(state[name] for name in net.shapes()))  # type: ignore[no-untyped-call]
    return found


@dataclass(frozen=True)
class LinearInterpolator:
    """Models on the line between two: what their first weights make of the first hop is linear in where they are.

    Shapes: start, end (rows[0], C): that product, without the bias, of the models at the line's two ends.
    """

    plan: Plan
    start: Dense
    end: Dense
    swap: HaloExchange | None = None

    @classmethod
    def between(
        cls,
        net: Architecture,
        start: Mapping[str, Tensor],
        end: Mapping[str, Tensor],
        plan: Plan,
        swap: HaloExchange | None = None,
    ) -> LinearInterpolator:
        """The line between two states; what `plan.space` has room for is taken from there. `swap`: as in `Pass`."""
        first, last = (multiply_first(net, _arrays(net, state), plan) for state in (start, end))
        return cls(plan, first, last, swap)

    def scores(self, net: Architecture, state: Mapping[str, Tensor], share: float) -> Tensor:
        """Class scores (n, C) of the state share * start + (1 - share) * end, as `scores` gives, but for rounding."""
        blend = Interpolation(self.start, self.end, share)
        return torch.from_numpy(ForwardBackward(net, self.plan, _arrays(net, state), False, blend, self.swap).forward())

    def close(self) -> None:
        """Give the room back."""
        self.plan.space.give(self.start)
        self.plan.space.give(self.end)


def _arrays(net: Architecture, state: Mapping[str, Tensor]) -> dict[str, Dense]:
    return {name: state[name].detach().numpy() for name in net.shapes()}


def warm_up(kind: str) -> None:
    """Compile, or load, all that a kind of model needs, so that the first to be measured is not blamed for it."""
    structure = Adjacency(torch.arange(5, dtype=torch.int32), torch.arange(4, dtype=torch.int32).roll(1))
    view = Batch(Subgraph(torch.ones(4, 4), structure), torch.tensor([0]), torch.tensor([0]))
    for norm in ("none", "layer"):
        net = Architecture(kind, layers=3, features=4, hidden=4, classes=2, norm=norm)
        state = {name: tensor.requires_grad_() for name, tensor in net.init_state(0).items()}
        ready = plan_batch(net, view)
        compute_logits(net, state, ready).sum().backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():  # whose kernels are given other arrays
            compute_logits(net, {name: tensor.detach() for name, tensor in state.items()}, ready)


class _Logits(torch.autograd.Function):
    """Everything between parameters and class scores as one step of autograd."""

    @staticmethod
    def forward(ctx: Any, net: Architecture, plan: Plan, *parameters: Tensor) -> Tensor:
        state = {name: tensor.numpy() for name, tensor in zip(net.shapes(), parameters, strict=True)}
        ctx.run = ForwardBackward(net, plan, state, keep=any(ctx.needs_input_grad))
        return torch.from_numpy(ctx.run.forward())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        run: ForwardBackward = ctx.run
        del ctx.run  # its buffers are overwritten: there is no second backward
        grads = run.backward(grad.contiguous().numpy())
        return None, None, *(torch.from_numpy(grads[name]).to(grad) for name in run.net.shapes())
