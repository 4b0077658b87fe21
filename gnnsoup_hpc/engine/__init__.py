"""Engines: ways to compute a model on a batch. Which one serves is chosen here, in one place."""

from __future__ import annotations

import torch

from gnnsoup_hpc.engine.base import Engine, Plan, UnionSource, Vjp
from gnnsoup_hpc.engine.compiled.engine import CompiledEngine
from gnnsoup_hpc.engine.frontier import Division
from gnnsoup_hpc.engine.torch import TorchEngine
from gnnsoup_hpc.engine.triton.engine import TritonEngine
from gnnsoup_hpc.errors import JobError
from gnnsoup_hpc.models.base import Model, show_kind

__all__ = ["Division", "Engine", "Plan", "TorchEngine", "UnionSource", "Vjp", "choose_engine", "find_engine"]

ENGINES: tuple[Engine, ...] = (
    CompiledEngine(),
    TritonEngine(),
    TorchEngine(),
)  # the first that supports a model serves


def find_engine(name: str, model: Model, device: torch.device) -> Engine:
    """The engine of that name; of "auto", the fastest. Raises: JobError where it cannot compute the model there."""
    if name == "auto":
        return choose_engine(model, device)
    engine = next((each for each in ENGINES if each.name == name), None)
    if engine is None:
        raise JobError(f"train.engine = {name!r} is not known here; there are: {', '.join(e.name for e in ENGINES)}")
    if not engine.supports(model, device):
        where = "GPU" if device.type == "cuda" else "CPU"
        raise JobError(
            f"train.engine = {name!r} does not compute models of {show_kind(model)} on a {where} here; use"
            " 'auto' or 'torch', or another machine.device"
        )
    return engine


def choose_engine(model: Model, device: torch.device) -> Engine:
    """The fastest engine for a model on a device."""
    return next(engine for engine in ENGINES if engine.supports(model, device))
