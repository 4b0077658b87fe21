"""A trunk that is chosen from several starts: each is what a job with its seed trains, and the best one is kept."""

from __future__ import annotations

import gc
from dataclasses import replace
from math import isnan
from pathlib import Path
from typing import Any

import pytest

from gnnsoup_hpc.analysis.status.read import read_status
from gnnsoup_hpc.analysis.status.table import show_status
from gnnsoup_hpc.config import Job
from gnnsoup_hpc.errors import DivergedError, RunError
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io import states
from gnnsoup_hpc.io.records import Trunk
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.train import trunk as trunk_training
from gnnsoup_hpc.train.loop import train_trunk
from gnnsoup_hpc.train.runner import train_all
from tests import runs
from tests.train.test_checkpoints import Interrupter
from tests.train.test_initialization import origin, same

ONE = ("train.epochs=1", "train.ingredients=1", "train.trunk_epochs=2")
SEVERAL = (*ONE, "train.trunk_starts=3")


@pytest.fixture(autouse=True)
def _no_search_for_garbage(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it frees is of no interest here, and the search takes most of a short training's time."""
    monkeypatch.setattr(gc, "collect", lambda: 0)


def trunk_of(job: Job) -> Trunk:
    return ingredient_store.read_trunk(RunDir.of(job).trunk)


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A finished training with three starts. Tests that change it copy it first."""
    return runs.train_run(tmp_path_factory.mktemp("chosen"), *SEVERAL)


def test_each_start_is_the_trunk_of_a_job_with_its_seed_and_the_best_is_kept(chosen: Job, tmp_path: Path) -> None:
    found = trunk_of(chosen)
    seeds = [start.seed for start in found.starts]
    assert seeds[0] == chosen.train.seed
    assert len(set(seeds)) == 3
    alone = [runs.train_run(tmp_path / str(seed), *ONE, f"train.seed={seed}") for seed in seeds]
    trunks = [trunk_of(job) for job in alone]
    reached = [trunk.history[-1].validation_accuracy for trunk in trunks]
    assert [start.validation_accuracy for start in found.starts] == reached
    assert found.chosen == reached.index(max(reached))
    assert same(found.state, trunks[found.chosen].state)
    assert [start.initial_sha256 for start in found.starts] == [origin(job, 0)["initial_sha256"] for job in alone]
    assert trunks[0].starts == ()
    assert origin(chosen, 0)["initial_sha256"] == found.starts[found.chosen].initial_sha256
    assert origin(chosen, 0)["trunk_sha256"] == states.sha256(found.state)
    assert origin(chosen, 0)["train.trunk_starts"] == 3


def test_its_cost_is_that_of_all_starts(chosen: Job) -> None:
    found = trunk_of(chosen)
    assert found.measurement["seconds"] == pytest.approx(sum(start.seconds for start in found.starts))
    assert len(found.history) == 2


def test_it_is_souped_and_refused_with_another_number_of_starts(chosen: Job, tmp_path: Path) -> None:
    job = runs.copy_run(chosen, tmp_path)
    runs.train(job)
    assert RunDir.of(runs.soup_run(runs.change_job(job, 'soup.methods=["best"]'))).report.exists()
    with pytest.raises(RunError, match=r"trunk.h5 is of another recipe: train.trunk_starts was 3, the job says 1"):
        runs.train(runs.change_job(job, "train.trunk_starts=1"))


def test_a_stop_loses_no_start_that_is_over(chosen: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = runs.prepare_run(tmp_path, *SEVERAL)
    run, interrupter = RunDir.of(job), Interrupter(monkeypatch)
    for epoch in range(1, 6):
        start = (epoch + 1) // 2
        kept = f"the trunk (start {start} of 3) is kept after epoch {2 - epoch % 2} in {run.checkpoint('trunk')}"
        assert kept in interrupter.stop(job, 1)
        begun = (epoch + 1) // 2 if epoch % 2 else start
        assert f"trunk          waiting, start {begun} of 3" in show_status(read_status(job, run))
        assert run.trunk_starts.exists() == (start > 1)
    interrupter.done = 0
    runs.train(job)
    assert interrupter.done == 1 + 1  # of the last start, and of the ingredient
    one, other = trunk_of(job), trunk_of(chosen)
    assert same(one.state, other.state)
    assert [replace(start, seconds=0.0) for start in one.starts] == [
        replace(start, seconds=0.0) for start in other.starts
    ]
    assert list(run.trunk_starts.parent.iterdir()) == []


@pytest.mark.parametrize("hurt", [lambda path: path.write_bytes(b"no HDF5"), lambda path: path.unlink()])
def test_starts_that_are_over_and_lost_are_trained_again(
    hurt: Any, chosen: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = runs.prepare_run(tmp_path, *SEVERAL)
    Interrupter(monkeypatch).stop(job, 3)
    hurt(RunDir.of(job).trunk_starts)
    runs.train(job)
    assert same(trunk_of(job).state, trunk_of(chosen).state)


def test_a_start_that_diverges_loses_and_one_line_tells_of_all(
    chosen: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    best = trunk_of(chosen)

    def diverging(*arguments: Any) -> Trunk:
        made = train_trunk(*arguments)
        return replace(made, diverged="diverged in epoch 2") if same(made.state, best.state) else made

    monkeypatch.setattr(trunk_training, "train_trunk", diverging)
    job = runs.prepare_run(tmp_path, *SEVERAL)
    train_all(job, runs.ALONE, runs.CPU, Log())
    found = trunk_of(job)
    reached = [start.validation_accuracy for start in found.starts]
    assert isnan(reached[best.chosen])
    left = [value for value in reached if not isnan(value)]
    assert reached[found.chosen] == max(left)
    seed, (line,) = found.starts[found.chosen].seed, _lines(capsys, "trunk done in")
    assert f"the best of 3 starts (seed {seed}; others: " in line
    assert line.count("diverged") == 1


def _lines(capsys: pytest.CaptureFixture[str], word: str) -> list[str]:
    return [line for line in capsys.readouterr().out.splitlines() if word in line]


def test_of_starts_that_all_diverge_none_is_the_trunk(tmp_path: Path) -> None:
    job = runs.prepare_run(tmp_path, *SEVERAL, "train.learning_rate=1000.0", "model.layers=12", kind="gat")
    for _ in range(2):
        with pytest.raises(DivergedError, match=r"the trunk diverged in epoch \d+ .*lower train.learning_rate = 1000"):
            runs.train(job)
    run = RunDir.of(job)
    assert not run.trunk.exists()
    assert "trunk          failed, " in show_status(read_status(job, run))


def test_the_first_of_equals_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def equal(*arguments: Any) -> Trunk:
        made = train_trunk(*arguments)
        return replace(made, history=tuple(replace(epoch, validation_accuracy=0.5) for epoch in made.history))

    monkeypatch.setattr(trunk_training, "train_trunk", equal)
    job = runs.train_run(tmp_path, *SEVERAL)
    assert trunk_of(job).chosen == 0
