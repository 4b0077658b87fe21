"""A graph.h5 that is damaged or another job's: refused by name and never re-made in silence."""

from __future__ import annotations

import shutil

import pytest

from tests.faults import kit
from tests.faults.kit import Bowl, fails, flip, succeeds, truncate, unchanged
from tests.tiny import planted

DAMAGES = {
    "truncated": lambda path: truncate(path, 0.6),
    "empty": lambda path: truncate(path, 0.0),
    "flipped in its features": lambda path: flip(path, 0.2),
    "flipped in its labels": lambda path: flip(path, 0.5),
    "foreign": lambda path: path.write_text("not HDF5 at all\n" * 100),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_graph_is_refused_with_the_command_that_mends_it(bowl: Bowl, name: str) -> None:
    DAMAGES[name](bowl.graph)
    before = bowl.digests()
    for command in ("prepare", "train", "run"):
        fails(bowl.gnnsoup_here(command), "graph.h5", "damaged", "gnnsoup prepare", "--again")
    fails(bowl.gnnsoup_here("soup", "--again"), "graph.h5", "damaged", "gnnsoup prepare", "--again")
    unchanged(before, bowl)


def test_prepare_again_mends_it_and_everything_stays_valid(bowl: Bowl, original: Bowl) -> None:
    truncate(bowl.graph)
    before = bowl.digests()
    fails(bowl.gnnsoup("soup"), "graph.h5", "damaged", "gnnsoup prepare", "--again")
    succeeds(bowl.gnnsoup_here("prepare", "--again"))
    said = succeeds(bowl.gnnsoup_here("run"))
    assert "3 of 3 ingredients are there already" in said
    assert "soup: pls is there already" in said
    unchanged(before, bowl, but=["graph.h5", "ingredients.h5", "report.h5"])
    for name in ("nodes/x", "nodes/y", "edges/indices", "parts/ptr"):
        assert (kit.dataset(bowl.graph, name) == kit.dataset(original.graph, name)).all(), name


def test_a_missing_graph_is_made_again_by_prepare_and_asked_for_by_soup(bowl: Bowl) -> None:
    bowl.graph.unlink()
    before = bowl.digests()
    fails(bowl.gnnsoup_here("soup"), "graph.h5", "gnnsoup")
    unchanged(before, bowl)
    succeeds(bowl.gnnsoup_here("prepare"))
    assert "3 of 3 ingredients are there already" in succeeds(bowl.gnnsoup_here("train"))


@pytest.mark.parametrize("command", ["prepare", "train", "soup", "run"])
def test_another_partition_is_refused_naming_the_key(bowl: Bowl, command: str) -> None:
    before = bowl.digests()
    outcome = bowl.gnnsoup_here(command, "--set", "partition.parts=6")
    fails(outcome, "graph.h5", "partition.parts = 8", "says 6", "name=", "--again")
    unchanged(before, bowl)


@pytest.mark.parametrize("command", ["prepare", "train", "soup", "run"])
def test_another_graph_is_refused_naming_the_key(bowl: Bowl, command: str) -> None:
    before = bowl.digests()
    fails(bowl.gnnsoup_here(command, "--set", "graph.split_seed=1"), "graph.h5", "graph.split_seed = 0", "says 1")
    unchanged(before, bowl)


def test_cutting_anew_keeps_the_ingredients(bowl: Bowl) -> None:
    before = bowl.digests()
    other = ("--set", "partition.parts=6")
    succeeds(bowl.gnnsoup_here("prepare", "--again", *other))
    said = succeeds(bowl.gnnsoup_here("run", *other))
    assert "3 of 3 ingredients are there already" in said
    assert "soup: pls done" in said
    unchanged({name: sha for name, sha in before.items() if name.startswith("ingredients/")}, bowl)


def test_the_graph_file_of_another_run_is_refused(bowl: Bowl) -> None:
    other = ("--set", "name=other", "--set", "graph.split_seed=1")
    succeeds(bowl.gnnsoup_here("prepare", *other))
    shutil.copy(bowl.folder / "runs" / "other" / "graph.h5", bowl.graph)
    before = bowl.digests()
    for command in ("prepare", "train", "soup"):
        fails(bowl.gnnsoup_here(command), "runs/tiny/graph.h5", "graph.split_seed = 1", "says 0")
    unchanged(before, bowl)


def test_a_source_that_changed_under_the_run_makes_no_mixed_soup(bowl: Bowl) -> None:
    """The job is the same, the file that it names is not: ingredients of the old graph are refused by name."""
    bowl.replace_source(x=planted(seed=5)["x"])
    succeeds(bowl.gnnsoup_here("prepare", "--again"))
    before = bowl.digests()
    for command in ("soup", "train"):
        fails(bowl.gnnsoup_here(command), "ingredients/0000.h5", "another graph")
    unchanged(before, bowl)
