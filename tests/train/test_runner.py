"""Sharing out of ingredients: what is there is kept, what is missing or damaged trained, others' work waited for."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from gnnsoup_hpc.config import Job
from gnnsoup_hpc.errors import RunError
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.runtime import leases
from gnnsoup_hpc.runtime.launch import RankInfo
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.train import runner
from tests import runs


@pytest.fixture
def job(trained: Job, tmp_path: Path) -> Job:
    """A finished training, to change."""
    return runs.copy_run(trained, tmp_path)


@pytest.fixture
def paths(job: Job) -> list[Path]:
    return [RunDir.of(job).ingredient(index) for index in range(job.train.ingredients)]


def test_only_what_is_missing_is_trained(job: Job, paths: list[Path]) -> None:
    kept, missing = paths[0].read_bytes(), ingredient_store.read(paths[1])
    paths[1].unlink()
    runs.train(job)
    assert paths[0].read_bytes() == kept
    again = ingredient_store.read(paths[1])
    assert again.validation_accuracy == missing.validation_accuracy
    assert (again.state["convs.0.lin_l.weight"] == missing.state["convs.0.lin_l.weight"]).all()


def test_a_damaged_ingredient_is_set_aside_and_trained_again(job: Job, paths: list[Path]) -> None:
    whole = ingredient_store.read(paths[2])
    paths[2].write_bytes(damaged := paths[2].read_bytes()[:-50])
    runs.train(job)
    assert ingredient_store.read(paths[2]).validation_accuracy == whole.validation_accuracy
    assert paths[2].with_name("0002.h5.damaged").read_bytes() == damaged


@pytest.mark.parametrize("override", ["train.epochs=3", "train.dropout=0.25", "train.seed=1", "model.hidden=8"])
def test_ingredients_of_another_recipe_are_refused_and_left_alone(job: Job, paths: list[Path], override: str) -> None:
    before = [path.read_bytes() for path in paths]
    with pytest.raises(RunError, match="give the job a name of its own"):
        runs.train(runs.change_job(job, override))
    assert [path.read_bytes() for path in paths] == before


def test_an_initial_state_of_another_seed_is_not_used(job: Job, paths: list[Path]) -> None:
    """Not even where no ingredient is there to tell."""
    for path in paths:
        path.unlink()
    with pytest.raises(RunError, match=r"initial.h5 was made with train.seed = 0, the job says 1"):
        runs.train(runs.change_job(job, "train.seed=1"))


def test_what_is_there_and_not_asked_for_is_said(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    few = runs.change_job(job, "train.ingredients=1", "train.fanout=[3]")
    runner.train_all(few, runs.ALONE, torch.device("cpu"), Log())
    said = capsys.readouterr().out
    assert "train: without effect on these ingredients: train.fanout\n" in said
    names = [f"{index:04d}" for index in range(1, job.train.ingredients)]
    assert f"train: {', '.join(names)} {'is' if len(names) == 1 else 'are'} there too" in said
    runner.train_all(job, runs.ALONE, torch.device("cpu"), Log())
    said = capsys.readouterr().out
    assert "there too" not in said
    assert "without effect" not in said


@pytest.mark.parametrize(
    ("rank", "ranks", "gone", "says"),
    [
        (0, 2, 1, "train: 1 of 2 ranks has nothing to train: 1 ingredient\n"),
        (0, 5, 2, "train: 3 of 5 ranks have nothing to train: 2 ingredients\n"),
        (1, 5, 2, ""),
        (0, 2, 2, ""),
        (0, 5, 0, ""),
    ],
)
def test_ranks_that_have_nothing_to_train_are_said_once(
    job: Job, paths: list[Path], capsys: pytest.CaptureFixture[str], rank: int, ranks: int, gone: int, says: str
) -> None:
    for path in paths[:gone]:
        path.unlink()
    runner.train_all(job, RankInfo(rank, ranks, 0, 1, "here"), torch.device("cpu"), Log())
    said = capsys.readouterr().out
    assert "".join(line for line in said.splitlines(keepends=True) if "nothing to train" in line) == says


def test_no_lease_is_left(job: Job, paths: list[Path]) -> None:
    paths[0].unlink()
    runs.train(job)
    assert list((RunDir.of(job).root / "leases").iterdir()) == []


def test_what_somebody_else_trains_is_waited_for(job: Job, paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The other holds the lease, finishes while we wait, and gives it up; we train nothing."""
    monkeypatch.setattr(runner, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(runner, "train", lambda *_: pytest.fail("trained what somebody else was training"))
    content = paths[1].read_bytes()
    paths[1].unlink()
    held, finish = threading.Event(), threading.Event()

    def somebody_else() -> None:
        with leases.hold(RunDir.of(job).lease("ingredient-0001")):
            held.set()
            finish.wait()
            paths[1].write_bytes(content)

    other = threading.Thread(target=somebody_else)
    other.start()
    held.wait()
    threading.Timer(0.1, finish.set).start()
    runs.train(job)
    other.join()
    assert paths[1].read_bytes() == content
