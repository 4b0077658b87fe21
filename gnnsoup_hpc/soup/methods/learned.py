"""Learned Souping: gradient descent on alpha over the whole graph."""

from __future__ import annotations

from dataclasses import dataclass, field

from gnnsoup_hpc.job import LearnedJob
from gnnsoup_hpc.records import Mixture
from gnnsoup_hpc.soup.fitting import fitted
from gnnsoup_hpc.soup.kitchen import Kitchen


@dataclass(frozen=True)
class Learned:
    """One step an epoch, on all validation nodes."""

    options: LearnedJob = field(default_factory=lambda: LearnedJob())
    name: str = "ls"
    source: str = "Zuber et al., Enhanced Soups for Graph Neural Networks, arXiv 2503.11612, Learned Souping"

    def cook(self, kitchen: Kitchen) -> Mixture:
        """`epochs` forward and backward passes over the whole graph."""
        return fitted(kitchen, self.options, kitchen.whole_for_ever(), self.name)
