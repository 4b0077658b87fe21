"""Parameters and buffers of a model as datasets of a group; used by every file that holds a model."""

from __future__ import annotations

from pathlib import Path

import h5py
import torch

from gnnsoup_hpc.errors import FileError, ForeignFileError
from gnnsoup_hpc.io import files
from gnnsoup_hpc.models.base import Model
from gnnsoup_hpc.types import State
from gnnsoup_hpc.utils.hashing import content_sha256

ABOUT = "parameter, named and laid out as in PyG"


def put(file: h5py.File, state: State, name: str = "state", about: str = ABOUT) -> None:
    """Write `state` as NAME/<parameter>, in its order, with its hash."""
    group = file.create_group(name, track_order=True)
    for parameter, tensor in state.items():
        files.put(group, parameter, tensor.detach().cpu().numpy(), "1", about)
    group.attrs["sha256"] = sha256(state)


def get(file: h5py.File, name: str = "state") -> State:
    """The state of a file, in the order it was written in: float32 whatever floating type is stored, int64 of integers.

    Raises: FileError for anything else.
    """
    return {entry: torch.from_numpy(files.get_numbers(file[name], entry)) for entry in file[name]}


def get_finite(path: Path, file: h5py.File) -> State:
    """The state of a file, if it is finite, and has the hash that the file states, if any. Raises: FileError."""
    state = get(file)
    if (found := sha256(state)) != files.get_text(file["state"], "sha256", found):
        raise FileError(f"{path} is damaged: its weights do not have the hash that it states")
    bad = [name for name, tensor in state.items() if not bool(torch.isfinite(tensor).all())]
    if bad:
        raise FileError(f"{path} has weights that are not finite, in {bad[0]}")
    return state


def sha256(state: State) -> str:
    """Hash of a state's names, shapes and values."""
    return content_sha256({name: tensor.detach().cpu().numpy() for name, tensor in state.items()})


def check_shapes(path: Path, state: State, architecture: Model) -> None:
    """Refuse a state of other names, shapes or kinds of number than the architecture's."""
    wanted = architecture.shapes()
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if found != wanted:
        name = next(name for name in [*wanted, *found] if found.get(name) != wanted.get(name))
        was, wants = (shapes.get(name, "none (no such parameter)") for shapes in (found, wanted))
        raise ForeignFileError(f"{path} does not fit the job's model: {name} has shape {was}, the model wants {wants}")
    for name, tensor in state.items():
        if tensor.is_floating_point() == (name in architecture.integers):
            raise ForeignFileError(f"{path} does not fit the job's model: {name} is of {tensor.dtype}")
