"""The ensemble: the yardstick that a soup is judged by, at N times the inference cost."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gnnsoup_hpc.records import Mixture
from gnnsoup_hpc.soup.kitchen import Kitchen


@dataclass(frozen=True)
class Ensemble:
    """Mean of the ingredients' softmax outputs; mixes predictions, so there is no one model."""

    name: str = "ensemble"
    source: str = "baseline; Wortsman et al., Model soups, ICML 2022, arXiv 2203.05482, section 2"

    def cook(self, kitchen: Kitchen) -> Mixture:
        """No evaluation: its N forward passes are its inference."""
        count = kitchen.ingredients
        return Mixture(torch.full((1, count), 1.0 / count, dtype=torch.float64), ("model",), of="predictions")
