"""The uniform soup: the mean of all ingredients."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gnnsoup_hpc.io.records import MixingWeights
from gnnsoup_hpc.soup.context import SoupContext


@dataclass(frozen=True)
class Uniform:
    """Equal weights; looks at no data."""

    name: str = "uniform"
    source: str = "Wortsman et al., Model soups, ICML 2022, arXiv 2203.05482, section 2"

    def cook(self, kitchen: SoupContext) -> MixingWeights:
        """No evaluation."""
        count = kitchen.ingredients
        return MixingWeights(torch.full((1, count), 1.0 / count, dtype=torch.float64), ("model",))
