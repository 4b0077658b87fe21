"""The greedy soup: keep an ingredient if the mean of the kept ones does not get worse."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from gnnsoup_hpc.evaluation.tasks import rank_by_score
from gnnsoup_hpc.io.records import MixingWeights, Step
from gnnsoup_hpc.soup.context import ScoreContext
from gnnsoup_hpc.soup.mixtures import Candidate


@dataclass(frozen=True)
class Greedy:
    """By falling validation score; never below the best ingredient on validation."""

    name: str = "greedy"
    source: str = "Wortsman et al., Model soups, ICML 2022, arXiv 2203.05482, algorithm 1"

    def run(self, context: ScoreContext) -> MixingWeights:
        """2N - 1 evaluations."""
        scores = context.score_each()
        first, *others = rank_by_score(scores, context.ids)
        kept, reached = [first], scores[first]
        history = [Step(1, math.nan, context.metric(reached), math.nan, 0.0)]
        bar = context.bar(len(others), self.name)
        for number, other in enumerate(others, 2):
            start = time.perf_counter()
            (tried,) = context.scores([Candidate(_average([*kept, other], context.size))])
            if tried >= reached:
                kept, reached = [*kept, other], tried
            metric = context.metric(reached)
            history.append(Step(number, math.nan, metric, math.nan, time.perf_counter() - start))
            bar.advance(f"validation {metric:.4f}")
        bar.close()
        return MixingWeights(_average(kept, context.size), ("model",), history=tuple(history))


def _average(kept: list[int], size: int) -> Tensor:
    """Alpha of the mean of some ingredients, (1, N)."""
    alpha = torch.zeros(1, size, dtype=torch.float64)
    alpha[0, kept] = 1.0 / len(kept)
    return alpha
