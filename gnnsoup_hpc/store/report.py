"""report.h5: tables of equally long columns. Format: docs/format.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gnnsoup_hpc.job import Job
from gnnsoup_hpc.records import Step
from gnnsoup_hpc.store import files
from gnnsoup_hpc.store.soup import put_history

KIND, VERSION = "report", 1

Columns = Mapping[str, tuple[Any, str, str]]


def write(
    path: Path,
    job: Job,
    graph: str,
    tables: Mapping[str, tuple[Columns, str]],
    histories: Mapping[str, Sequence[Step]],
    verdicts: Sequence[str],
    units: str = "",
) -> None:
    """Publish a report: tables as groups, each method's steps under histories/; verdicts and `units` in words."""
    with files.created(path, KIND, VERSION, f"report of the run {job.name}") as file:
        file.attrs["graph"], file.attrs["alignment"] = graph, units
        for name, (columns, about) in tables.items():
            files.put_table(file, name, columns, about)
        group = file.create_group("histories", track_order=True)
        for method, history in histories.items():
            put_history(group, method, history)
        files.put(file, "verdicts", list(verdicts), "1", "what the numbers say, in words")
        files.put_provenance(file, job.to_toml())
