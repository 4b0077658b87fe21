"""A graph.h5 that is damaged or another job's: refused by name and never re-made in silence."""

from __future__ import annotations

import shutil

import pytest

from tests.faults import kit
from tests.faults.kit import Workdir, fails, flip, succeeds, truncate, unchanged
from tests.tiny import planted

DAMAGES = {
    "truncated": lambda path: truncate(path, 0.6),
    "empty": lambda path: truncate(path, 0.0),
    "flipped in its features": lambda path: flip(path, 0.2),
    "flipped in its labels": lambda path: flip(path, 0.5),
    "foreign": lambda path: path.write_text("not HDF5 at all\n" * 100),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_graph_is_refused_with_the_command_that_mends_it(workdir: Workdir, name: str) -> None:
    DAMAGES[name](workdir.graph)
    before = workdir.digests()
    for command in ("prepare", "train", "run"):
        fails(workdir.gnnsoup_here(command), "graph.h5", "damaged", "gnnsoup prepare", "--again")
    fails(workdir.gnnsoup_here("soup", "--again"), "graph.h5", "damaged", "gnnsoup prepare", "--again")
    unchanged(before, workdir)


def test_prepare_again_mends_it_and_everything_stays_valid(workdir: Workdir, original: Workdir) -> None:
    truncate(workdir.graph)
    before = workdir.digests()
    fails(workdir.gnnsoup("soup"), "graph.h5", "damaged", "gnnsoup prepare", "--again")
    succeeds(workdir.gnnsoup_here("prepare", "--again"))
    said = succeeds(workdir.gnnsoup_here("run"))
    assert "3 of 3 ingredients are there already" in said
    assert "soup: pls is there already" in said
    unchanged(before, workdir, but=["graph.h5", "ingredients.h5", "report.h5"])
    for name in ("nodes/x", "nodes/y", "edges/indices", "parts/ptr"):
        assert (kit.dataset(workdir.graph, name) == kit.dataset(original.graph, name)).all(), name


def test_a_missing_graph_is_made_again_by_prepare_and_asked_for_by_soup(workdir: Workdir) -> None:
    workdir.graph.unlink()
    before = workdir.digests()
    fails(workdir.gnnsoup_here("soup"), "graph.h5", "gnnsoup")
    unchanged(before, workdir)
    succeeds(workdir.gnnsoup_here("prepare"))
    assert "3 of 3 ingredients are there already" in succeeds(workdir.gnnsoup_here("train"))


@pytest.mark.parametrize("command", ["prepare", "train", "soup", "run"])
def test_another_partition_is_refused_naming_the_key(workdir: Workdir, command: str) -> None:
    before = workdir.digests()
    outcome = workdir.gnnsoup_here(command, "--set", "partition.parts=6")
    fails(outcome, "graph.h5", "partition.parts = 8", "says 6", "name=", "--again")
    unchanged(before, workdir)


@pytest.mark.parametrize("command", ["prepare", "train", "soup", "run"])
def test_another_graph_is_refused_naming_the_key(workdir: Workdir, command: str) -> None:
    before = workdir.digests()
    fails(workdir.gnnsoup_here(command, "--set", "graph.split_seed=1"), "graph.h5", "graph.split_seed = 0", "says 1")
    unchanged(before, workdir)


def test_cutting_anew_keeps_the_ingredients(workdir: Workdir) -> None:
    before = workdir.digests()
    other = ("--set", "partition.parts=6")
    succeeds(workdir.gnnsoup_here("prepare", "--again", *other))
    said = succeeds(workdir.gnnsoup_here("run", *other))
    assert "3 of 3 ingredients are there already" in said
    assert "soup: pls done" in said
    unchanged({name: sha for name, sha in before.items() if name.startswith("ingredients/")}, workdir)


def test_the_graph_file_of_another_run_is_refused(workdir: Workdir) -> None:
    other = ("--set", "name=other", "--set", "graph.split_seed=1")
    succeeds(workdir.gnnsoup_here("prepare", *other))
    shutil.copy(workdir.folder / "runs" / "other" / "graph.h5", workdir.graph)
    before = workdir.digests()
    for command in ("prepare", "train", "soup"):
        fails(workdir.gnnsoup_here(command), "runs/tiny/graph.h5", "graph.split_seed = 1", "says 0")
    unchanged(before, workdir)


def test_a_source_that_changed_under_the_run_makes_no_mixed_soup(workdir: Workdir) -> None:
    """The job is the same, the file that it names is not: ingredients of the old graph are refused by name."""
    workdir.replace_source(x=planted(seed=5)["x"])
    succeeds(workdir.gnnsoup_here("prepare", "--again"))
    before = workdir.digests()
    for command in ("soup", "train"):
        fails(workdir.gnnsoup_here(command), "ingredients/0000.h5", "another graph")
    unchanged(before, workdir)
