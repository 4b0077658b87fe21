"""Where ingredients start: one state, one trunk, or each its own; made once, resumed, mended, refused."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch

from gnnsoup_hpc.config import Job
from gnnsoup_hpc.config.turns import Hyperparameters
from gnnsoup_hpc.data.loader import load_whole, share_graph
from gnnsoup_hpc.engine import choose_engine
from gnnsoup_hpc.errors import RunError
from gnnsoup_hpc.evaluation.evaluator import EvalSettings, Evaluator
from gnnsoup_hpc.io import graph as graph_store
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io.ingredient import Origin
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.models.registry import make_model
from gnnsoup_hpc.runtime.launch import RankInfo
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.train import runner
from gnnsoup_hpc.train import trunk as trunk_training
from gnnsoup_hpc.train.batches import FullBatches
from gnnsoup_hpc.train.loop import TrainData, train, train_trunk
from gnnsoup_hpc.types import Role, State
from tests import runs
from tests.faults import kit

SMALL = ("train.epochs=3", "train.ingredients=2")
TRUNK = (*SMALL, "train.trunk_epochs=4")


def same(one: State, other: State) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


def origin(job: Job, index: int) -> dict[str, object]:
    with h5py.File(RunDir.of(job).ingredient(index)) as file:
        return json.loads(file["provenance"].attrs["origin"])


def paths(job: Job) -> list[Path]:
    return [RunDir.of(job).ingredient(index) for index in range(job.train.ingredients)]


@pytest.fixture(scope="module")
def branched(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A finished training with a trunk. Tests that change it copy it first."""
    return runs.train_run(tmp_path_factory.mktemp("branched"), *TRUNK, "train.vary.dropout=[0.2, 0.6]")


@pytest.fixture
def job(branched: Job, tmp_path: Path) -> Job:
    return runs.copy_run(branched, tmp_path)


def test_equal_hashes_mean_a_shared_start(tmp_path: Path) -> None:
    shared, own = (runs.train_run(tmp_path / start, *SMALL, f"train.start={start}") for start in ("shared", "own"))
    starts_of = {start: [origin(job, index) for index in range(2)] for start, job in (("shared", shared), ("own", own))}
    hashes = {start: [each["initial_sha256"] for each in found] for start, found in starts_of.items()}
    assert hashes["shared"][0] == hashes["shared"][1]
    assert len({*hashes["own"], hashes["shared"][0]}) == 3
    assert [each["train.start"] for each in starts_of["own"]] == ["own", "own"]
    assert "train.start" not in starts_of["shared"][0]
    assert kit.dataset(RunDir.of(own).initial, "state/convs.0.lin_l.weight").shape == (16, 12)


def test_an_own_start_is_a_function_of_seed_and_index(tmp_path: Path) -> None:
    job = runs.prepare_run(tmp_path, "train.start=own", "train.epochs=1", "train.learning_rate=1e-9")
    runs.train(job)
    net = Architecture("sage", 2, 12, 16, 3)
    for index, path in enumerate(paths(job)):
        start = ingredient_store.make_own_start(net, job.train.seed, index)
        for name, tensor in ingredient_store.read(path).state.items():
            torch.testing.assert_close(tensor, start[name], atol=1e-8, rtol=0.0)
    assert not same(ingredient_store.make_own_start(net, 0, 1), ingredient_store.make_own_start(net, 1, 1))
    assert not same(ingredient_store.make_own_start(net, 0, 0), net.init_state(0))


def test_own_starts_are_souped_and_refused_as_shared_ones(tmp_path: Path) -> None:
    job = runs.train_run(tmp_path, *SMALL, "train.start=own", 'soup.methods=["uniform"]')
    assert RunDir.of(runs.soup_run(job)).report.exists()
    with pytest.raises(RunError, match=r"0000.h5 is of another recipe: train.start was 'own', the job says 'shared'"):
        runs.train(runs.change_job(job, "train.start=shared"))


