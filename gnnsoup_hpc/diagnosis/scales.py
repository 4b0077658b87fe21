"""Scales: what means of ingredients are worth on validation nodes, read from their files, few at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gnnsoup_hpc.diagnosis.lineups import lineup
from gnnsoup_hpc.evaluate import Evaluator
from gnnsoup_hpc.models import Architecture
from gnnsoup_hpc.records import Judgement, Role, State
from gnnsoup_hpc.run_dir import RunDir
from gnnsoup_hpc.store import ingredient as ingredient_store


@dataclass(frozen=True)
class Load:
    """The mean of some ingredients, each lined up with the first of them."""

    indices: tuple[int, ...]
    lineup: str = "as trained"


@dataclass(frozen=True)
class Scales:
    """Of ingredients as trained at most three states are in memory; to line them up takes all that are to be mixed."""

    run: RunDir
    architecture: Architecture
    device: torch.device
    evaluator: Evaluator

    @torch.no_grad()
    def weigh(self, load: Load) -> Judgement:
        """Accuracy and loss of a mean; of one ingredient, exactly its own."""
        return self.evaluator.judged(self._mean(load), Role.VALIDATION)

    def _mean(self, load: Load) -> State:
        total: dict[str, Tensor] = {}
        for state in self._lined_up(load):
            for name, tensor in state.items():
                total[name] = total[name] + tensor.double() if name in total else tensor.double()
        return {name: (tensor / len(load.indices)).float().to(self.device) for name, tensor in total.items()}

    def _lined_up(self, load: Load) -> Iterator[State]:
        states = (self._state(index) for index in load.indices)
        line_up = lineup(load.lineup).line_up
        yield from states if line_up is None else line_up(self.architecture, list(states))

    def _state(self, index: int) -> State:
        return ingredient_store.read(self.run.ingredient(index)).state
