"""Snapshots of one training: each ingredient goes on from the one before it, and no two are trained at once."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gnnsoup_hpc.analysis.status.read import read_status
from gnnsoup_hpc.analysis.status.table import show_status
from gnnsoup_hpc.config import Job
from gnnsoup_hpc.config.turns import hyperparameters
from gnnsoup_hpc.errors import DivergedError, IngredientsError, RunError
from gnnsoup_hpc.io import alignment as alignment_store
from gnnsoup_hpc.io import graph as graph_store
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io import states
from gnnsoup_hpc.io.ingredient import Origin
from gnnsoup_hpc.models.registry import make_model
from gnnsoup_hpc.runtime import leases
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.soup.selection import select_ingredients
from gnnsoup_hpc.train import runner
from gnnsoup_hpc.train.loop import train
from tests import runs
from tests.faults import kit
from tests.train.test_initialization import open_data, origin, paths, same

CHAIN = ("train.start=snapshots", "train.epochs=3", "train.ingredients=3", "train.schedule=cosine")
NEXT = "ingredient-0001"


@pytest.fixture(autouse=True)
def _no_search_for_garbage(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it frees is of no interest here, and the search takes most of a short training's time."""
    monkeypatch.setattr(gc, "collect", lambda: 0)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A finished training. Tests that change it copy it first."""
    return runs.train_run(tmp_path_factory.mktemp("chain"), *CHAIN)


@pytest.fixture
def job(chain: Job, tmp_path: Path) -> Job:
    return runs.copy_run(chain, tmp_path)


class Listening(Log):
    """Keeps what is said, and tells of it."""

    def __init__(self, heard: Callable[[str], object] = lambda text: None) -> None:
        super().__init__(quiet=True)
        self.said: list[str] = []
        self.heard = heard

    def say(self, text: str) -> None:
        self.said.append(text)
        self.heard(text)


def test_ingredients_are_what_training_by_hand_from_one_another_gives(chain: Job) -> None:
    """Each with a fresh optimiser, its rate from the top again, and draws of its own."""
    with open_data(chain) as data:
        state = data.model.init_state(0)
        for index, path in enumerate(paths(chain)):
            made = train(data, state, hyperparameters(chain, index), 0, index, runs.QUIET.bar(3, "by hand"))
            found = ingredient_store.read(path)
            assert same(found.state, made.state)
            assert [epoch.loss for epoch in found.history] == [epoch.loss for epoch in made.history]
            state = made.state


def test_an_origin_says_what_it_went_on_from(chain: Job) -> None:
    found = [origin(chain, index) for index in range(3)]
    kept = [states.sha256(ingredient_store.read(path).state) for path in paths(chain)]
    assert [each.get("previous_sha256") for each in found] == [None, *kept[:2]]
    assert len({each["initial_sha256"] for each in found}) == 1
    assert {each["train.start"] for each in found} == {"snapshots"}


def test_they_are_aligned_as_ingredients_of_a_shared_start_are(job: Job) -> None:
    runs.soup_run(runs.change_job(job, 'soup.methods=["uniform"]', "soup.diagnose=false"))
    record = alignment_store.read(RunDir.of(job).alignment)
    assert record.text.startswith("no alignment needed: shared initial state; ")


@pytest.mark.parametrize("gone", [(1,), (0, 2)])
def test_what_is_missing_is_made_again_and_the_others_are_kept(job: Job, gone: tuple[int, ...]) -> None:
    before, files = [kit.content(path) for path in paths(job)], [path.read_bytes() for path in paths(job)]
    for index in gone:
        paths(job)[index].unlink()
    runs.train(job)
    assert [kit.content(path) for path in paths(job)] == before
    assert all(paths(job)[index].read_bytes() == files[index] for index in range(3) if index not in gone)


def test_a_trunk_is_where_the_first_one_starts(tmp_path: Path) -> None:
    branched = runs.train_run(tmp_path, *CHAIN, "train.ingredients=2", "train.epochs=1", "train.trunk_epochs=2")
    trunk = ingredient_store.read_trunk(RunDir.of(branched).trunk)
    with open_data(branched) as data:
        first = train(data, trunk.state, hyperparameters(branched, 0), 0, 0, runs.QUIET.bar(1, "by hand"))
    assert same(ingredient_store.read(paths(branched)[0]).state, first.state)
    assert origin(branched, 1)["trunk_sha256"] == states.sha256(trunk.state)


def test_ingredients_after_another_one_are_refused(job: Job) -> None:
    """The one before it was trained anew, elsewhere, and to other weights."""
    path = paths(job)[0]
    found, was = ingredient_store.read(path), origin(job, 0)
    found.state["convs.0.lin_l.weight"][0, 0] += 1.0
    with graph_store.open_graph(RunDir.of(job).graph, job) as graph:
        net = make_model(job.model, graph.features, graph.classes)
        of = Origin.of(job, net, graph, str(was["initial_sha256"]), 0)
    ingredient_store.write(path, found, replace(of, engine=found.engine), job)
    refused = r"0001.h5 went on from other weights than those of the ingredient before it"
    for command in (runs.train, runs.soup_run):
        with pytest.raises(RunError, match=refused) as error:
            command(job)
        assert "\n" not in str(error.value)


def test_one_after_a_missing_one_is_not_souped(job: Job) -> None:
    """Nor is what it went on from known."""
    paths(job)[0].unlink()
    with pytest.raises(RunError, match=r"0000.h5 is not trained yet \(and 1 more\): run `gnnsoup train JOB`"):
        runs.soup_run(job)
    with graph_store.open_graph(RunDir.of(job).graph, job) as graph:
        net = make_model(job.model, graph.features, graph.classes)
        unfit = select_ingredients(runs.change_job(job, "soup.unfit=leave out"), net, graph, Listening()).unfit
    assert list(unfit) == [0, 1]
    assert "0001.h5 goes on from the ingredient before it, and " in unfit[1]


def test_who_waits_for_the_next_one_says_so_once_and_trains_what_follows(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else trains ingredient 1; of 2 nothing can be done before."""
    before, given = [kit.content(path) for path in paths(job)], paths(job)[1].read_bytes()
    for path in paths(job)[1:]:
        path.unlink()
    monkeypatch.setattr(runner, "POLL_SECONDS", 0.01)
    held, go_on = threading.Event(), threading.Event()

    def somebody_else() -> None:
        with leases.hold(RunDir.of(job).lease(NEXT)):
            held.set()
            go_on.wait(60)
            paths(job)[1].write_bytes(given)

    other = threading.Thread(target=somebody_else)
    other.start()
    assert held.wait(60)
    log = Listening(lambda text: threading.Timer(0.1, go_on.set).start() if "waiting for" in text else None)
    runner.train_all(job, runs.ALONE, runs.CPU, log)
    other.join()
    waited = [line for line in log.said if "waiting for" in line]
    assert len(waited) == 1
    assert waited[0].endswith("who trains ingredient 0001")
    assert sum(" done in " in line for line in log.said) == 1
    assert [kit.content(path) for path in paths(job)] == before


