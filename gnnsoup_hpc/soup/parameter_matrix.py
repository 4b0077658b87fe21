"""N ingredients of one model as a matrix, each one flat row of weights.

Rows are ordered by layer, so that the parameters of any group (layer, tensor, model) are one contiguous span.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, chain
from math import prod

import torch
from torch import Tensor

from gnnsoup_hpc.models.base import Model
from gnnsoup_hpc.types import Grouping, State


@dataclass(frozen=True)
class ParameterMatrix:
    """Shapes: weights (N, P) float32. `ids` name the ingredients, whatever their order here."""

    model: Model
    ids: tuple[int, ...]
    weights: Tensor

    @classmethod
    def of(cls, model: Model, ids: Sequence[int], states: Iterable[State], device: torch.device) -> ParameterMatrix:
        """A matrix with one row a state, taken one at a time."""
        order = list(chain.from_iterable(model.groups("layer").values()))
        weights = torch.empty(len(ids), sum(prod(shape) for shape in model.shapes().values()))
        for row, state in zip(weights, states, strict=True):
            torch.cat([state[name].flatten() for name in order], out=row)
        return cls(model, tuple(ids), weights.to(device))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the ingredients, as their files are called."""
        return tuple(f"{index:04d}" for index in self.ids)

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def spans(self) -> Mapping[str, tuple[int, int]]:
        """Start and end of each parameter in a row."""
        names = list(chain.from_iterable(self.model.groups("layer").values()))
        ends = list(accumulate(prod(self.model.shapes()[name]) for name in names))
        return dict(zip(names, zip([0, *ends], ends, strict=False), strict=True))

    def groups(self, by: Grouping) -> dict[str, tuple[int, int]]:
        """Start and end of each group in a row, in the order of rows."""
        named = {
            group: (min(self.spans[name][0] for name in names), max(self.spans[name][1] for name in names))
            for group, names in self.model.groups(by).items()
        }
        return dict(sorted(named.items(), key=lambda item: item[1]))

    def state(self, row_P: Tensor) -> State:
        """The parameters that a row holds, as views of it, in PyG's order."""
        return {
            name: row_P[self.spans[name][0] : self.spans[name][1]].view(shape)
            for name, shape in self.model.shapes().items()
        }
