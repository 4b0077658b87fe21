"""Tables of report.h5 as those of a page: what a cell shows, what it is sorted by, which columns are shown first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np

from gnnsoup_hpc.analysis.report.answer import POINTS
from gnnsoup_hpc.analysis.report.page.style import SHORT
from gnnsoup_hpc.config.task import WORDS
from gnnsoup_hpc.evaluation.tasks import Task
from gnnsoup_hpc.io.files import Columns
from gnnsoup_hpc.utils.text_table import show_number

MIB = 2**20
LEAST = 1e-3  # below which four decimals say too little
DIFFERENCES = ("gain", "gain_error")
YES_OR_NO = ("in_basin", "selected")
RENAMED = {"lineup": "alignment"}  # of files, whose readers know the older word


@dataclass(frozen=True)
class Head:
    """Of a column. about: its meaning and unit; more: shown where all columns are asked for."""

    name: str
    about: str
    number: bool
    more: bool


@dataclass(frozen=True)
class TableCell:
    """text: as shown; value: sorted by, "" where a number is not known."""

    text: str
    value: str


@dataclass(frozen=True)
class Table:
    """A table of a page, a TableCell for each of `heads` in each row."""

    name: str
    title: str
    about: str
    heads: tuple[Head, ...]
    rows: tuple[tuple[TableCell, ...], ...]

    @property
    def has_more(self) -> bool:
        """Whether some columns are not shown first."""
        return any(head.more for head in self.heads)


# Title, and the columns that are shown first: all where none is named.
SHOWN: dict[str, tuple[str, tuple[str, ...]]] = {
    "methods": (
        "Methods",
        (
            *("method", "validation_accuracy", "test_accuracy", "gain", "gain_error", "verdict"),
            *("seconds", "peak_above_baseline_bytes", "models_at_inference"),
        ),
    ),
    "ingredients": (
        "Ingredients",
        (
            *("ingredient", "validation_accuracy", "test_accuracy", "best_epoch", "seconds"),
            *("peak_host_bytes", "learning_rate", "weight_decay", "dropout", "stopped"),
        ),
    ),
    "cells": ("Trials of sweeps", ()),
    "seeds": ("Trials over seeds", ()),
    "diagnosis": ("Midpoints with the best ingredient", ()),
    "statistics": ("Running statistics of batch norm", ()),
    "baseline": ("What looks at no node", ()),
    "phases": ("Cost of phases", ()),
}


def list_tables(tables: Mapping[str, tuple[Columns, str]], task: Task) -> Iterator[Table]:
    """Those tables that are there, in the order of a page. task: says in which unit a difference is shown."""
    for name, (title, shown) in SHOWN.items():
        if name in tables:
            columns, about = tables[name]
            yield _make_table(name, title, about, columns, shown, task)


def _make_table(name: str, title: str, about: str, columns: Columns, shown: Sequence[str], task: Task) -> Table:
    heads = tuple(
        Head(
            _name_column(_name_metric(column, task), _name_difference(task) if column in DIFFERENCES else unit),
            f"{column}: {meaning}" + (f", {_name_unit(unit)}" if unit != "1" else ""),
            isinstance(values, np.ndarray),
            bool(shown) and column not in shown,
        )
        for column, (values, unit, meaning) in columns.items()
    )
    cells = [
        [_make_cell_of(column, value, unit, task) for value in _list(values)]
        for column, (values, unit, _) in columns.items()
    ]
    return Table(name, title, about, heads, tuple(zip(*cells, strict=True)))


def _list(values: Any) -> list[Any]:
    return values.tolist() if isinstance(values, np.ndarray) else list(values)


def _name_column(column: str, unit: str) -> str:
    words = RENAMED.get(column, column).removesuffix("_bytes").replace("_", " ")
    return f"{words}, {_name_unit(unit)}" if unit not in ("1", "nat") and "seconds" not in words else words


def _name_unit(unit: str) -> str:
    return "MiB" if unit == "B" else unit


def _name_metric(column: str, task: Task) -> str:
    """A column's name in words: what files call an accuracy may be another metric."""
    return column.replace("accuracy", SHORT.get(task.name, WORDS[task.name]))


def _name_difference(task: Task) -> str:
    return POINTS.strip() if task.show(1.0).endswith(POINTS) else "1"


def _make_cell_of(column: str, value: Any, unit: str, task: Task) -> TableCell:
    if column in DIFFERENCES:
        return _make_difference(value, task)
    if column in YES_OR_NO:
        return TableCell("yes" if value else "no", str(value))
    if column.endswith("_accuracy"):
        return TableCell(show_number(value, ".4f"), _sort(value))
    return _make_cell(value, unit)


def _make_difference(value: float, task: Task) -> TableCell:
    sign = "-" if value < 0 else ""
    return TableCell(f"{sign}{task.show(abs(value)).removesuffix(POINTS)}" if isfinite(value) else "-", _sort(value))


def _make_cell(value: Any, unit: str) -> TableCell:
    """Numbers that are not known are shown as "-" and sorted last."""
    if isinstance(value, str):
        return TableCell(value, value)
    if isinstance(value, int):
        return TableCell(str(value), str(value))
    if unit in ("B", "s"):
        return TableCell(show_number(value / MIB, ".1f") if unit == "B" else show_number(value, ".2f"), _sort(value))
    short = f"{value:g}"  # of what a person chose, such as a learning rate
    return TableCell(show_number(value, "g" if float(short) == value or abs(value) < LEAST else ".4f"), _sort(value))


def _sort(value: float) -> str:
    return repr(value) if isfinite(value) else ""
