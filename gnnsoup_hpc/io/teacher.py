"""teacher.h5: mean outputs of a run's ingredients on all nodes, which `distil` imitates, and each ingredient's own.

Nodes are in the order of graph.h5, numbers float16. Format: docs/format.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gnnsoup_hpc.errors import FileError, ForeignFileError
from gnnsoup_hpc.io import files
from gnnsoup_hpc.io.files import DatasetRows
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.types import FloatArray
from gnnsoup_hpc.utils.hashing import fingerprint

KIND, VERSION = "teacher", 1
_ADVICE = ": give the same command again, which makes it again"
_HALF = 2  # bytes of a number


@dataclass(frozen=True)
class TeacherRecipe:
    """Everything that outputs are a function of. ingredients: hashes by name; kind: of the task; engine: its name."""

    graph_sha256: str
    part_sha256: str
    ingredients: Mapping[str, str]
    kind: str
    temperature: float
    engine: str

    def of(self, name: str) -> TeacherRecipe:
        """That of one ingredient's own outputs."""
        return TeacherRecipe(**(vars(self) | {"ingredients": {name: self.ingredients[name]}}))

    @property
    def sha256(self) -> str:
        """Hash of everything."""
        return fingerprint(vars(self))


@dataclass(frozen=True)
class TeacherFile(DatasetRows):
    """The open file: rows (C,) of nodes."""

    def read(self, start: int, stop: int) -> FloatArray:
        """Rows start to stop - 1, (stop - start, C)."""
        out = np.empty((stop - start, self.dataset.shape[1]), np.float16)
        self.read_into(start, stop, out)
        return out.astype(np.float32)


def write(
    path: Path, recipe: TeacherRecipe, graph: GraphFile, width: int, blocks: Iterable[tuple[int, FloatArray]]
) -> None:
    """Publish outputs from blocks of rows (first node, (n, C)) as they come."""
    shape = graph.nodes, width
    about, size = "mean outputs of ingredients on all nodes", _HALF * shape[0] * shape[1] + (1 << 20)
    with files.create_file(path, KIND, VERSION, about, size) as file:
        rows = files.write_space(file, "outputs", shape, np.float16, "1", "softmax, sigmoid or numbers, at temperature")
        for start, block in blocks:
            rows[start : start + len(block)] = block.astype(np.float16)
        file.attrs["recipe"] = recipe.sha256
        file.attrs["temperature"] = recipe.temperature
        files.put(file, "ingredients", list(recipe.ingredients), "1", "whose outputs they are the mean of")
        files.put_provenance(file, graph.job)


@contextmanager
def open_file(path: Path, recipe: TeacherRecipe, verify: bool = True) -> Iterator[TeacherFile]:
    """Yield the file of that recipe.

    Raises: FileError where it is missing or damaged, ForeignFileError where it is another's.
    """
    with files.open_file(path, KIND, VERSION, verify) as file:
        with files.explain_damage(path):
            found, dataset = str(file.attrs["recipe"]), file["outputs"]
        if found != recipe.sha256:
            raise ForeignFileError(f"{path} is of other ingredients, another graph or another temperature")
        yield TeacherFile(path, dataset, _ADVICE)


def is_there(path: Path, recipe: TeacherRecipe) -> bool:
    """Whether the file of that recipe is there, and whole."""
    try:
        with open_file(path, recipe):
            return True
    except FileError:
        return False
