"""Partition Learned Souping: Learned Souping on a fresh union of parts each step."""

from __future__ import annotations

from dataclasses import dataclass, field

from gnnsoup_hpc.job import PartitionLearnedJob
from gnnsoup_hpc.records import Mixture
from gnnsoup_hpc.soup.fitting import fitted
from gnnsoup_hpc.soup.kitchen import Kitchen


@dataclass(frozen=True)
class PartitionLearned:
    """R of K parts a step; the whole graph is never in memory."""

    options: PartitionLearnedJob = field(default_factory=lambda: PartitionLearnedJob())
    name: str = "pls"
    source: str = "Zuber et al., Enhanced Soups for Graph Neural Networks, arXiv 2503.11612, Partition Learned Souping"

    def cook(self, kitchen: Kitchen) -> Mixture:
        """`epochs` forward and backward passes over unions of `union` parts."""
        options = self.options
        unions = kitchen.unions(options.union, options.epochs, options.prefetch, options.first_hop == "exact")
        return fitted(kitchen, options, unions, self.name)
