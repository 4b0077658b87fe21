"""The best ingredient, by validation accuracy: what a soup has to beat."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gnnsoup_hpc.records import Mixture
from gnnsoup_hpc.soup.kitchen import Kitchen
from gnnsoup_hpc.soup.ranking import by_falling_accuracy


@dataclass(frozen=True)
class Best:
    """All weight on the ingredient with the highest validation accuracy; of equals, on that with the lowest id."""

    name: str = "best"
    source: str = "baseline"

    def cook(self, kitchen: Kitchen) -> Mixture:
        """N evaluations."""
        first = by_falling_accuracy(kitchen.each_ingredient(), kitchen.shelf.ids)[0]
        return Mixture(torch.eye(kitchen.ingredients, dtype=torch.float64)[first][None], ("model",))
