"""report.h5 as tables. Format: docs/format.md."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py

from gnnsoup_hpc.io import files
from gnnsoup_hpc.io.files import Columns

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


def write_study(path: Path, name: str, columns: Columns, text: str) -> None:
    """Publish the results of a study, whose file says `text`."""
    with files.create_file(path, STUDY, VERSION, f"results of the study {name}") as file:
        files.put_table(file, "runs", columns, "one row a run and a method")
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
