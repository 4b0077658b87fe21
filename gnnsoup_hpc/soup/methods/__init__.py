"""Souping methods, each to be read whole. config/methods.py lists them."""

from __future__ import annotations

from importlib import import_module
from typing import Protocol

from gnnsoup_hpc.config import Section, SoupJob
from gnnsoup_hpc.config.methods import METHODS
from gnnsoup_hpc.io.records import MixingWeights
from gnnsoup_hpc.soup.context import SoupContext


class SoupMethod(Protocol):
    """A way to mix ingredients into one model: a frozen record of its own hyperparameters (`options`, if any)."""

    @property
    def name(self) -> str:
        """As in the job and in file names: "pls"."""

    @property
    def source(self) -> str:
        """Paper and section."""

    def run(self, context: SoupContext) -> MixingWeights:
        """How much of each ingredient, by group of parameters. Every rank runs it."""


def make_methods(job: SoupJob) -> dict[str, SoupMethod]:
    """Every method by name, with the job's options where [soup] has a table of that name."""
    made: dict[str, SoupMethod] = {}
    for name, place in METHODS.items():
        module, kind = place.split(".")
        make = getattr(import_module(f"{__name__}.{module}"), kind)
        options = getattr(job, name, None)  # a field of [soup] that is no table is none of a method's
        made[name] = make(options) if isinstance(options, Section) else make()
    return made