@contextmanager
def open_data(job: Job) -> Iterator[TrainData]:
    """What the job's ingredients are trained on, in full batches."""
    run = RunDir.of(job)
    with graph_store.open_graph(run.graph, job) as graph:
        net = make_model(job.model, graph.features, graph.classes)
        batch = load_whole(graph, Role.TRAIN)
        engine = choose_engine(net, runs.CPU)
        plan = partial(engine.plan, net, train=True)
        batches = FullBatches(graph, batch, share_graph(graph, batch, Role.VALIDATION), plan)
        evaluator = Evaluator(graph, net, EvalSettings(runs.CPU, 1 << 30, run.root))
        yield TrainData(net, engine, batches, evaluator, runs.CPU)


def test_ingredients_are_what_training_by_hand_from_the_trunk_gives(branched: Job) -> None:
    run = RunDir.of(branched)
    with open_data(branched) as data:
        net = data.model
        base = Hyperparameters(4, 0.02, 0.0, 0.5)
        trunk = train_trunk(data, net.init_state(0), base, 0, runs.QUIET.bar(4, "trunk"))
        kept = ingredient_store.read_trunk(run.trunk)
        assert same(trunk.state, kept.state)
        assert [epoch.epoch for epoch in kept.history] == [1, 2, 3, 4]
        assert not same(kept.state, net.init_state(0))
        for index, dropout in enumerate((0.2, 0.6)):
            how = Hyperparameters(3, 0.02, 0.0, dropout)
            by_hand = train(data, trunk.state, how, 0, index, runs.QUIET.bar(3, "by hand"))
            found = ingredient_store.read(run.ingredient(index))
            assert same(found.state, by_hand.state)
            assert [epoch.epoch for epoch in found.history] == [1, 2, 3]
            assert (found.hyperparameters.trunk_epochs, found.hyperparameters.dropout) == (4, dropout)


def test_the_trunk_keeps_its_last_epoch_and_draws_for_itself(branched: Job) -> None:
    """It is no ingredient of as many epochs, whose best epoch would be kept and whose number is another."""
    run = RunDir.of(branched)
    with open_data(branched) as data:
        net = data.model
        how = Hyperparameters(4, 0.02, 0.0, 0.5)
        ingredient = train(data, net.init_state(0), how, 0, 0, runs.QUIET.bar(4, "ingredient"))
        last = ingredient_store.read_trunk(run.trunk)
        (reached,) = data.evaluator.metrics([last.state], (Role.VALIDATION,))
    assert last.history[-1].validation_accuracy == reached
    assert last.history[0].loss != ingredient.history[0].loss


def test_an_origin_says_which_trunk(branched: Job) -> None:
    found = [origin(branched, index) for index in range(2)]
    with h5py.File(RunDir.of(branched).trunk) as file:
        assert {each["trunk_sha256"] for each in found} == {str(file["state"].attrs["sha256"])}
    assert [each["train.trunk_epochs"] for each in found] == [4, 4]
    assert found[0]["initial_sha256"] == found[1]["initial_sha256"]


def test_what_is_killed_between_trunk_and_ingredients_goes_on(job: Job) -> None:
    run = RunDir.of(job)
    before = [kit.content(path) for path in paths(job)]
    for path in (*paths(job), run.gathered):
        path.unlink()
    trunk = run.trunk.read_bytes()
    runs.train(job)
    assert run.trunk.read_bytes() == trunk
    assert [kit.content(path) for path in paths(job)] == before
    assert list((run.root / "leases").iterdir()) == []


@pytest.mark.parametrize("hurt", [kit.truncate, lambda path: kit.flip(path, 0.7), Path.unlink])
def test_a_damaged_or_lost_trunk_is_made_again(job: Job, hurt: object) -> None:
    assert callable(hurt)
    run = RunDir.of(job)
    before, state = [path.read_bytes() for path in paths(job)], ingredient_store.read_trunk(run.trunk).state
    hurt(run.trunk)
    with pytest.raises(RunError, match=r"trunk.h5 .*run `gnnsoup train JOB`, which makes it again"):
        runs.soup_run(job)
    runs.train(job)
    assert same(ingredient_store.read_trunk(run.trunk).state, state)
    assert [path.read_bytes() for path in paths(job)] == before


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.trunk_epochs=5", "trunk.h5 is of another recipe: train.trunk_epochs was 4, the job says 5"),
        ("train.learning_rate=0.01", "trunk.h5 is of another recipe: train.learning_rate was 0.02, the job says 0.01"),
        ("train.trunk_epochs=0", "0000.h5 is of another recipe: train.trunk_epochs was 4, the job says 0"),
        ("train.drop_edges=0.1", "trunk.h5 is of another recipe: train.drop_edges was 0.0, the job says 0.1"),
    ],
)
def test_a_trunk_of_another_recipe_is_refused_and_left_alone(job: Job, override: str, message: str) -> None:
    run = RunDir.of(job)
    before = [path.read_bytes() for path in (run.trunk, *paths(job))]
    other = runs.change_job(job, override)
    for command in (runs.train, runs.soup_run):
        with pytest.raises(RunError, match=message) as error:
            command(other)
        assert "\n" not in str(error.value)
    assert [path.read_bytes() for path in (run.trunk, *paths(job))] == before


