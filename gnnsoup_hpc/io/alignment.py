"""alignment.h5, and the same orders in a soup's file. Format: docs/format.md."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from gnnsoup_hpc.config import Job
from gnnsoup_hpc.io import files
from gnnsoup_hpc.io.records import Alignment
from gnnsoup_hpc.runtime.profiling import Measurement
from gnnsoup_hpc.utils.hashing import content_sha256

KIND, VERSION = "alignment", 1


@dataclass(frozen=True)
class AlignmentRecord:
    """An alignment, why it is as it is, in words, what finding it cost, and the hash of what it is a function of."""

    alignment: Alignment
    why: str
    measurement: Measurement
    recipe: str

    @property
    def text(self) -> str:
        """What was done to hidden units before anything was mixed, and why."""
        by, reference = self.alignment.by, self.alignment.reference
        return self.why if by == "none" else f"aligned to {reference:04d} by {by}: {self.why}"


def sha256(alignment: Alignment) -> str:
    """Hash of which ingredients are permuted and how; empty where none is."""
    if alignment.by == "none":
        return ""
    return content_sha256({"ids": np.array(alignment.ids), **alignment.orders})


def put(parent: h5py.Group, alignment: Alignment) -> None:
    """Write an alignment as the group alignment/."""
    group = parent.create_group("alignment", track_order=True)
    group.attrs["by"], group.attrs["reference"] = alignment.by, f"{alignment.reference:04d}"
    names = [f"{index:04d}" for index in alignment.ids]
    files.put(group, "ingredients", names, "1", "ingredients, the rows of orders")
    orders = group.create_group("orders", track_order=True)
    for name, order in alignment.orders.items():
        files.put(orders, name, order, "1", "place i takes the ingredient's unit order[i]; a row an ingredient")


def get(parent: h5py.Group) -> Alignment:
    """The alignment in the group alignment/."""
    group = parent["alignment"]
    return Alignment(
        by=group.attrs["by"],
        reference=int(group.attrs["reference"]),
        ids=tuple(int(name) for name in group["ingredients"].asstr()[:]),
        orders={name: np.asarray(data[...], dtype=np.int64) for name, data in group["orders"].items()},
    )


def write(path: Path, made: AlignmentRecord, job: Job) -> None:
    """Publish an alignment."""
    with files.create_file(path, KIND, VERSION, "orders of the ingredients' hidden units") as file:
        file.attrs["recipe"], file.attrs["why"] = made.recipe, made.why
        put(file, made.alignment)
        files.put_cost(file, made.measurement)
        files.put_provenance(file, job.to_toml())


def read(path: Path) -> AlignmentRecord:
    """The alignment in a file. Raises: FileError naming the file and what is wrong with it."""
    with files.read_file(path, KIND, VERSION) as file:
        return AlignmentRecord(get(file), str(file.attrs["why"]), files.get_cost(file), str(file.attrs["recipe"]))
