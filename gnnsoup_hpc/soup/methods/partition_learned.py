"""Partition Learned Souping: Learned Souping on a fresh union of parts each step."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from gnnsoup_hpc.config import PartitionLearnedJob
from gnnsoup_hpc.errors import JobError
from gnnsoup_hpc.io.records import MixingWeights
from gnnsoup_hpc.soup.context import SoupContext
from gnnsoup_hpc.soup.optim.fitting import BatchStream, fit


@dataclass(frozen=True)
class PartitionLearned:
    """R of K parts a step; the whole graph is never in memory."""

    options: PartitionLearnedJob = field(default_factory=lambda: PartitionLearnedJob())
    name: str = "pls"
    source: str = "Zuber et al., Enhanced Soups for Graph Neural Networks, arXiv 2503.11612, Partition Learned Souping"

    def cook(self, kitchen: SoupContext) -> MixingWeights:
        """`epochs` forward and backward passes over unions of `union` parts."""
        options, whole = self.options, self.options.union == kitchen.parts
        steps = None if options.optimiser == "lbfgs" else math.ceil(options.epochs / options.reuse)
        masks = kitchen.kept_out(options.holdout, "soup.pls.holdout", options.union)
        unions = kitchen.unions(options.union, steps, options.prefetch, options.first_hop == "exact")
        window = math.ceil(kitchen.parts / options.union) * options.reuse
        if options.holdout and window > options.epochs:
            raise JobError(
                f"soup.pls.holdout = {options.holdout} judges alpha by the mean of {window} evaluations, about once"
                f" every part, and there are soup.pls.epochs = {options.epochs}: raise epochs, or soup.pls.union"
            )
        return fit(kitchen, options, BatchStream(unions, masks, whole, options.reuse, window), self.name)