def test_what_varies_leaves_the_trunk_as_it_is(job: Job) -> None:
    """Nothing of [train.vary] is the trunk's, so a run may take other branches from it."""
    for path in paths(job):
        path.unlink()
    trunk = RunDir.of(job).trunk.read_bytes()
    runs.train(runs.change_job(job, "train.vary.dropout=[0.1]", "train.epochs=2"))
    assert RunDir.of(job).trunk.read_bytes() == trunk


def test_ingredients_of_another_trunk_are_refused(job: Job) -> None:
    run = RunDir.of(job)
    found = ingredient_store.read_trunk(run.trunk)
    with graph_store.open_graph(run.graph, job) as graph:
        net = make_model(job.model, graph.features, graph.classes)
        initial = str(origin(job, 0)["initial_sha256"])
        of = Origin.of(job, net, graph, initial, None)
    found.state["convs.0.lin_l.weight"][0, 0] += 1.0
    ingredient_store.write_trunk(run.trunk, found, of, job)
    with pytest.raises(RunError, match=r"0000.h5 branched from another trunk than the run's"):
        runs.train(job)


def test_a_trunk_that_diverges_says_when(tmp_path: Path) -> None:
    job = runs.prepare_run(tmp_path, *TRUNK, "train.learning_rate=1000.0", "model.layers=12", kind="gat")
    with pytest.raises(RunError, match=r"the trunk diverged in epoch \d+ .*lower train.learning_rate = 1000"):
        runs.train(job)
    assert not RunDir.of(job).trunk.exists()


def test_two_ranks_train_the_trunk_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second asks while the first is at it, says for whom it waits, and both train from what the first made."""
    job = runs.prepare_run(tmp_path, *TRUNK)
    begun, go_on = threading.Event(), threading.Event()
    trained: list[int] = []

    def slowly(*arguments: object) -> object:
        trained.append(1)
        begun.set()
        go_on.wait(60)
        return train_trunk(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(trunk_training, "train_trunk", slowly)
    monkeypatch.setattr(runner, "POLL_SECONDS", 0.01)
    said: list[str] = []

    class Listening(Log):
        def say(self, text: str) -> None:
            said.append(text)
            if "waiting for" in text:
                go_on.set()

    gather, alone = runner.gathered.gather, threading.Lock()

    def one_at_a_time(*arguments: Any) -> None:
        with alone:  # files are made under names that are a process's own, and both ranks are this one
            gather(*arguments)

    monkeypatch.setattr(runner.gathered, "gather", one_at_a_time)
    with ThreadPoolExecutor(2) as pool:
        places = [RankInfo(rank, 2, rank, 2, "here") for rank in range(2)]
        first = pool.submit(runner.train_all, job, places[0], runs.CPU, Listening())
        assert begun.wait(60)
        second = pool.submit(runner.train_all, job, places[1], runs.CPU, Listening())
        first.result(120)
        second.result(120)
    assert trained == [1]
    assert sum("trains the trunk" in line for line in said) == 1
    assert sum("trunk done" in line for line in said) == 1
    assert all(path.exists() for path in paths(job))


@pytest.mark.mpi
def test_two_processes_train_the_trunk_once(tmp_path: Path, branched: Job) -> None:
    workdir = kit.make_workdir(tmp_path)
    words = [word for override in (*TRUNK, "train.vary.dropout=[0.2, 0.6]") for word in ("--set", override)]
    said = kit.succeeds(workdir.gnnsoup("train", *words, ranks=2))
    assert said.count("trunk done") == 1
    assert [kit.content(workdir.ingredient(index)) for index in range(2)] == [kit.content(p) for p in paths(branched)]
