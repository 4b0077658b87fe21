"""One pass of GCN or GraphSAGE over a plan on the device, forward and backward; engine/compiled/passes.py's twin.

A layer adds up products of a matrix with a weight matrix, [mean(h) | h] of GraphSAGE, GCN's normalised sum of h; only
the rows that the loss needs are made. States are kept in the plan's precision, sums and gradients of parameters in
float32. The first layer's products have the first aggregation for their input, which no weight has a part in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gnnsoup_hpc.engine.triton import kernels
from gnnsoup_hpc.engine.triton.kernels import Draws, sum_columns, sum_rows
from gnnsoup_hpc.engine.triton.plan import TritonPlan
from gnnsoup_hpc.models.base import CountedDropout
from gnnsoup_hpc.models.gnn import EPS, find_norm, name_bias, name_weights


@dataclass(frozen=True)
class Masks:
    """Of a step's dropout, what kernels draw them by.

    draws (L, 2, 2) int64: of a layer's states, then its entries, the key's 64 bits and the bar below which a number
    drops.
    """

    draws: Tensor
    scale: float

    @classmethod
    def draw(cls, dropout: CountedDropout, layers: int, device: torch.device) -> Masks:
        """Of all layers, by one copy to the device."""
        keys = [[dropout.key_of(layer, entries) for entries in (False, True)] for layer in range(layers)]
        signed = [[[key - 2**64 if key >= 2**63 else key, dropout.bar] for key in pair] for pair in keys]
        return cls(torch.tensor(signed, device=device), dropout.scale)


Interpolation = tuple[float, Tensor, Tensor]  # share, and of two states what their first weights make of the first hop


class TritonForwardBackward:
    """One forward pass and, if `keep`, its backward pass. hidden[l] is what layer l has made, (rows[l], C).

    first: share * start + (1 - share) * end, (rows[0], C) each, in place of the first layer's products.
    """

    def __init__(
        self,
        plan: TritonPlan,
        state: Mapping[str, Tensor],
        keep: bool,
        masks: Masks | None = None,
        first: Interpolation | None = None,
    ) -> None:
        self.net, self.plan, self.keep, self._masks, self._first = plan.net, plan, keep, masks, first
        self._state = {name: state[name].detach() for name in plan.net.shapes()}
        self._hidden: list[Tensor] = []
        self._aggregated: list[Tensor] = []  # of the layers after the first
        self._normed: list[tuple[Tensor, Tensor] | tuple[()]] = []

    def forward(self) -> Tensor:
        """Class scores of the seed nodes, (n, C), in float32 or float64."""
        hidden = None
        for layer in range(self.net.layers):
            hidden = self._layer(layer, hidden)
            if self.keep and layer < self.net.layers - 1:
                self._hidden.append(hidden)
        assert hidden is not None
        return hidden.to(kernels.choose_sums(hidden))

    def _layer(self, layer: int, below: Tensor | None) -> Tensor:
        plan, last = self.plan, layer == self.net.layers - 1
        bias = self._state[name_bias(self.net, layer)]
        if below is None:
            out = self.multiply_first() if self._first is None else _interpolate(*self._first)
        else:
            rows = plan.rows[layer]
            aggregated = below.new_empty(rows, below.shape[1])
            structure = plan.structures[layer]
            sum_rows(
                structure,
                below,
                aggregated,
                weights=plan.weights(),
                row_scale=plan.scale,
                column_scale=plan.column_scale,
            )
            if self.keep:
                self._aggregated.append(aggregated)
            weights = self._matrices(layer)
            out = aggregated @ weights[0].t()
            if len(weights) > 1:
                out.addmm_(below[:rows], weights[1].t())
        if last:
            return out.to(bias.dtype).add_(bias)
        norm = find_norm(self._state, layer)
        draws = find_draws(self._masks, plan, layer)
        self._normed.append(kernels.finish(out, bias, norm, EPS, draws, self.keep))
        return out

    def multiply_first(self) -> Tensor:
        """What the first weights make of the first aggregation, (rows[0], C)."""
        return self.plan.first @ torch.cat(self._matrices(0), 1).t()

    def _matrices(self, layer: int) -> list[Tensor]:
        """What the layer's inputs are multiplied by, (C, width) each, in the plan's precision."""
        return [self._state[name].to(self.plan.first.dtype) for name in name_weights(self.net, layer)]

    def backward(self, grad: Tensor) -> dict[str, Tensor]:
        """Gradients of all parameters, float64, given that of the scores (n, C)."""
        grads: dict[str, Tensor] = {}
        kind = self.plan.first.dtype
        grads[name_bias(self.net, self.net.layers - 1)] = sum_columns(grad)
        grad = grad.to(kind)
        for layer in range(self.net.layers - 1, -1, -1):
            names = name_weights(self.net, layer)
            if not layer:
                whole = multiply_to_sums(grad.t(), self.plan.first)
                grads |= dict(zip(names, whole.chunk(len(names), 1), strict=True))
                break
            aggregated, below = self._aggregated.pop(), self._hidden.pop()
            inputs = [aggregated, below[: len(grad)]]
            for name, input_ in zip(names, inputs, strict=False):
                grads[name] = multiply_to_sums(grad.t(), input_)
            grad = self._below(layer, grad, aggregated, below)
            grads |= self._backpropagate_norm(layer - 1, grad)
            grads[name_bias(self.net, layer - 1)] = sum_columns(grad)
        return {name: grads[name].double() for name in self._state}

    def _below(self, layer: int, grad: Tensor, aggregated: Tensor, below: Tensor) -> Tensor:
        """Gradient of what the layer below gave to its norm or ReLU, from that of this layer's products (n, C)."""
        plan, weights = self.plan, self._matrices(layer)
        torch.mm(grad, weights[0], out=aggregated)  # no longer of use
        own = grad @ weights[1] if len(weights) > 1 else None
        own_scale = self._masks.scale if self._masks else 1.0
        return sum_rows(
            plan.transposes[layer],
            aggregated,
            torch.empty_like(below),
            weights=plan.weights(transposed=True),
            row_scale=plan.column_scale,
            column_scale=plan.scale,
            own=own,
            gate=below,
            scale=own_scale,
        )

    def _backpropagate_norm(self, layer: int, grad: Tensor) -> dict[str, Tensor]:
        norm, kept = find_norm(self._state, layer), self._normed.pop()
        return backpropagate_norm(layer, grad, norm, kept)


def backpropagate_norm(
    layer: int, grad: Tensor, norm: tuple[Tensor, Tensor] | tuple[()], kept: tuple[Tensor, Tensor] | tuple[()]
) -> dict[str, Tensor]:
    """Gradients of the norm after a layer; `grad` becomes that of what the norm was given."""
    if not norm or not kept:
        return {}
    found = {f"norms.{layer}.weight": sum_columns(grad, kept[0]), f"norms.{layer}.bias": sum_columns(grad)}
    kernels.backpropagate_norm(grad, norm[0], *kept)
    return found


def _interpolate(share: float, start: Tensor, end: Tensor) -> Tensor:
    return torch.lerp(end, start, share)


def multiply_to_sums(a: Tensor, b: Tensor) -> Tensor:
    """A @ b, in float32 where the factors are bfloat16."""
    if a.dtype != torch.bfloat16:
        return a @ b
    if a.device.type == "cuda":
        return torch.mm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()


def find_draws(masks: Masks | None, plan: TritonPlan, layer: int, entries: bool = False) -> Draws | None:
    """What the kernels draw masks by, of a layer's states or its entries."""
    return None if masks is None else Draws(masks.draws[layer, int(entries)], plan.nodes, masks.scale)
