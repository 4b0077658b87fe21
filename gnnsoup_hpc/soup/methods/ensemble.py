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

    def cook(self, kitchen: SoupContext) -> MixingWeights:
        """No evaluation: its N forward passes are its inference."""
        count = kitchen.ingredients
        return MixingWeights(torch.full((1, count), 1.0 / count, dtype=torch.float64), ("model",), of="predictions")
