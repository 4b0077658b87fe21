"""The ensemble: the yardstick that a soup is judged by, at N times the inference cost."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gnnsoup_hpc.io.records import MixingWeights
from gnnsoup_hpc.soup.context import SoupContext


@dataclass(frozen=True)
class Ensemble:
    """Mean of the ingredients' softmax outputs; mixes predictions, so there is no one model."""

    name: str = "ensemble"
    source: str = "baseline; Wortsman et al., Model soups, ICML 2022, arXiv 2203.05482, section 2"

    def run(self, context: SoupContext) -> MixingWeights:
        """No evaluation: its N forward passes are its inference."""
        alpha = torch.full((1, context.size), 1.0 / context.size, dtype=torch.float64)
        return MixingWeights(alpha, ("model",), of="predictions")
