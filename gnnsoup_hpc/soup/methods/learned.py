"""Learned Souping: alpha by its gradient over the whole graph."""

from __future__ import annotations

from dataclasses import dataclass, field

from gnnsoup_hpc.job import LearnedJob
from gnnsoup_hpc.records import Mixture
from gnnsoup_hpc.soup.fitting import Served, fitted
from gnnsoup_hpc.soup.kitchen import Kitchen


@dataclass(frozen=True)
class Learned:
    """On all validation nodes, or all but those held out."""

    options: LearnedJob = field(default_factory=lambda: LearnedJob())
    name: str = "ls"
    source: str = "Zuber et al., Enhanced Soups for Graph Neural Networks, arXiv 2503.11612, Learned Souping"

    def cook(self, kitchen: Kitchen) -> Mixture:
        """At most `epochs` forward and backward passes over the whole graph."""
        masks = kitchen.kept_out(self.options.holdout, "soup.ls.holdout")
        return fitted(kitchen, self.options, Served(kitchen.whole_for_ever(), masks), self.name)