def test_chains_of_a_sweep_do_not_wait_for_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first run's first ingredient is somebody else's until the second run is done."""
    small = ("train.ingredients=2", "train.epochs=1", "sweep={ train = { seed = [0, 1] } }")
    job = runs.prepare_run(tmp_path, *CHAIN, *small)
    first, second = (RunDir(RunDir.of(job).root / "grid" / f"seed-{seed}") for seed in (0, 1))
    monkeypatch.setattr(runner, "POLL_SECONDS", 0.01)
    held, go_on = threading.Event(), threading.Event()

    def somebody_else() -> None:
        with leases.hold(first.lease("ingredient-0000")):
            held.set()
            go_on.wait(60)

    other = threading.Thread(target=somebody_else)
    other.start()
    assert held.wait(60)
    log = Listening(lambda text: go_on.set() if "waiting for" in text else None)
    runner.train_all(job, runs.ALONE, runs.CPU, log)
    other.join()
    done = [line.split()[1] for line in log.said if " done in " in line]
    assert done == ["seed-1/ingredient"] * 2 + ["seed-0/ingredient"] * 2
    assert second.ingredient(1).exists()
    found = read_status(job, RunDir.of(job)).ingredients
    assert [task.after for task in found] == ["", "seed-0/ingredient-0000", "", "seed-1/ingredient-0000"]


def test_those_after_one_that_diverges_are_named_once_and_the_others_kept(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [kit.content(path) for path in paths(job)]
    for path in paths(job)[1:]:
        path.unlink()
    real = runner.train

    def diverging(*arguments: Any) -> Any:
        if arguments[4] == 1:
            raise DivergedError("ingredient 1 diverged")
        return real(*arguments)

    log = Listening()
    with monkeypatch.context() as patch:
        patch.setattr(runner, "train", diverging)
        failed = r"2 of 3 ingredients failed or go on from one that did, .*: 0001, 0002\. The first: ingredient 1 div"
        with pytest.raises(IngredientsError, match=failed):
            runner.train_all(job, runs.ALONE, runs.CPU, log)
    assert [line for line in log.said if "diverged" in line] == [
        "train: ingredient 1 diverged; those after it cannot be trained"
    ]
    assert kit.content(paths(job)[0]) == before[0]
    found = read_status(job, RunDir.of(job))
    assert [(task.state, task.after) for task in found.ingredients] == [
        ("finished", ""),
        ("failed", "ingredient-0000"),
        ("failed", NEXT),
    ]
    assert "it goes on from ingredient-0001, which failed" in show_status(found)
    assert found.estimate.why == "nothing is left but what failed"
    runs.train(job)
    assert [kit.content(path) for path in paths(job)] == before


@pytest.mark.mpi
def test_two_processes_train_a_chain_one_after_the_other(tmp_path: Path, chain: Job) -> None:
    workdir = kit.make_workdir(tmp_path)
    words = [word for override in CHAIN for word in ("--set", override)]
    said = kit.succeeds(workdir.gnnsoup("train", *words, ranks=2))
    assert said.count(" done in ") == 3
    idle = 'train: 1 of 2 ranks has nothing to train: 3 ingredients, each from the one before it (train.start = "snap'
    assert said.count(idle) == 1
    assert said.count("waiting for") <= 2  # once a rank
    assert [kit.content(workdir.ingredient(index)) for index in range(3)] == [
        kit.content(path) for path in paths(chain)
    ]
