"""The best ingredient, by validation accuracy: what a soup has to beat."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gnnsoup_hpc.io.records import MixingWeights
from gnnsoup_hpc.soup.context import SoupContext
from gnnsoup_hpc.soup.ranking import rank_by_accuracy


@dataclass(frozen=True)
class BestIngredient:
    """All weight on the ingredient with the highest validation accuracy; of equals, on that with the lowest id."""

    name: str = "best"
    source: str = "baseline"

    def cook(self, kitchen: SoupContext) -> MixingWeights:
        """N evaluations."""
        first = rank_by_accuracy(kitchen.each_ingredient(), kitchen.shelf.ids)[0]
        return MixingWeights(torch.eye(kitchen.ingredients, dtype=torch.float64)[first][None], ("model",))
