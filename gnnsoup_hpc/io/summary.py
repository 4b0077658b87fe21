"""A few numbers of a file of a run, without reading and verifying all that it holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite, nan
from pathlib import Path

import h5py

from gnnsoup_hpc.config import Job
from gnnsoup_hpc.errors import FileError
from gnnsoup_hpc.io import files, judged
from gnnsoup_hpc.types import State

_NEWEST = 1 << 30  # whoever wants to rely on a file checks its version


@dataclass(frozen=True)
class Summary:
    """What an ingredient or a soup says of itself. seconds: wall time of its making, None where it does not say."""

    metric: str
    validation_accuracy: float
    test_accuracy: float
    seconds: float | None
    host: str
    rank: int | None
    created: str


@dataclass(frozen=True)
class GraphSummary:
    """Sizes of a prepared graph."""

    nodes: int
    entries: int
    parts: int


def model(path: Path, kind: str) -> Summary:
    """An ingredient's or a soup's numbers. Raises: FileError where there is no such file, or one cut short."""
    with _open(path, kind) as file:
        made, seconds = file["provenance"], files.get_number(file, "cost/seconds", nan)
        return Summary(
            metric=judged.get_metric(file["metrics"]),
            validation_accuracy=files.get_number(file, "metrics/validation_accuracy"),
            test_accuracy=files.get_number(file, "metrics/test_accuracy"),
            seconds=seconds if isfinite(seconds) else None,
            host=files.get_text(made, "host", "unknown"),
            rank=files.get_integer(made, "rank") if "rank" in made.attrs else None,
            created=files.get_text(file, "created", ""),
        )


def epochs_done(checkpoint: Path) -> int:
    """Epochs that a checkpoint has behind it. Raises: FileError where there is no such file, or one cut short."""
    with _open(checkpoint, "checkpoint") as file:
        return files.get_integer(file, "epoch")


def count_starts(path: Path) -> int:
    """Starts that a trunk was chosen from, or is so far; 0 where there is no such file, or one cut short."""
    try:
        with _open(path, "trunk") as file:
            return len(file["starts/seed"])
    except FileError:
        return 0


def seconds(path: Path, kind: str) -> float:
    """Wall time that the making of a file took. Raises: FileError where there is no such file, or one cut short."""
    with _open(path, kind) as file:
        return float(file["cost/seconds"][()])


def graph(path: Path) -> GraphSummary:
    """A graph's sizes. Raises: FileError where there is no such file, or one cut short."""
    with _open(path, "graph") as file:
        return GraphSummary(*(len(file[name]) for name in ("nodes/split", "edges/indices", "parts/validation")))


@contextmanager
def _open(path: Path, kind: str) -> Iterator[h5py.File]:
    signs = (OSError, KeyError, ValueError, RuntimeError, TypeError)  # what h5py makes of bytes that are none of HDF5's
    with files.explain_damage(path, signs=signs), files.open_file(path, kind, _NEWEST, verify=False) as file:
        yield file


# ---- gathered
# ingredients.h5, the virtual stack of all ingredients. Format: docs/format.md.

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
            stack = group.create_virtual_dataset(name, layout, fillvalue=nan)  # of files that are not there
            stack.attrs["units"], stack.attrs["long_name"] = "1", "parameter of every ingredient"
        files.put(file, "names", [source.stem for source in sources], "1", "ingredients, in the order of rows")
        files.put_provenance(file, job.to_toml())
