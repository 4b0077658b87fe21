"""What engines with backward passes of their own share: their models, their dropout, and their place in autograd."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gnnsoup_hpc.engine.base import Vjp
from gnnsoup_hpc.models.base import CountedDropout, Dropout, Model, show_kind
from gnnsoup_hpc.models.gnn import Architecture

KINDS = ("gcn", "sage", "gat")
ComputeVjp = Callable[[Mapping[str, Tensor]], tuple[Tensor, Vjp]]


def knows(model: Model) -> bool:
    """Whether they have kernels for it; attention takes no weights of edges."""
    if not isinstance(model, Architecture) or model.kind not in KINDS:
        return False
    return not model.weighted or model.convolution.takes_weights


def check_model(model: Model, engine: str) -> Architecture:
    """The model. Raises: TypeError where the engine has no kernels for it."""
    if not isinstance(model, Architecture) or not knows(model):
        raise TypeError(f"the {engine} engine has no model of {show_kind(model)}")
    return model


def check_dropout(dropout: Dropout | None, engine: str) -> CountedDropout | None:
    """The dropout; None where it drops nothing. Raises: TypeError where its masks are not counted."""
    if dropout is None or not dropout.rate:
        return None
    if not isinstance(dropout, CountedDropout):
        raise TypeError(f"the {engine} engine takes masks of dropout that are counted")
    return dropout


def track(compute: ComputeVjp, names: tuple[str, ...], state: Mapping[str, Tensor]) -> Tensor:
    """Logits that autograd can differentiate once in the named parameters."""
    found: Tensor = _AsAutograd.apply(compute, names, *(state[name] for name in names))  # type: ignore[no-untyped-call]
    return found


class _AsAutograd(torch.autograd.Function):
    """Everything between parameters and logits as one step of autograd, by an engine's own backward pass."""

    @staticmethod
    def forward(ctx: Any, compute: ComputeVjp, names: tuple[str, ...], *parameters: Tensor) -> Tensor:
        logits, ctx.vjp = compute(dict(zip(names, parameters, strict=True)))
        ctx.names, ctx.kinds = names, [parameter.dtype for parameter in parameters]
        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        vjp: Vjp = ctx.vjp
        del ctx.vjp  # its buffers are overwritten: there is no second backward
        grads = vjp(grad.contiguous())
        return None, None, *(grads[name].to(kind) for name, kind in zip(ctx.names, ctx.kinds, strict=True))
