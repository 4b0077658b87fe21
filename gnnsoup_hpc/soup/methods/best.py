"""The best ingredient, by validation score: what a soup has to beat."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gnnsoup_hpc.evaluation.tasks import rank_by_score
from gnnsoup_hpc.io.records import MixingWeights
from gnnsoup_hpc.soup.context import SoupContext


@dataclass(frozen=True)
class BestIngredient:
    """All weight on the ingredient with the highest validation score; of equals, on that with the lowest id."""

    name: str = "best"
    source: str = "baseline"

    def run(self, context: SoupContext) -> MixingWeights:
        """N evaluations."""
        first = rank_by_score(context.score_each(), context.ids)[0]
        return MixingWeights(torch.eye(context.size, dtype=torch.float64)[first][None], ("model",))
