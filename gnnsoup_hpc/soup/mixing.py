"""Mixing: W^g = sum over i of alpha[g, i] W_i^g for each group g of parameters, and its gradient.

dL/dalpha[g, i] = <dL/dW^g, W_i^g>. Sums run over ingredients in a fixed order and inner products in float64, so a
mixture does not depend on the number of threads or ranks. Source: arXiv 2503.11612, equations of Learned Souping.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain, pairwise
from math import prod

import numpy as np
import torch
from torch import Tensor

from gnnsoup_hpc.engine.compiled.kernels import sums as kernels
from gnnsoup_hpc.models.base import Model
from gnnsoup_hpc.types import Grouping, State


@dataclass(frozen=True)
class ParameterMatrix:
    """N ingredients of one model, each one flat row of weights, (N, P) float32; `ids` name them, in any order.

    Rows are ordered by layer, so that the parameters of any group (layer, tensor, model) are one contiguous span.
    counts: entries that are whole numbers, which are mixed by no shares, of each ingredient.
    """

    model: Model
    ids: tuple[int, ...]
    weights: Tensor
    counts: Sequence[State] = ()

    @classmethod
    def of(cls, model: Model, ids: Sequence[int], states: Iterable[State], device: torch.device) -> ParameterMatrix:
        """A matrix with one row a state, taken one at a time."""
        order, shapes, counts = list(chain.from_iterable(model.groups("layer").values())), model.shapes(), []
        weights = torch.empty(len(ids), sum(prod(shapes[name]) for name in order))
        for row, state in zip(weights, states, strict=True):
            torch.cat([state[name].flatten() for name in order], out=row)
            counts.append({name: state[name].to(device) for name in model.integers})
        return cls(model, tuple(ids), weights.to(device), counts)

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def spans(self) -> Mapping[str, tuple[int, int]]:
        """Start and end of each parameter in a row."""
        names = list(chain.from_iterable(self.model.groups("layer").values()))
        shapes = self.model.shapes()
        ends = list(accumulate(prod(shapes[name]) for name in names))
        return dict(zip(names, zip([0, *ends], ends, strict=False), strict=True))

    def groups(self, by: Grouping) -> dict[str, tuple[int, int]]:
        """Start and end of each group in a row, in the order of rows."""
        named = {
            group: (min(self.spans[name][0] for name in names), max(self.spans[name][1] for name in names))
            for group, names in self.model.groups(by).items()
        }
        return dict(sorted(named.items(), key=lambda item: item[1]))

    def group_of(self, by: Grouping) -> Tensor:
        """The group of each number of a row, (P,); kept."""
        if by not in self._groups:
            spans = self.groups(by).values()
            lengths = torch.tensor([stop - start for start, stop in spans])
            self._groups[by] = torch.arange(len(lengths)).repeat_interleave(lengths).to(self.weights.device)
        return self._groups[by]

    @cached_property
    def _groups(self) -> dict[Grouping, Tensor]:
        return {}

    def state(self, row_P: Tensor, counts: Mapping[str, Tensor] | None = None) -> State:
        """The entries that a row holds, as views of it, and those that are whole numbers, in the model's order."""
        return {
            name: row_P[self.spans[name][0] : self.spans[name][1]].view(shape)
            if name in self.spans
            else (counts or {})[name].clone()
            for name, shape in self.model.shapes().items()
        }

    def ingredient(self, number: int) -> State:
        """That of an ingredient."""
        return self.state(self.weights[number], self.counts[number] if self.counts else None)


@torch.no_grad()
def mix(matrix: ParameterMatrix, alpha_GN: Tensor, by: Grouping) -> State:
    """The state that alpha (G, N) mixes; one weight of 1 gives that ingredient exactly.

    What is a whole number comes from the ingredient with the most weight.
    """
    spans = list(matrix.groups(by).values())
    if alpha_GN.shape != (len(spans), len(matrix)):
        raise ValueError(f"alpha has shape {tuple(alpha_GN.shape)}; expected {(len(spans), len(matrix))}")
    weights = matrix.weights
    shares = alpha_GN.to(weights)
    counts = matrix.counts[int(shares.sum(0).argmax())] if any(matrix.counts) else None
    if weights.device.type == "cpu":
        row = torch.empty_like(weights[0])
        kernels.mix(shares.contiguous().numpy(), weights.numpy(), _bounds(matrix, by), row.numpy())
        return matrix.state(row, counts)
    return matrix.state(_mix_there(weights, shares, matrix.group_of(by)), counts)


@torch.no_grad()
def gradient(matrix: ParameterMatrix, grads: Mapping[str, Tensor], by: Grouping) -> Tensor:
    """The gradient in alpha, (G, N) float64, of gradients (float64) in the parameters of a mixture."""
    weights = matrix.weights
    row = torch.cat([grads[name].reshape(-1) for name in matrix.spans])
    bounds = _bounds(matrix, by)
    if weights.device.type == "cpu":
        products = torch.empty(len(bounds) - 1, len(matrix), dtype=torch.float64)
        kernels.inner_products(row.numpy(), weights.numpy(), bounds, products.numpy())
        return products
    return _multiply_there(row, weights, bounds.tolist())


def _mix_there(weights_NP: Tensor, shares_GN: Tensor, group_of_P: Tensor) -> Tensor:
    """kernels.mix on a GPU, in few launches."""
    return (weights_NP * shares_GN[group_of_P].t()).sum(0)


def _multiply_there(row_P: Tensor, weights_NP: Tensor, bounds: list[int]) -> Tensor:
    """kernels.inner_products on a GPU, in few launches."""
    ends = pairwise(bounds)
    return torch.stack([weights_NP[:, start:stop].double() @ row_P[start:stop] for start, stop in ends])


def warm_up() -> None:
    """Compile, or load, the kernels, so that the first method to be measured is not blamed for it."""
    bounds, weights = np.array([0, 4]), np.ones((1, 4), dtype=np.float32)
    kernels.mix(np.ones((1, 1), dtype=np.float32), weights, bounds, np.empty(4, dtype=np.float32))
    kernels.inner_products(np.ones(4), weights, bounds, np.empty((1, 1)))


def _bounds(matrix: ParameterMatrix, by: Grouping) -> np.ndarray:
    """Where each group begins in a row, and the last one ends, (G + 1,)."""
    return np.array([0, *(stop for _, stop in matrix.groups(by).values())])
