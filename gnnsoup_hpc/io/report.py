"""report.h5: tables of equally long columns. Format: docs/format.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gnnsoup_hpc.config import Job
from gnnsoup_hpc.io import files
from gnnsoup_hpc.io.records import Step

KIND, VERSION = "report", 1

Columns = Mapping[str, tuple[Any, str, str]]


def write(
    path: Path,
    job: Job,
    facts: Mapping[str, str],
    tables: Mapping[str, tuple[Columns, str]],
    histories: Mapping[str, Sequence[Step]],
    texts: Mapping[str, tuple[Sequence[str], str]],
    test_classes: Sequence[int],
) -> None:
    """Publish a report: facts as root attributes, tables as groups, each method's steps under histories/, sentences."""
    with files.create_file(path, KIND, VERSION, f"report of the run {job.name}") as file:
        file.attrs.update(facts)
        for name, (columns, about) in tables.items():
            files.put_table(file, name, columns, about)
        group = file.create_group("histories", track_order=True)
        for method, history in histories.items():
            files.put_records(group, method, Step, history, "one row a step")
        for name, (sentences, about) in texts.items():
            files.put(file, name, list(sentences), "1", about)
        files.put(file, "test_classes", np.array(test_classes, dtype=np.int64), "1", "test nodes of each class")
        files.put_provenance(file, job.to_toml())
