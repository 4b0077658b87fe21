"""A memory limit on the command line: refused at once and in one line, or kept to and said."""

from __future__ import annotations

import pytest

from gnnsoup_hpc.errors import JobError, MemoryLimitError
from tests.faults.kit import MARK, Workdir, fails, succeeds


@pytest.mark.parametrize("command", ["train", "soup", "run"])
def test_commands_refuse_at_once(original: Workdir, command: str) -> None:
    before = original.digests()
    words = ("--set", "train.ingredients=4") if command == "train" else ("--again",)
    outcome = original.gnnsoup_here(command, "--memory-limit", "200 MiB", *words)
    assert outcome.returncode == MemoryLimitError.exit_code
    line = fails(outcome, "machine.memory_limit = '200 MiB' is too little", "Give at least --memory-limit '")
    assert ("pls with R = 3" in line) == (command != "train")
    assert original.digests() == before


def test_a_bad_size_on_the_command_line(empty: Workdir) -> None:
    outcome = empty.gnnsoup_here("run", "--memory-limit", "much")
    assert outcome.returncode == JobError.exit_code
    fails(outcome, "machine.memory_limit", "'much'", "'2 GiB'")


def test_a_chosen_number_stands_in_the_recipe(workdir: Workdir) -> None:
    said = succeeds(workdir.gnnsoup_here("soup", "--set", "soup.pls.union=0", "--set", 'soup.methods=["pls"]'))
    assert "soup: memory limit" in said
    assert "pls with R = 8 of 8 parts" in said
    again = succeeds(workdir.gnnsoup_here("soup", "--set", "soup.pls.union=8", "--set", 'soup.methods=["pls"]'))
    assert "soup: pls is there already" in again


def test_a_gpu_free_run_says_how_accuracies_are_told(workdir: Workdir) -> None:
    said = succeeds(workdir.gnnsoup_here("soup", "--again", "--memory-limit", "64 GiB"))
    assert "accuracies are computed in memory" in said
    assert MARK not in said


def test_clusters_are_chosen_before_ingredients_have_a_recipe(empty: Workdir) -> None:
    cluster = ("--set", "train.batch=cluster", "--set", "train.ingredients=1")
    said = succeeds(empty.gnnsoup_here("train", *cluster, "--set", "train.clusters=0"))
    assert "training on unions of 8 of 8 parts" in said
    assert "1 of 1 ingredients are there already" in succeeds(
        empty.gnnsoup_here("train", *cluster, "--set", "train.clusters=8")
    )


def test_chosen_clusters_are_those_of_the_ingredients_from_then_on(empty: Workdir) -> None:
    """Souping, and whoever goes on, takes the number that was chosen, whatever would be chosen now."""
    words = ("--set", "train.batch=cluster", "--set", "train.clusters=0", "--set", 'soup.methods=["uniform"]')
    succeeds(empty.gnnsoup_here("train", *words[:-2], "--set", "train.clusters=3", "--set", "train.ingredients=1"))
    said = succeeds(empty.gnnsoup_here("run", *words))
    assert "training on unions of 3 of 8 parts" in said
    assert "soup: uniform done" in said
    assert "soup: uniform is there already" in succeeds(empty.gnnsoup_here("soup", *words))


def test_open_clusters_are_chosen_by_a_whole_run(empty: Workdir) -> None:
    words = ("--set", "train.batch=cluster", "--set", "train.clusters=0", "--set", 'soup.methods=["uniform"]')
    said = succeeds(empty.gnnsoup_here("run", *words))
    assert "training on unions of 8 of 8 parts" in said
    assert "soup: uniform done" in said


def test_less_than_the_libraries_is_refused_before_the_graph_is_made(empty: Workdir) -> None:
    fails(empty.gnnsoup_here("train", "--memory-limit", "200 MiB"), "libraries alone", "'200 MiB'", "gnnsoup prepare")
    assert not empty.graph.exists()
    succeeds(empty.gnnsoup_here("prepare"))
    fails(empty.gnnsoup_here("train", "--memory-limit", "200 MiB"), "full batches", "Give at least")


@pytest.mark.parametrize("limit", ["much", ""])
def test_what_is_no_size_is_said_to_come_from_the_command_line(empty: Workdir, limit: str) -> None:
    fails(empty.gnnsoup_here("train", "--memory-limit", limit), f"machine.memory_limit={limit}", "is no size")
