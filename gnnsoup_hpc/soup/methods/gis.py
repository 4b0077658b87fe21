"""Greedy Interpolated Souping: the baseline that LS and PLS are compared with."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import torch

from gnnsoup_hpc.config import GisJob
from gnnsoup_hpc.evaluation.tasks import rank_by_score
from gnnsoup_hpc.io.records import MixingWeights, Step
from gnnsoup_hpc.soup.context import ScoreContext


@dataclass(frozen=True)
class Gis:
    """By falling score, a * soup + (1 - a) * ingredient for `granularity` values of a in [0, 1]; the best is kept.

    a = 1 is among them, so the soup never gets worse on validation; of equally good values the largest is taken.
    """

    options: GisJob = field(default_factory=GisJob)
    name: str = "gis"
    source: str = "Jaiswal et al., Graph Ladling, ICML 2023, arXiv 2306.10466, section on interpolated souping"

    def run(self, context: ScoreContext) -> MixingWeights:
        """N + (granularity - 2) * (N - 1) evaluations: a = 1 and a = 0 are known. Those of one step are independent."""
        scores = context.score_each()
        first, *others = rank_by_score(scores, context.ids)
        pure = torch.eye(context.size, dtype=torch.float64)
        ratios = torch.linspace(1.0, 0.0, self.options.granularity, dtype=torch.float64).tolist()
        alpha, reached = pure[first], scores[first]
        history = [Step(1, math.nan, context.metric(reached), math.nan, 0.0)]
        bar = context.bar(len(others), self.name)
        for number, other in enumerate(others, 2):
            start = time.perf_counter()
            inside = context.scores_between(alpha[None], pure[other][None], ratios[1:-1])
            tried = [reached, *inside, scores[other]]
            reached = max(tried)
            share = ratios[tried.index(reached)]
            alpha = share * alpha + (1.0 - share) * pure[other]
            metric = context.metric(reached)
            history.append(Step(number, math.nan, metric, math.nan, time.perf_counter() - start))
            bar.advance(f"validation {metric:.4f}")
        bar.close()
        return MixingWeights(alpha[None], ("model",), history=tuple(history))
