"""What learned soups are compared with: the best ingredient, the uniform soup, the ensemble of all ingredients."""

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


@dataclass(frozen=True)
class Uniform:
    """The mean of all ingredients; looks at no data."""

    name: str = "uniform"
    source: str = "Wortsman et al., Model soups, ICML 2022, arXiv 2203.05482, section 2"

    def run(self, context: SoupContext) -> MixingWeights:
        """No evaluation."""
        alpha = torch.full((1, context.size), 1.0 / context.size, dtype=torch.float64)
        return MixingWeights(alpha, ("model",))


@dataclass(frozen=True)
class Ensemble:
    """Mean of the ingredients' softmax, sigmoid or plain outputs, which is no one model: N times the inference cost."""

    name: str = "ensemble"
    source: str = "baseline; Wortsman et al., Model soups, ICML 2022, arXiv 2203.05482, section 2"

    def run(self, context: SoupContext) -> MixingWeights:
        """No evaluation: its N forward passes are its inference."""
        alpha = torch.full((1, context.size), 1.0 / context.size, dtype=torch.float64)
        return MixingWeights(alpha, ("model",), of="predictions")
