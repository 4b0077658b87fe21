"""The greedy soup: keep an ingredient if the mean of the kept ones does not get worse."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from gnnsoup_hpc.io.records import MixingWeights, Step
from gnnsoup_hpc.soup.context import SoupContext
from gnnsoup_hpc.soup.ranking import rank_by_accuracy
from gnnsoup_hpc.soup.station import Candidate


@dataclass(frozen=True)
class Greedy:
    """By falling validation accuracy; never below the best ingredient on validation."""

    name: str = "greedy"
    source: str = "Wortsman et al., Model soups, ICML 2022, arXiv 2203.05482, algorithm 1"

    def cook(self, kitchen: SoupContext) -> MixingWeights:
        """2N - 1 evaluations."""
        accuracies = kitchen.each_ingredient()
        first, *others = rank_by_accuracy(accuracies, kitchen.shelf.ids)
        kept, reached = [first], accuracies[first]
        history = [Step(1, float("nan"), reached, float("nan"), 0.0)]
        bar = kitchen.bar(len(others), self.name)
        for number, other in enumerate(others, 2):
            start = time.perf_counter()
            (tried,) = kitchen.accuracies([Candidate(_mean_of([*kept, other], kitchen.ingredients))])
            if tried >= reached:
                kept, reached = [*kept, other], tried
            history.append(Step(number, float("nan"), reached, float("nan"), time.perf_counter() - start))
            bar.advance(f"validation {reached:.4f}")
        bar.close()
        return MixingWeights(_mean_of(kept, kitchen.ingredients), ("model",), history=tuple(history))


def _mean_of(kept: list[int], count: int) -> Tensor:
    alpha = torch.zeros(1, count, dtype=torch.float64)
    alpha[0, kept] = 1.0 / len(kept)
    return alpha
