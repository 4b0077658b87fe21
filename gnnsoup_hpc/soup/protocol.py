"""What a souping method is."""

from __future__ import annotations

from typing import Protocol

from gnnsoup_hpc.io.records import MixingWeights
from gnnsoup_hpc.soup.context import SoupContext


class SoupMethod(Protocol):
    """A way to mix ingredients into one model: a frozen record of its own hyperparameters."""

    @property
    def name(self) -> str:
        """As in the job and in file names: "pls"."""

    @property
    def source(self) -> str:
        """Paper and section."""

    def cook(self, kitchen: SoupContext) -> MixingWeights:
        """How much of each ingredient, by group of parameters."""
