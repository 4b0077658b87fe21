"""imported.h5 of version 1 and the ingredients that it lists, written once by make.py."""

from __future__ import annotations

import math

import pytest

from gnnsoup_hpc.config import loading as jobs
from gnnsoup_hpc.io import files, imports, states
from gnnsoup_hpc.io import graph as graph_store
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io.ingredient import ImportedOrigin
from gnnsoup_hpc.runtime.run_dir import RunDir
from tests.golden.make import FIRST, IMPORTED
from tests.golden.test_v1 import NET

RUN = RunDir(IMPORTED)


def test_the_file_is_whole_small_and_of_version_1() -> None:
    assert RUN.imported.stat().st_size < 10_000
    with files.open_file(RUN.imported, imports.KIND, 1) as file:
        assert file.attrs["format_version"] == 1


def test_the_ingredients_are_those_that_it_lists() -> None:
    rows = imports.read(RUN.imported)
    assert [(row.ingredient, row.file.rpartition("/")[2], row.key, row.prefix) for row in rows] == [
        ("0000", "given.h5", "", ""),
        ("0001", "plain.pt", "model", ""),
    ]
    job = jobs.load(str(RUN.job))
    with graph_store.open_graph(RUN.graph, job) as graph:
        first, second = (
            ingredient_store.read_imported(RUN.ingredient(row.index), ImportedOrigin(graph.sha256, NET, row))
            for row in rows
        )
    before = [ingredient_store.read(RunDir(FIRST).ingredient(index)) for index in range(2)]
    assert [row.state_sha256 for row in rows] == [states.sha256(one.state) for one in before]
    assert first.hyperparameters == before[0].hyperparameters
    assert [epoch.loss for epoch in first.history] == [epoch.loss for epoch in before[0].history]
    assert (first.imported, second.imported) == ("given.h5", "plain.pt")
    assert (second.hyperparameters, second.history) == (None, ())
    assert math.isnan(second.measurement["seconds"])
    assert (second.validation_accuracy, second.test_accuracy) == pytest.approx((0.875, 5 / 7))


def test_the_job_has_as_many_ingredients_as_were_imported() -> None:
    job = jobs.load(str(RUN.job))
    assert job.train.ingredients == 2
    open_job = job.model_copy(update={"train": type(job.train)()})
    assert ingredient_store.resolve_job(open_job, RUN).train.ingredients == 2
