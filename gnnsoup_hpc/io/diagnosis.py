"""diagnosis.h5. Format: docs/format.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import h5py

from gnnsoup_hpc.config import Job
from gnnsoup_hpc.io import files
from gnnsoup_hpc.io.files import Columns
from gnnsoup_hpc.io.records import Diagnosed, Diagnosis, EvalResult, Midpoints
from gnnsoup_hpc.utils.hashing import fingerprint

KIND, VERSION = "diagnosis", 1
ALL = "all"  # in the column of ingredients: the mean of all of them


def fingerprint_of(
    graph_sha256: str,
    weights: Mapping[str, str],
    left_out: Sequence[str],
    variants: Sequence[str],
    also: Mapping[str, Any] | None = None,
) -> str:
    """Hash of what a diagnosis is a function of: graph, hash of each ingredient's weights by its name, ways.

    also: fields of the job that matter, where they are not what older files had: of [task], soup.recompute.
    """
    of = [graph_sha256, dict(weights), list(left_out), list(variants)]
    return fingerprint([*of, dict(also)] if also else of)


def write(path: Path, found: Diagnosis, midpoints: Columns, words: Sequence[str], made_by: str, job: Job) -> None:
    """Publish a diagnosis; `midpoints` has `lineup`, `setting`, `ingredient`, `accuracy`, `loss` and what follows."""
    with files.create_file(path, KIND, VERSION, "whether ingredients lie in one basin") as file:
        file.attrs["recipe"] = made_by
        file.attrs["graph_sha256"] = found.graph_sha256
        file.attrs.update(best=found.best, metric=found.metric, recomputed=found.recomputed)
        files.put(file, "nodes", found.nodes, "1", "validation nodes")
        files.put(file, "seconds", found.seconds, "s", "wall time of the diagnosis")
        files.put(file, "left_out", list(found.left_out), "1", "why other ingredients are not in the diagnosis")
        files.put_records(file, "ingredients", Diagnosed, found.ingredients, "one row an ingredient")
        file["ingredients/loss"].attrs["units"] = midpoints["loss"][1]
        files.put_table(file, "midpoints", midpoints, "one row an alignment and an ingredient, or all")
        files.put(file, "verdict", list(words), "1", "what the numbers say, in words")
        files.put_provenance(file, job.to_toml())


def read_fingerprint(path: Path) -> str:
    """The recipe's hash of the diagnosis in a file."""
    with files.read_file(path, KIND, VERSION) as file:
        return str(file.attrs["recipe"])


def read(path: Path) -> Diagnosis:
    """The diagnosis in a file. Raises: FileError naming the file and what is wrong with it."""
    with files.read_file(path, KIND, VERSION) as file:
        return Diagnosis(
            graph_sha256=str(file.attrs["graph_sha256"]),
            nodes=int(file["nodes"][()]),
            best=str(file.attrs["best"]),
            ingredients=tuple(files.get_records(file["ingredients"], Diagnosed)),
            left_out=tuple(file["left_out"].asstr()[:]),
            variants=tuple(_read_variants(file["midpoints"])),
            seconds=float(file["seconds"][()]),
            metric=files.get_text(file, "metric", "accuracy"),
            recomputed=bool(file.attrs.get("recomputed", False)),
        )


def _read_variants(table: h5py.Group) -> Iterator[Midpoints]:
    rows = files.get_rows(table, ("lineup", "setting", "ingredient", "accuracy", "loss", "error"))
    for (variant, setting), of in groupby(rows, key=itemgetter(0, 1)):
        told = [row[2:] for row in of]
        results = {name: EvalResult(accuracy, loss) for name, accuracy, loss, _ in told}
        mean = results.pop(ALL)
        yield Midpoints(variant, setting, results, mean, {name: error for name, _, _, error in told})
