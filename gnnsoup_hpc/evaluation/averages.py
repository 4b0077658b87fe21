"""Scales: what means of ingredients are worth on validation nodes, read from their files, few at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gnnsoup_hpc.evaluation.evaluator import Evaluator
from gnnsoup_hpc.evaluation.variants import find_variant
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io.records import EvalResult
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.types import Role, State


@dataclass(frozen=True)
class AverageSpec:
    """The mean of some ingredients, each lined up with the first of them."""

    indices: tuple[int, ...]
    lineup: str = "as trained"


@dataclass(frozen=True)
class AverageEvaluator:
    """Of ingredients as trained at most three states are in memory; to line them up takes all that are to be mixed."""

    run: RunDir
    architecture: Architecture
    device: torch.device
    evaluator: Evaluator

    @torch.no_grad()
    def weigh(self, load: AverageSpec) -> EvalResult:
        """Accuracy and loss of a mean; of one ingredient, exactly its own."""
        return self.evaluator.judged(self._mean(load), Role.VALIDATION)

    def _mean(self, load: AverageSpec) -> State:
        total: dict[str, Tensor] = {}
        for state in self._lined_up(load):
            for name, tensor in state.items():
                total[name] = total[name] + tensor.double() if name in total else tensor.double()
        return {name: (tensor / len(load.indices)).float().to(self.device) for name, tensor in total.items()}

    def _lined_up(self, load: AverageSpec) -> Iterator[State]:
        states = (self._state(index) for index in load.indices)
        line_up = find_variant(load.lineup).line_up
        yield from states if line_up is None else line_up(self.architecture, list(states))

    def _state(self, index: int) -> State:
        return ingredient_store.read(self.run.ingredient(index)).state
