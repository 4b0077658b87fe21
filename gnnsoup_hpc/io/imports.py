"""imported.h5: which files a run's ingredients were imported from. Format: docs/format.md.

It is there before the first of them is, so that half an import is never taken for a whole one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from gnnsoup_hpc.config import Job
from gnnsoup_hpc.errors import RunError, advise
from gnnsoup_hpc.io import files
from gnnsoup_hpc.runtime.run_dir import RunDir

KIND, VERSION = "imported", 1
MAKE = "run `gnnsoup train JOB` first, or `gnnsoup import JOB FILES` where they are trained elsewhere"
AGAIN = "give the same `gnnsoup import JOB FILES` again"


@dataclass(frozen=True)
class ImportedFile:
    """One ingredient, and where its weights are from."""

    ingredient: Annotated[str, "1", "name of the ingredient's file"]
    file: Annotated[str, "1", "path that the weights were read from"]
    file_sha256: Annotated[str, "1", "hash of that file"]
    key: Annotated[str, "1", "where in it the state was, dotted; empty: at its root"]
    prefix: Annotated[str, "1", "taken off the names of its entries"]
    state_sha256: Annotated[str, "1", "hash of the weights"]

    @property
    def index(self) -> int:
        """The ingredient's number."""
        return int(self.ingredient)

    @property
    def name(self) -> str:
        """The file's name; of an ingredient of another run with that run's before it."""
        return name_source(Path(self.file))


def name_source(path: Path) -> str:
    """The name that a file which is imported is known by."""
    return f"{path.parent.parent.name}/{path.name}" if path.parent.name == "ingredients" else path.name


def name_apart(paths: Sequence[Path]) -> list[str]:
    """The same of several files, equal ones with as many of their folders as tell them apart."""
    names = [name_source(path) for path in paths]
    for count in range(2, max((len(path.parts) for path in paths), default=0) + 1):
        several = {name for name in names if names.count(name) > 1}
        names = [
            "/".join(path.parts[-count:]) if name in several else name for path, name in zip(paths, names, strict=True)
        ]
    return names


def write(path: Path, rows: Sequence[ImportedFile], job: Job) -> None:
    """Publish what all ingredients of a run are imported from, in their order."""
    with files.create_file(path, KIND, VERSION, "files that the ingredients were imported from") as file:
        files.put_records(file, "ingredients", ImportedFile, rows, "one row an ingredient")
        files.put_provenance(file, job.to_toml())


def read(path: Path) -> tuple[ImportedFile, ...]:
    """What the ingredients of a run were imported from; nothing where they are trained.

    Raises: RunError where the file is damaged.
    """
    if not path.exists():
        return ()
    with advise(AGAIN):
        return read_sound(path)


def read_sound(path: Path) -> tuple[ImportedFile, ...]:
    """The same of a file that is there. Raises: FileError where it is damaged."""
    with files.read_file(path, KIND, VERSION) as file:
        return tuple(files.get_records(file["ingredients"], ImportedFile))


def check_count(job: Job, run: RunDir, count: int) -> None:
    """See that the job asks for no other number of ingredients than are imported. Raises: RunError where it does."""
    asked = job.train.ingredients
    if "ingredients" in job.train.model_fields_set and asked != count:
        raise RunError(
            f"{run.root} is a run of {count} imported ingredients, and the job says train.ingredients = {asked}: leave"
            f" that out, say --set train.ingredients={count}, or import as many files"
        )


def set_count(job: Job, count: int) -> Job:
    """The job with that many ingredients."""
    return job.model_copy(update={"train": job.train.model_copy(update={"ingredients": count})})
