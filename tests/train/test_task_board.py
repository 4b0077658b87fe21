"""What is posted of a training, and what becomes of one that fails: the others are trained, and it is tried once."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from gnnsoup_hpc.config import Job
from gnnsoup_hpc.errors import DivergedError, IngredientsError, Interrupted, RunError
from gnnsoup_hpc.runtime import status_files
from gnnsoup_hpc.runtime.launch import launch_id
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.train import runner, task_board
from gnnsoup_hpc.train.task_board import TaskBoard
from tests import runs
from tests.faults import kit
from tests.runs import ALONE, QUIET

WORK = "ingredient-0001"
HUGE = ("--set", "train.epochs=2", "--set", "model.layers=20", "--set", "train.vary.learning_rate=[0.02,1000.0]")


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path)


@pytest.fixture
def board(run: RunDir) -> TaskBoard:
    return TaskBoard(run, ALONE, QUIET)


def test_progress_is_posted_with_its_figures_and_taken_away(
    run: RunDir, board: TaskBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_board, "SECONDS_BETWEEN_POSTS", 0.0)
    with board.watch(WORK, "ingredient 0001", 12) as bar:
        assert "epoch" not in status_files.read(run.progress(WORK))
        bar.advance("", epoch=3, loss=0.5, validation=0.75)
        posted = status_files.read(run.progress(WORK))
        assert {
            "work": WORK,
            "host": "here",
            "rank": 0,
            "epoch": 3,
            "epochs": 12,
            "loss": 0.5,
        }.items() <= posted.items()
        assert posted["validation"] == 0.75
        assert posted["epoch_seconds"] > 0.0
        bar.advance("", epoch=4)
        assert status_files.read(run.progress(WORK))["since"] == posted["since"]
    assert list(run.progress(WORK).parent.iterdir()) == []


def test_epochs_that_follow_at_once_are_not_each_posted(run: RunDir, board: TaskBoard) -> None:
    with board.watch(WORK, "ingredient 0001", 12) as bar:
        for epoch in (1, 2, 3):
            bar.advance("", epoch=epoch)
        assert status_files.read(run.progress(WORK))["epoch"] == 1


def test_a_failure_is_kept_and_counted_until_it_is_history(run: RunDir, board: TaskBoard) -> None:
    for times in (1, 2):
        with pytest.raises(ZeroDivisionError), board.watch(WORK, "", 1):
            raise ZeroDivisionError("no\nline break")
        note = status_files.read(run.failure(WORK))
        assert (note["why"], note["times"], note["rank"]) == ("ZeroDivisionError: no line break", times, 0)
    board.forget_failure(WORK)
    assert list(run.failures.iterdir()) == []


@pytest.mark.parametrize("stopped", [KeyboardInterrupt(), Interrupted("stopped")])
def test_to_be_stopped_is_no_failure(run: RunDir, board: TaskBoard, stopped: BaseException) -> None:
    with pytest.raises(type(stopped)), board.watch(WORK, "", 1):
        raise stopped
    assert not run.failure(WORK).exists()
    assert not run.progress(WORK).exists()


def test_what_failed_before_is_tried_again_and_what_failed_since_is_not(run: RunDir, board: TaskBoard) -> None:
    with pytest.raises(DivergedError), board.watch(WORK, "", 1):
        raise DivergedError("too fast")
    assert board.failed(WORK) == "too fast"
    later = TaskBoard(run, dataclasses.replace(ALONE, host="elsewhere"), QUIET)
    assert later.failed(WORK) == ""
    board.note_failure(WORK, DivergedError("again"))  # by another rank, while the later command runs
    assert later.failed(WORK) == "again"


def test_ranks_of_one_launch_know_of_each_others_failures() -> None:
    first, second = (dataclasses.replace(ALONE, rank=rank, size=2) for rank in (0, 1))
    assert launch_id(first, {}) == launch_id(second, {})
    assert launch_id(ALONE, {}) != launch_id(first, {})
    step = {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}
    assert launch_id(first, step) == launch_id(
        dataclasses.replace(second, host="elsewhere"), step | {"SLURM_PROCID": "1"}
    )
    assert launch_id(first, step) != launch_id(first, step | {"SLURM_RESTART_COUNT": "1"})


def test_where_nothing_can_be_posted_the_work_goes_on(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    run.progress(WORK).parent.write_text("a file where a folder should be")
    with TaskBoard(run, ALONE, Log()).watch(WORK, "", 2) as bar:
        bar.advance("", epoch=1)
    assert len(re.findall("cannot be told how things stand", capsys.readouterr().out)) == 1


@pytest.fixture
def job(trained: Job, tmp_path: Path) -> Job:
    """Two ingredients of three are missing."""
    job = runs.copy_run(trained, tmp_path)
    for index in (1, 2):
        RunDir.of(job).ingredient(index).unlink()
    return job


def diverging(monkeypatch: pytest.MonkeyPatch, error: Exception) -> list[int]:
    """Let ingredient 1 fail whenever it is tried; numbers of those that are."""
    tried, real = [], runner.train

    def train(*arguments: Any) -> Any:
        tried.append(arguments[4])
        if arguments[4] == 1:
            raise error
        return real(*arguments)

    monkeypatch.setattr(runner, "train", train)
    return tried


def test_one_that_diverges_stops_no_other_and_is_named_at_the_end(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = diverging(monkeypatch, DivergedError("ingredient 1 diverged"))
    for _ in range(2):  # the same command tries again
        tried.clear()
        with pytest.raises(
            IngredientsError, match=r"1 of 3 ingredients failed, .*: 0001\. The first: ingredient 1 div"
        ):
            runs.train(job)
        assert tried[0] == 1
    run = RunDir.of(job)
    assert run.ingredient(2).exists()
    assert status_files.read(run.failure(WORK))["times"] == 2
    monkeypatch.undo()
    runs.train(job)
    assert not run.failure(WORK).exists()
    assert list((run.root / "leases").iterdir()) == []


def test_an_error_of_another_kind_ends_the_rank_and_is_kept(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    diverging(monkeypatch, RunError("the disk is full"))
    with pytest.raises(RunError, match="the disk is full"):
        runs.train(job)
    assert status_files.read(RunDir.of(job).failure(WORK))["why"] == "the disk is full"


def test_what_a_killed_process_left_is_removed_though_one_fails_again(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    diverging(monkeypatch, DivergedError("ingredient 1 diverged"))
    run = RunDir.of(job)
    for path in (run.failure(WORK), run.lease(WORK), run.progress(WORK), run.checkpoint(WORK)):
        kit.left_by_the_dead(path)
    with pytest.raises(IngredientsError):
        runs.train(job)
    assert [path.name for path in run.failures.iterdir()] == [run.failure(WORK).name]
    assert [*run.lease("").parent.iterdir(), *run.checkpoint("").parent.iterdir()] == []


@pytest.mark.mpi
def test_ranks_do_not_repeat_each_others_failures(tmp_path: Path) -> None:
    workdir = kit.make_workdir(tmp_path, kind="gat", ingredients=5)
    for times in (1, 2):
        outcome = workdir.gnnsoup("train", *HUGE, ranks=2)
        assert outcome.returncode == 1
        assert outcome.stdout.count("diverged in epoch 1 ") == 2, outcome.stdout
        errors = [line for line in outcome.stderr.splitlines() if kit.MARK in line]
        assert len(errors) == 1, outcome.stderr
        assert "2 of 5 ingredients failed, all others are there: 0001, 0003" in errors[0]
        assert [workdir.ingredient(index).exists() for index in range(5)] == [True, False] * 2 + [True]
        assert status_files.read(RunDir(workdir.root).failure("ingredient-0003"))["times"] == times
