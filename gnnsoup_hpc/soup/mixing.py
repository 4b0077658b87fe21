"""Mixing: W^g = sum over i of alpha[g, i] W_i^g for each group g of parameters, and its gradient.

dL/dalpha[g, i] = <dL/dW^g, W_i^g>. Sums run over ingredients in a fixed order and inner products in float64, so a
mixture does not depend on the number of threads or ranks. Source: arXiv 2503.11612, equations of Learned Souping.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gnnsoup_hpc.engine.compiled.kernels import mixing as kernels
from gnnsoup_hpc.soup.parameter_matrix import ParameterMatrix
from gnnsoup_hpc.types import Dense, Grouping, IntArray, State


def mix(shelf: ParameterMatrix, alpha_GN: Tensor, by: Grouping) -> State:
    """The state that alpha (G, N) mixes, differentiable in alpha; one weight of 1 gives that ingredient exactly."""
    spans = list(shelf.groups(by).values())
    if alpha_GN.shape != (len(spans), len(shelf)):
        raise ValueError(f"alpha has shape {tuple(alpha_GN.shape)}; expected {(len(spans), len(shelf))}")
    lengths = torch.tensor([stop - start for start, stop in spans], device=alpha_GN.device)
    row: Tensor = _Mix.apply(alpha_GN, shelf.weights, lengths)  # type: ignore[no-untyped-call]
    return shelf.state(row)


def gradient(shelf: ParameterMatrix, grads: Mapping[str, Dense], by: Grouping) -> Tensor:
    """The gradient in alpha, (G, N) float64, of gradients in the parameters of a mixture on the CPU."""
    row = np.empty(shelf.weights.shape[1])
    for name, (start, stop) in shelf.spans.items():
        row[start:stop] = grads[name].reshape(-1)
    bounds = np.array([0, *(stop for _, stop in shelf.groups(by).values())])
    products = torch.empty(len(bounds) - 1, len(shelf), dtype=torch.float64)
    kernels.inner_products(row, shelf.weights.numpy(), bounds, products.numpy())
    return products


def warm_up() -> None:
    """Compile, or load, the kernels, so that the first method to be measured is not blamed for it."""
    alpha = torch.ones(1, 1, dtype=torch.float64, requires_grad=True)
    row: Tensor = _Mix.apply(alpha, torch.ones(1, 4), torch.tensor([4]))  # type: ignore[no-untyped-call]
    row.sum().backward()  # type: ignore[no-untyped-call]
    kernels.inner_products(np.ones(4), np.ones((1, 4), dtype=np.float32), np.array([0, 4]), np.empty((1, 1)))


class _Mix(torch.autograd.Function):
    """alpha (G, N), weights (N, P), lengths of groups (G,) -> row (P,)."""

    @staticmethod
    def forward(ctx: Any, alpha: Tensor, weights: Tensor, lengths: Tensor) -> Tensor:
        ctx.save_for_backward(weights, lengths)
        ctx.kind = alpha.dtype
        shares = alpha.detach().to(weights)
        if weights.device.type == "cpu":
            row = torch.empty_like(weights[0])
            kernels.mix(shares.contiguous().numpy(), weights.numpy(), _bounds(lengths), row.numpy())
            return row
        row = torch.zeros_like(weights[0])
        for share, ingredient in zip(shares.T, weights, strict=True):
            row.addcmul_(ingredient, share.repeat_interleave(lengths, output_size=len(row)))
        return row

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        weights, lengths = ctx.saved_tensors
        if weights.device.type == "cpu":
            products = torch.empty(len(lengths), len(weights), dtype=torch.float64)
            kernels.inner_products(grad.contiguous().numpy(), weights.numpy(), _bounds(lengths), products.numpy())
            return products.to(ctx.kind), None, None
        groups = [
            torch.stack([piece.sum() for piece in (grad.double() * ingredient).split(lengths.tolist())])
            for ingredient in weights
        ]
        return torch.stack(groups, 1).to(ctx.kind), None, None


def _bounds(lengths: Tensor) -> IntArray:
    return np.concatenate([[0], np.cumsum(lengths.numpy())])
