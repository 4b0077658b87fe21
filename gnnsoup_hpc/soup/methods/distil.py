"""One model that gives what all ingredients give together, at the cost of one."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from gnnsoup_hpc.config import DistilJob
from gnnsoup_hpc.io.records import MixingWeights
from gnnsoup_hpc.soup.context import SoupContext


@dataclass(frozen=True)
class Distil:
    """Trained to give the ensemble's outputs on all nodes; begins at a soup, or from scratch."""

    options: DistilJob = field(default_factory=DistilJob)
    name: str = "distil"
    source: str = "Hinton et al., arXiv 1503.02531; Yang et al., WWW 2021, arXiv 2103.02885"

    def run(self, context: SoupContext) -> MixingWeights:
        """N forward passes over the whole graph for what it imitates, then `epochs` times one over all unions."""
        alpha = torch.full((1, context.size), 1.0 / context.size, dtype=torch.float64)
        state, history = context.distil(self.options)
        return MixingWeights(alpha, ("model",), history=history, of="distilled", state=state)
