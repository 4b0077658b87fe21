"""One pass of GAT over a plan on the device, forward and backward, by the kernels of attention.py.

Values x W^T are made for all columns; scores are told from them. Numbers of entries, one a head, are made where a layer
needs them; weights are kept for gradients where they are few beside the values. With g the gradient of a row's sums,
that of an entry's score is weight * (kept <g, value> - <g, sums>), where `kept` is what dropout multiplies the weight
by.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gnnsoup_hpc.engine.triton import attention as kernels
from gnnsoup_hpc.engine.triton.kernels import Weights, choose_sums, finish, gate, sum_columns, sum_rows
from gnnsoup_hpc.engine.triton.memory import SHARE
from gnnsoup_hpc.engine.triton.passes import Masks, backpropagate_norm, find_draws, multiply_to_sums
from gnnsoup_hpc.engine.triton.plan import TritonPlan
from gnnsoup_hpc.models.convolutions.gat import NEGATIVE_SLOPE
from gnnsoup_hpc.models.gnn import EPS, find_norm


@dataclass(frozen=True)
class _Scores:
    """What weights are made of: of columns as sources (U, H), of rows as destinations and levels (R, H)."""

    source: Tensor
    destination: Tensor
    level: Tensor


@dataclass(frozen=True)
class _KeptLayer:
    """Of a layer, for gradients: what went in (U, in), values (U, H C), sums (R, H C), and of the norm after it."""

    below: Tensor
    values: Tensor
    scores: _Scores
    weights: Weights | None
    sums: Tensor
    normed: tuple[Tensor, Tensor] | tuple[()]


class TritonGatForwardBackward:
    """One forward pass and, if `keep`, its backward pass."""

    def __init__(self, plan: TritonPlan, state: Mapping[str, Tensor], keep: bool, masks: Masks | None = None) -> None:
        self.net, self.plan, self.keep, self._masks = plan.net, plan, keep, masks
        self._state = {name: state[name].detach() for name in plan.net.shapes()}
        self._kept: list[_KeptLayer] = []

    def forward(self) -> Tensor:
        """Class scores of the seed nodes, (n, C), in float32 or float64."""
        hidden = self.plan.first
        for layer in range(self.net.layers):
            hidden = self._layer(layer, hidden)
        return hidden

    def _layer(self, layer: int, below: Tensor) -> Tensor:
        plan, rows, last = self.plan, self.plan.rows[layer], layer == self.net.layers - 1
        values = below @ self._weight(layer).t()
        scores = self._score(layer, values)
        weights = self._weigh(layer, scores)
        sums = sum_rows(plan.structures[layer], values, values.new_empty(rows, values.shape[1]), weights=weights)
        bias = self._state[f"convs.{layer}.bias"]
        kept: tuple[Tensor, Tensor] | tuple[()] = ()
        if last:
            out = sums.view(rows, self.net.heads, len(bias)).mean(1, dtype=choose_sums(sums)) + bias
        else:
            out = torch.empty_like(sums) if self.keep else sums
            norm, draws = find_norm(self._state, layer), find_draws(self._masks, plan, layer)
            kept = finish(sums, bias, norm, EPS, draws, self.keep, out)
        if self.keep:
            self._kept.append(
                _KeptLayer(
                    below,
                    values,
                    scores,
                    weights if SHARE * weights.values.nbytes <= values.nbytes else None,
                    sums,
                    kept,
                )
            )
        return out

    def _weight(self, layer: int) -> Tensor:
        return self._state[f"convs.{layer}.lin.weight"].to(self.plan.first.dtype)

    def _vectors(self, layer: int) -> Tensor:
        """What values are multiplied by for the scores, (2 H, H C): each head's vectors in its own channels."""
        source, destination = (self._state[f"convs.{layer}.{name}"][0] for name in ("att_src", "att_dst"))
        of_own_head = torch.eye(len(source), device=source.device, dtype=source.dtype)[..., None]
        return torch.cat([(of_own_head * each).flatten(1) for each in (source, destination)])

    def _score(self, layer: int, values: Tensor) -> _Scores:
        plan, heads, vectors = self.plan, self.net.heads, self._vectors(layer)
        scores = values.to(vectors.dtype) @ vectors.t()
        source, destination = scores[:, :heads].contiguous(), scores[: plan.rows[layer], heads:].contiguous()
        level = kernels.find_levels(plan.structures[layer], source, destination, NEGATIVE_SLOPE)
        return _Scores(source, destination, level)

    def _weigh(self, layer: int, scores: _Scores) -> Weights:
        """Weights of entries, after dropout."""
        draws = find_draws(self._masks, self.plan, layer, entries=True)
        of = scores.source, scores.destination, scores.level
        return kernels.weigh(self.plan.structures[layer], *of, NEGATIVE_SLOPE, draws)

    def backward(self, grad: Tensor) -> dict[str, Tensor]:
        """Gradients of all parameters, float64, given that of the scores (n, C)."""
        heads = self.net.heads
        grads = {f"convs.{self.net.layers - 1}.bias": sum_columns(grad)}
        grad = (grad / heads)[:, None].expand(-1, heads, -1).flatten(1).to(self.plan.first.dtype)
        for layer in range(self.net.layers - 1, -1, -1):
            kept = self._kept.pop()
            of_values = self._convolution(layer, kept, grad, grads)
            if not layer:
                break
            grad = of_values @ self._weight(layer)
            gate(grad, kept.below, self._masks.scale if self._masks else 1.0)
            grads |= backpropagate_norm(layer - 1, grad, find_norm(self._state, layer - 1), self._kept[-1].normed)
            grads[f"convs.{layer - 1}.bias"] = sum_columns(grad)
        return {name: grads[name].double() for name in self._state}

    def _convolution(self, layer: int, kept: _KeptLayer, grad: Tensor, grads: dict[str, Tensor]) -> Tensor:
        """Gradients of its parameters but for the bias, and of its values, which are returned; grad: of its sums."""
        plan, heads, values, scores = self.plan, self.net.heads, kept.values, kept.scores
        structure, transpose, places = plan.structures[layer], plan.transposes[layer], plan.places
        weights = kept.weights or self._weigh(layer, scores)
        inner = kernels.multiply_rows(grad, kept.sums, heads)
        of_entries = kernels.multiply_entries(structure, weights, values, grad)
        of_scores = torch.zeros(len(values), 2 * heads, dtype=inner.dtype, device=inner.device)
        of = scores.source, scores.destination, scores.level, inner, of_entries, NEGATIVE_SLOPE
        kernels.differentiate_scores(structure, *of, of_scores[: len(grad), heads:])
        kernels.sum_entries(transpose, places, of_entries, of_scores[:, :heads])
        of_values = torch.empty_like(values)
        sum_rows(transpose, grad, of_values, weights=Weights(weights.values, places))
        of_values.addmm_(of_scores.to(values.dtype), self._vectors(layer).to(values.dtype))
        of_vectors = (of_scores.t() @ values.to(of_scores.dtype)).view(2, heads, heads, values.shape[1] // heads)
        of_source, of_destination = of_vectors.diagonal(dim1=1, dim2=2).transpose(1, 2)
        grads[f"convs.{layer}.att_src"], grads[f"convs.{layer}.att_dst"] = of_source[None], of_destination[None]
        grads[f"convs.{layer}.lin.weight"] = multiply_to_sums(of_values.t(), kept.below)
        return of_values
