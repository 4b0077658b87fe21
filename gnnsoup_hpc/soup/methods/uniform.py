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

    def run(self, context: SoupContext) -> MixingWeights:
        """No evaluation."""
        alpha = torch.full((1, context.size), 1.0 / context.size, dtype=torch.float64)
        return MixingWeights(alpha, ("model",))
