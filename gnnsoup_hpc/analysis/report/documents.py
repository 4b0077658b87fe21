"""Reports for programs: what report.h5 has, as objects of JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from math import isfinite
from typing import Any

import numpy as np

from gnnsoup_hpc.analysis.report.answer import find_answer
from gnnsoup_hpc.analysis.report.build import make_tables
from gnnsoup_hpc.analysis.report.contents import Contents
from gnnsoup_hpc.analysis.report.grid import GridContents, make_grid_tables
from gnnsoup_hpc.analysis.report.verdicts import verdicts
from gnnsoup_hpc.io.files import Columns


def show_run_as_json(run: Contents) -> str:
    """A run in one line of JSON; null where a number is not known."""
    facts = {
        "run": str(run.run.root),
        "graph": run.graph,
        "split": run.split,
        "metric": run.task.name,
        "answer": asdict(find_answer(run)),
        "verdicts": verdicts(run),
        "notes": run.notes,
    }
    return _dump(facts | _list_tables(make_tables(run)))


def show_grid_as_json(found: GridContents) -> str:
    """A sweep of training likewise."""
    facts = {"run": str(found.run.root), "graph": found.graph, "metric": found.task.name}
    return _dump(facts | _list_tables(make_grid_tables(found)))


def _list_tables(tables: Mapping[str, tuple[Columns, str]]) -> dict[str, list[dict[str, Any]]]:
    """Each table as a list of its rows."""
    return {
        name: _list_rows({key: values for key, (values, *_) in columns.items()})
        for name, (columns, _) in tables.items()
    }


def _list_rows(columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    plain = (values.tolist() if isinstance(values, np.ndarray) else list(values) for values in columns.values())
    return [dict(zip(columns, map(_plain, row), strict=True)) for row in zip(*plain, strict=True)]


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not isfinite(value) else value


def _dump(found: Mapping[str, Any]) -> str:
    found = {
        key: {name: _plain(each) for name, each in value.items()} if isinstance(value, dict) else value
        for key, value in found.items()
    }
    return json.dumps(found, allow_nan=False)
