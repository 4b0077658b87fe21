"""Learned Souping: alpha by its gradient over the whole graph."""

from __future__ import annotations

from dataclasses import dataclass, field

from gnnsoup_hpc.config import LearnedJob
from gnnsoup_hpc.io.records import MixingWeights
from gnnsoup_hpc.soup.context import SoupContext
from gnnsoup_hpc.soup.optim.fitting import BatchStream, fit


@dataclass(frozen=True)
class Learned:
    """On all validation nodes, or all but those held out."""

    options: LearnedJob = field(default_factory=lambda: LearnedJob())
    name: str = "ls"
    source: str = "Zuber et al., Enhanced Soups for Graph Neural Networks, arXiv 2503.11612, Learned Souping"

    def cook(self, kitchen: SoupContext) -> MixingWeights:
        """At most `epochs` forward and backward passes over the whole graph."""
        masks = kitchen.kept_out(self.options.holdout, "soup.ls.holdout")
        return fit(kitchen, self.options, BatchStream(kitchen.whole_for_ever(), masks), self.name)
