"""report.h5 as tables. Format: docs/format.md."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py

from gnnsoup_hpc.io import files
from gnnsoup_hpc.io.files import Columns
from gnnsoup_hpc.io.records import Soup, Step

KIND, VERSION = "report", 1
STUDY = "study"
SENTENCES = ("verdicts", "notes")


def read_tables(path: Path, kind: str = KIND) -> dict[str, dict[str, Any]]:
    """Every table's columns by its name, as methods or histories/pls; sentences are tables of one column, `text`.

    kind: of file, a report or a study.
    Raises: FileError where the file is missing or damaged.
    """
    with files.read_file(path, kind, VERSION) as file:
        found = {name: {key: _read(table[key]) for key in table.attrs["columns"]} for name, table in _tables(file)}
        return found | {name: {"text": _read(file[name])} for name in SENTENCES if name in file}


def put_table(parent: h5py.Group, name: str, columns: Columns, about: str) -> None:
    """Write a table whose rows xarray knows by its first column."""
    files.put_table(parent, name, columns, about)
    first, *others = columns
    _name_dimensions(parent[name], [first], others)


def put_soups(file: h5py.File, soups: Iterable[Soup]) -> None:
    """Write each method's steps, and what its soup is a mixture of: shares of ingredients, in groups of parameters."""
    histories, mixtures = (file.create_group(name, track_order=True) for name in ("histories", "mixtures"))
    for soup in soups:
        mixture = soup.mixture
        if mixture.history:
            files.put_records(histories, soup.method, Step, mixture.history, "one row a step")
            table = histories[soup.method]
            _name_dimensions(table, ["step"], [name for name in table if name != "step"])
        group = mixtures.create_group(soup.method, track_order=True)
        group.attrs["of"], group.attrs["by"] = mixture.of, mixture.by
        files.put(group, "group", list(mixture.groups), "1", "groups of parameters, the rows of alpha")
        files.put(group, "ingredient", list(soup.ingredients), "1", "ingredients, the columns of alpha")
        files.put(group, "alpha", mixture.alpha.numpy(), "1", "share of each ingredient in each group")
        _name_dimensions(group, ["group", "ingredient"], ["alpha"])


def _name_dimensions(group: h5py.Group, scales: Sequence[str], arrays: Iterable[str]) -> None:
    """Make datasets (n,) of a group the scales of its arrays' dimensions, in their order."""
    for scale in scales:
        group[scale].make_scale(scale)
    for array in arrays:
        for dimension, scale in zip(group[array].dims, scales, strict=True):
            dimension.attach_scale(group[scale])


def write_study(path: Path, name: str, columns: Columns, text: str) -> None:
    """Publish the results of a study, whose file says `text`."""
    with files.create_file(path, STUDY, VERSION, f"results of the study {name}") as file:
        put_table(file, "runs", columns, "one row a run and a method")
        files.put_provenance(file, text)


def _tables(group: h5py.Group, above: str = "") -> Iterator[tuple[str, h5py.Group]]:
    for name, each in group.items():
        if isinstance(each, h5py.Group):
            if "columns" in each.attrs:
                yield f"{above}{name}", each
            else:
                yield from _tables(each, f"{above}{name}/")


def _read(column: h5py.Dataset) -> Any:
    return column.asstr()[:] if h5py.check_string_dtype(column.dtype) else column[:]
