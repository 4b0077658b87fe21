"""checkpoints/WORK.h5: where the training of an ingredient or of the trunk stands. Format: docs/format.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from gnnsoup_hpc.config import Job
from gnnsoup_hpc.io import files, states
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io.ingredient import Origin
from gnnsoup_hpc.io.records import Epoch
from gnnsoup_hpc.runtime.profiling import Measurement
from gnnsoup_hpc.types import State
from gnnsoup_hpc.utils.hashing import canonical

KIND, VERSION = "checkpoint", 1
IN_MEMORY_BYTES = 2 << 20  # a larger file is built on the disk, for training may have no more memory than it uses


@dataclass(frozen=True)
class BestEpoch:
    """The weights of the best validation epoch so far."""

    epoch: int
    accuracy: float
    state: State


@dataclass(frozen=True)
class Checkpoint:
    """Where the training of one model stands between two epochs: all that the next ones depend on.

    steps, mean, square: of Adam, by parameter; generator: state of the dropout masks' generator, uint8, which only the
    same type of device takes; measurement: of everything until here.
    """

    history: tuple[Epoch, ...]
    state: State
    steps: Mapping[str, float]
    mean: State
    square: State
    generator: Tensor
    device: str
    best: BestEpoch | None
    measurement: Measurement


def write(path: Path, checkpoint: Checkpoint, origin: Origin, job: Job, **provenance: object) -> None:
    """Publish a checkpoint in place of an earlier one. Raises: RunError where it cannot be written."""
    best = checkpoint.best
    kept = (checkpoint.state, checkpoint.mean, checkpoint.square, {} if best is None else best.state)
    size = sum(tensor.nbytes for state in kept for tensor in state.values())
    bulk = size if size > IN_MEMORY_BYTES else 0
    with files.create_file(path, KIND, VERSION, "checkpoint: a training between two epochs", bulk) as file:
        file.attrs["recipe"] = origin.recipe
        file.attrs["epoch"] = len(checkpoint.history)
        states.put(file, checkpoint.state)
        adam = file.create_group("adam", track_order=True)
        states.put(adam, checkpoint.mean, "mean", "Adam's running mean of gradients")
        states.put(adam, checkpoint.square, "square", "Adam's running mean of their squares")
        steps = np.array(list(checkpoint.steps.values()), dtype=np.float64)
        files.put(adam, "steps", steps, "1", "steps that Adam has taken, a number a parameter")
        generator = files.put(
            file, "generator", checkpoint.generator.numpy(), "1", "state of the generator of dropout masks"
        )
        generator.attrs["device"] = checkpoint.device
        if best is not None:
            states.put(file, best.state, "best", "parameter after the best validation epoch so far")
            file["best"].attrs["epoch"], file["best"].attrs["accuracy"] = best.epoch, best.accuracy
        ingredient_store.put_history(file, checkpoint.history)
        files.put_cost(file, checkpoint.measurement)
        files.put_provenance(file, job.to_toml(), **provenance, origin=canonical(origin.values))


def read(path: Path, origin: Origin) -> Checkpoint:
    """The checkpoint in a file, if it is of that origin.

    Raises: FileError naming the file and what is wrong with it; ForeignFileError where it is sound, but of another job.
    """
    with files.read_file(path, KIND, VERSION) as file:
        ingredient_store.check_origin(path, file, origin.values)
        state = states.get_finite(path, file)
        return Checkpoint(
            history=ingredient_store.get_history(file),
            state=state,
            steps=dict(zip(state, file["adam/steps"][:].tolist(), strict=True)),
            mean=states.get(file["adam"], "mean"),
            square=states.get(file["adam"], "square"),
            generator=torch.from_numpy(np.asarray(file["generator"][:])),
            device=str(file["generator"].attrs["device"]),
            best=_best(file),
            measurement=files.get_cost(file),
        )


def _best(file: h5py.File) -> BestEpoch | None:
    if "best" not in file:
        return None
    about = file["best"].attrs
    return BestEpoch(int(about["epoch"]), float(about["accuracy"]), states.get(file, "best"))
