"""GAT on a CPU, forward and backward over a plan: gradients of the parameters alone, within bounded memory.

Its oracle is autograd through `Architecture.logits` on the whole subgraph.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gnnsoup_hpc.engine.compiled.gat.passes import GatForwardBackward
from gnnsoup_hpc.engine.compiled.gat.plan import GatPlan
from gnnsoup_hpc.models.gnn import Architecture


def logits(net: Architecture, state: Mapping[str, Tensor], plan: GatPlan) -> Tensor:
    """Class scores of the nodes that are asked for, (n, C), differentiable in the state's parameters."""
    found: Tensor = _Logits.apply(net, plan, *(state[name] for name in net.shapes()))  # type: ignore[no-untyped-call]
    return found


class _Logits(torch.autograd.Function):
    """Everything between parameters and class scores as one step of autograd."""

    @staticmethod
    def forward(ctx: Any, net: Architecture, plan: GatPlan, *parameters: Tensor) -> Tensor:
        state = {name: tensor.detach().numpy() for name, tensor in zip(net.shapes(), parameters, strict=True)}
        ctx.run = GatForwardBackward(net, plan, state, keep=any(ctx.needs_input_grad))
        return torch.from_numpy(ctx.run.forward())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        run: GatForwardBackward = ctx.run
        del ctx.run  # its buffers are overwritten: there is no second backward
        grads = run.backward(grad.contiguous().numpy())
        return None, None, *(torch.from_numpy(grads[name]).to(grad) for name in run.net.shapes())
