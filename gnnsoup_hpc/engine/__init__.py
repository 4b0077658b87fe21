"""Engines: ways to compute a model on a batch. Which one serves is chosen here, in one place."""

from __future__ import annotations

import torch

from gnnsoup_hpc.engine.base import Engine, Plan, Vjp
from gnnsoup_hpc.engine.compiled.engine import CompiledEngine
from gnnsoup_hpc.engine.frontier import Division
from gnnsoup_hpc.engine.torch import TorchEngine
from gnnsoup_hpc.models.base import Model

__all__ = ["Division", "Engine", "Plan", "TorchEngine", "Vjp", "choose_engine"]

ENGINES: tuple[Engine, ...] = (CompiledEngine(), TorchEngine())  # the first that supports a model serves


def choose_engine(model: Model, device: torch.device) -> Engine:
    """The fastest engine for a model on a device."""
    return next(engine for engine in ENGINES if engine.supports(model, device))
