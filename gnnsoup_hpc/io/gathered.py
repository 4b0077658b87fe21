"""ingredients.h5, the virtual stack of all ingredients. Format: docs/format.md."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import h5py

from gnnsoup_hpc.config import Job
from gnnsoup_hpc.errors import FileError
from gnnsoup_hpc.io import files
from gnnsoup_hpc.types import State

KIND, VERSION = "ingredients", 1


def names(path: Path) -> list[str]:
    """Names of the ingredients that ingredients.h5 stacks; none where it is missing or damaged."""
    try:
        with files.read_file(path, KIND, VERSION) as file:
            return list(file["names"].asstr()[:])
    except FileError:
        return []


def gather(path: Path, sources: Sequence[Path], state: State, job: Job) -> None:
    """Publish ingredients.h5: a virtual dataset (N, …) per parameter over the ingredient files, in their order."""
    with files.create_file(path, KIND, VERSION, "virtual stack of all ingredients") as file:
        group = file.create_group("state", track_order=True)
        for name, tensor in state.items():
            layout = h5py.VirtualLayout((len(sources), *tensor.shape), dtype="f4")
            for row, source in enumerate(sources):
                inside = f"state/{name}"
                layout[row] = h5py.VirtualSource(source.relative_to(path.parent), inside, tuple(tensor.shape))
            stack = group.create_virtual_dataset(name, layout, fillvalue=math.nan)  # of files that are not there
            stack.attrs["units"], stack.attrs["long_name"] = "1", "parameter of every ingredient"
        files.put(file, "names", [source.stem for source in sources], "1", "ingredients, in the order of rows")
        files.put_provenance(file, job.to_toml())
