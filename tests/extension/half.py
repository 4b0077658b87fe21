"""The mean of the better half of the ingredients, as somebody would add a method."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gnnsoup_hpc.evaluation.tasks import rank_by_score
from gnnsoup_hpc.io.records import MixingWeights
from gnnsoup_hpc.soup.context import SoupContext


@dataclass(frozen=True)
class BetterHalf:
    """Equal weights of the ingredients at or above the median validation score."""

    name: str = "half"
    source: str = "tests/extension"

    def run(self, context: SoupContext) -> MixingWeights:
        """N evaluations."""
        kept = rank_by_score(context.score_each(), context.ids)[: (context.size + 1) // 2]
        alpha = torch.zeros(1, context.size, dtype=torch.float64)
        alpha[0, kept] = 1.0 / len(kept)
        return MixingWeights(alpha, ("model",))
