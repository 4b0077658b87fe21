"""report.h5 read with h5py alone, against the run's own files."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from gnnsoup_hpc.analysis.report import build
from gnnsoup_hpc.analysis.report.contents import read_contents
from gnnsoup_hpc.config import METHOD_NAMES, Job
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io import soup as soup_store
from gnnsoup_hpc.runtime.profiling import COUNTS, QUANTITIES
from gnnsoup_hpc.runtime.run_dir import RunDir


@pytest.fixture(scope="module")
def report(finished: Job) -> Iterator[h5py.File]:
    with h5py.File(RunDir.of(finished).report) as file:
        yield file


def table(group: h5py.Group) -> list[dict[str, Any]]:
    """A table's rows, as the README reads it."""
    names = list(group.attrs["columns"])
    columns = [group[name].asstr()[:] if group[name].dtype.kind == "O" else group[name][:] for name in names]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def test_methods_are_the_soups_in_the_jobs_order(report: h5py.File, finished: Job) -> None:
    rows = table(report["methods"])
    assert [row["method"] for row in rows] == list(METHOD_NAMES)
    for row in rows:
        soup = soup_store.read(RunDir.of(finished).soup(row["method"]))
        assert row["validation_accuracy"] == soup.validation_accuracy
        assert row["test_accuracy"] == soup.test_accuracy
        assert {name: row[name] for name in COUNTS} == soup.counts
        for name in QUANTITIES:
            np.testing.assert_equal(row[name], soup.measurement[name])
        assert row["models_at_inference"] == (3 if row["method"] == "ensemble" else 1)


def test_ratios_are_to_gis_and_to_the_best(report: h5py.File) -> None:
    rows = {row["method"]: row for row in table(report["methods"])}
    gis, best = rows["gis"], rows["best"]
    assert gis["seconds_over_gis"] == 1.0
    assert best["test_minus_best"] == 0.0
    for row in rows.values():
        assert row["seconds_over_gis"] == pytest.approx(row["seconds"] / gis["seconds"])
        assert row["test_minus_best"] == pytest.approx(row["test_accuracy"] - best["test_accuracy"])
        above = row["peak_host_bytes"] - row["baseline_host_bytes"]
        np.testing.assert_equal(row["peak_above_baseline_bytes"], above)


def test_ingredients_are_those_of_the_run(report: h5py.File, finished: Job) -> None:
    rows = table(report["ingredients"])
    assert [row["ingredient"] for row in rows] == ["0000", "0001", "0002"]
    for index, row in enumerate(rows):
        ingredient = ingredient_store.read(RunDir.of(finished).ingredient(index))
        assert row["test_accuracy"] == ingredient.test_accuracy
        assert row["best_epoch"] == ingredient.best_epoch
        assert row["learning_rate"] == 0.02
        assert row["epochs"] == 12
        assert (row["drop_edges"], row["trunk_epochs"], row["start"], row["shared_draws"]) == (0.0, 0, "shared", "")
        assert row["stopped"] == "all epochs done"


def test_phases_add_up(report: h5py.File) -> None:
    phases = {row["phase"]: row for row in table(report["phases"])}
    assert list(phases) == ["prepare", "train", "align", "soup"]
    assert phases["train"]["seconds"] == pytest.approx(report["ingredients/seconds"][:].sum())
    assert phases["soup"]["seconds"] == pytest.approx(report["methods/seconds"][:].sum())
    assert phases["prepare"]["seconds"] > 0.0
    assert phases["align"]["seconds"] > 0.0


def test_histories_are_the_soups(report: h5py.File, finished: Job) -> None:
    assert set(report["histories"]) == {"greedy", "gis", "ls", "pls", "distil"}
    for name, group in report["histories"].items():
        history = soup_store.read(RunDir.of(finished).soup(name)).mixture.history
        rows = table(group)
        assert [row["step"] for row in rows] == [step.step for step in history]
        np.testing.assert_equal([row["loss"] for row in rows], [step.loss for step in history])
        assert all(math.isfinite(row["loss"]) == (name in {"ls", "pls", "distil"}) for row in rows)


def test_every_dataset_says_its_unit_and_meaning(report: h5py.File) -> None:
    silent: list[str] = []

    def look(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and not (item.attrs.get("units") and item.attrs.get("long_name")):
            silent.append(name)

    report.visititems(look)
    assert silent == []


def test_the_report_stands_alone(report: h5py.File, finished: Job) -> None:
    assert report["provenance/job"].asstr()[()] == finished.to_toml()
    assert "300 nodes" in report.attrs["graph"]
    assert len(report["verdicts"]) >= len(METHOD_NAMES) - 1


def test_the_report_repeats_what_the_graph_says(finished: Job, tmp_path: Path) -> None:
    """Which split was taken, what preparing had to say, and how many test nodes each class has."""
    run = replace(read_contents(RunDir.of(finished).root), split="random", notes=("Two edges were merged.", "No more."))
    copy = RunDir(tmp_path)
    build.write(replace(run, run=copy))
    with h5py.File(copy.report) as file, h5py.File(RunDir.of(finished).graph) as graph:
        assert file.attrs["split"] == "random"
        assert file["notes"].asstr()[:].tolist() == ["Two edges were merged.", "No more."]
        labels = graph["nodes/y"][:][graph["nodes/split"][:] == 3]
        assert file["test_classes"][:].tolist() == np.bincount(labels).tolist()
