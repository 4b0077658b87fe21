"""How a run stands: every state of an ingredient, from files alone, whatever vanishes meanwhile."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gnnsoup_hpc.analysis.status.read import Status, TaskReader, TaskStatus, estimate_end, read_status
from gnnsoup_hpc.config import Job
from gnnsoup_hpc.io import files
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.runtime import leases, status_files
from gnnsoup_hpc.runtime.run_dir import RunDir
from tests import runs
from tests.faults import kit


def work(index: int) -> str:
    return f"ingredient-{index:04d}"


@pytest.fixture
def job(finished: Job, tmp_path: Path) -> Job:
    return runs.copy_run(finished, tmp_path)


@pytest.fixture
def run(job: Job) -> RunDir:
    return RunDir.of(job)


def seen(job: Job) -> Status:
    return read_status(job, RunDir.of(job))


def states(job: Job) -> list[str]:
    return [piece.state for piece in seen(job).ingredients]


def leased(run: RunDir, index: int, age: float = 0.0, **who: Any) -> None:
    """A lease on an ingredient that somebody elsewhere holds, renewed `age` seconds ago."""
    path = run.lease(work(index))
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"host": "elsewhere", "boot": "?", "pid": 7, "started": "1", "since": 5.0} | who))
    then = time.time() - age
    os.utime(path, (then, then))


def test_a_finished_run_has_all(job: Job, run: RunDir) -> None:
    found = seen(job)
    assert states(job) == ["finished"] * 3
    for index, piece in enumerate(found.ingredients):
        ingredient = ingredient_store.read(run.ingredient(index))
        assert piece.validation == ingredient.validation_accuracy
        assert piece.seconds == ingredient.measurement["seconds"]
        assert (piece.rank, piece.epochs) == (0, 12)
    assert found.sizes is not None
    assert (found.sizes.nodes, found.sizes.parts) == (300, 8)
    assert all(soup.made for soup in found.soups)
    assert found.report == "there"
    assert found.estimate.seconds == 0.0


def test_nothing_is_there_yet(tmp_path: Path) -> None:
    found = seen(runs.job_in(tmp_path, "train.trunk_epochs=2"))
    assert found.graph.state == "waiting"
    assert found.trunk is not None
    assert found.trunk.state == "waiting"
    assert [piece.state for piece in found.ingredients] == ["waiting"] * 3
    assert not any(soup.made for soup in found.soups)
    assert found.report == "not there"
    assert not (tmp_path / "runs").exists()


def test_one_in_training_says_where_it_is(job: Job, run: RunDir) -> None:
    run.ingredient(1).unlink()
    leased(run, 1, age=20.0)
    at = {"host": "elsewhere", "pid": 7, "rank": 3, "epoch": 4, "epochs": 12, "epoch_seconds": 2.0, "since": 9.0}
    status_files.write(run.progress(work(1)), at)
    piece = seen(job).ingredients[1]
    assert piece.state == "running"
    assert at.items() <= vars(piece).items()
    assert piece.heartbeat_seconds == pytest.approx(20.0, abs=5.0)
    assert seen(job).estimate.seconds == pytest.approx(16.0)


def test_a_lease_without_news_is_of_whoever_holds_it_alone(job: Job, run: RunDir) -> None:
    """What a former holder posted is not its successor's."""
    run.ingredient(1).unlink()
    leased(run, 1)
    status_files.write(run.progress(work(1)), {"host": "another", "pid": 7, "rank": 3, "epoch": 4})
    piece = seen(job).ingredients[1]
    assert (piece.state, piece.host, piece.rank, piece.epoch, piece.epochs) == ("running", "elsewhere", None, None, 12)
    assert piece.since == 5.0


def test_a_lease_that_is_not_renewed_is_silent(job: Job, run: RunDir) -> None:
    run.ingredient(1).unlink()
    leased(run, 1, age=leases.EXPIRE_SECONDS + 5.0)
    found = seen(job)
    assert (found.ingredients[1].state, found.ingredients[1].host) == ("silent", "elsewhere")
    assert found.estimate.seconds is None
    assert "no rank works" in found.estimate.why


def test_a_failure_says_why_until_it_is_tried_again(job: Job, run: RunDir) -> None:
    run.ingredient(1).unlink()
    note = {"why": "diverged", "when": 3.0, "times": 2, "host": "elsewhere", "rank": 1, "pid": 7}
    status_files.write(run.failure(work(1)), note)
    piece = seen(job).ingredients[1]
    assert (piece.state, piece.why, piece.failed_at, piece.tries) == ("failed", "diverged", 3.0, 2)
    assert (piece.host, piece.rank) == ("elsewhere", 1)
    assert seen(job).estimate.why == "nothing is left but what failed"
    leased(run, 1)
    piece = seen(job).ingredients[1]
    assert (piece.state, piece.why, piece.tries) == ("running", "diverged", 2)


def test_one_that_waits_with_a_checkpoint_says_so(job: Job, run: RunDir) -> None:
    run.ingredient(1).unlink()
    assert not seen(job).ingredients[1].checkpoint
    run.checkpoint(work(1)).parent.mkdir()
    run.checkpoint(work(1)).touch()
    cut = seen(job).ingredients[1]
    assert (cut.state, cut.checkpoint, cut.epoch) == ("waiting", True, None)
    with files.create_file(run.checkpoint(work(1)), "checkpoint", 1, "a training between two epochs", 0) as file:
        file.attrs["epoch"] = 1
    assert (seen(job).ingredients[1].checkpoint, seen(job).ingredients[1].epoch) == (True, 1)


def test_a_file_cut_short_is_damaged(job: Job, run: RunDir) -> None:
    path = run.ingredient(2)
    path.write_bytes(path.read_bytes()[:3000])
    run.soup("gis").write_bytes(b"no HDF5")
    found = seen(job)
    assert found.ingredients[2].state == "damaged"
    assert "0002.h5" in found.ingredients[2].why
    gis = next(soup for soup in found.soups if soup.method == "gis")
    assert not gis.made
    assert "gis.h5 is not a file of gnnsoup_hpc" in gis.why


@pytest.mark.parametrize("text", ["", "half a le", "[]", "{}"])
def test_half_written_notes_are_no_trouble(job: Job, run: RunDir, text: str) -> None:
    run.ingredient(1).unlink()
    leased(run, 1)
    for path in (run.lease(work(1)), run.progress(work(1)), run.failure(work(1)), run.failure(work(2))):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert states(job) == ["finished", "running", "finished"]


def test_what_vanishes_between_two_looks_is_waiting(job: Job, run: RunDir) -> None:
    run.ingredient(1).unlink()
    leased(run, 1)
    reader = TaskReader.of(run)
    run.lease(work(1)).unlink()
    listed = frozenset({"0001.h5"})  # and gone when it was opened
    assert reader.read_ingredient(1, listed, 12).state == "damaged"
    assert reader.read_ingredient(1, frozenset(), 12) == TaskStatus(work(1), "waiting", epochs=12)


def test_what_is_finished_meanwhile_is_finished(job: Job, run: RunDir) -> None:
    """Published, and its lease not given up yet."""
    leased(run, 1)
    assert states(job)[1] == "finished"


def test_the_trunk_and_the_graph_in_the_making(tmp_path: Path) -> None:
    job = runs.prepare_run(tmp_path, "train.trunk_epochs=5")
    run = RunDir.of(job)
    lease = run.lease("trunk")
    lease.parent.mkdir()
    lease.write_text(json.dumps({"host": "elsewhere", "pid": 7}))
    found = seen(job)
    assert found.trunk is not None
    assert (found.trunk.state, found.trunk.host, found.trunk.epochs) == ("running", "elsewhere", 5)
    assert found.estimate.seconds is None
    assert "trunk" in found.estimate.why


def test_soups_that_are_newer_than_the_report_are_said(job: Job, run: RunDir) -> None:
    later = run.report.stat().st_mtime + 60.0
    os.utime(run.soup("pls"), (later, later))
    assert seen(job).report == "older than the soups"


def test_looking_leaves_nothing_behind_and_takes_nothing(job: Job, run: RunDir) -> None:
    leased(run, 1)
    before = {path: path.stat().st_mtime_ns for path in run.root.rglob("*") if path.is_file()}
    seen(job)
    assert {path: path.stat().st_mtime_ns for path in run.root.rglob("*") if path.is_file()} == before


def test_what_a_look_that_was_killed_left_the_next_one_removes(job: Job, run: RunDir) -> None:
    left = [kit.left_by_the_dead(run.lease("any").with_name(name)) for name in ("clock", f"{work(1)}.lease.clock.0a")]
    assert all(path.exists() for path in left)
    seen(job)
    assert not any(path.exists() for path in left)


def test_ages_are_told_where_nothing_can_be_written(job: Job, run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mount that is read-only, as on a login node."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(30, "Read-only file system")

    run.ingredient(1).unlink()
    run.ingredient(2).unlink()
    leased(run, 1)
    leased(run, 2, age=leases.EXPIRE_SECONDS + 5.0)
    monkeypatch.setattr(Path, "touch", refuse)
    found = seen(job)
    assert found.own_clock
    assert [piece.state for piece in found.ingredients] == ["finished", "running", "silent"]


def test_a_clock_ahead_makes_no_age_negative(job: Job, run: RunDir) -> None:
    run.ingredient(1).unlink()
    leased(run, 1, age=-500.0)
    assert seen(job).ingredients[1].heartbeat_seconds == 0.0
    assert TaskReader.of(run).read_lease(run.lease("none"), "none") is None


def running_task(epoch: int | None, seconds: float | None, epochs: int = 10) -> TaskStatus:
    return TaskStatus("a", "running", epoch=epoch, epochs=epochs, epoch_seconds=seconds)


WAITING = TaskStatus("w", "waiting", epochs=10)


def test_waiting_ones_go_to_whoever_is_free_first() -> None:
    """One worker is free in 2 s, one in 8 s: three of 20 s each end at 22, 28 and 42 s."""
    tasks = [running_task(9, 2.0), running_task(6, 2.0), WAITING, WAITING, WAITING]
    assert estimate_end(tasks, None).seconds == pytest.approx(42.0)


def test_the_last_one_running_decides_where_nothing_waits() -> None:
    assert estimate_end([running_task(9, 2.0), running_task(1, 3.0)], None).seconds == pytest.approx(27.0)


def test_finished_ones_tell_where_no_epoch_is_done_yet() -> None:
    finished = TaskStatus("f", "finished", epochs=20, seconds=10.0)
    assert estimate_end([finished, running_task(None, None), WAITING], None).seconds == pytest.approx(10.0)
    assert estimate_end([running_task(None, None), WAITING], None).why == "no epoch is done yet"


def test_ingredients_that_go_on_from_one_another_are_for_one_worker() -> None:
    """Of two chains the longer one decides: 6 epochs and twice 10 more, however many are at work."""
    chain = [replace(running_task(4, 1.0), work="b/0"), *(replace(WAITING, work=f"b/{i}") for i in (1, 2))]
    chain = [replace(task, after=before.work) for before, task in zip([WAITING, *chain], chain, strict=False)]
    tasks = [replace(running_task(9, 1.0), work="a/0"), *chain]
    found = estimate_end(tasks, None)
    assert found.seconds == pytest.approx(26.0)
    assert found.why.startswith("2 at work, 2 to come")
    lost = replace(chain[1], state="failed", why="it goes on from b/0, which failed")
    assert estimate_end([tasks[0], lost, lost], None).seconds == pytest.approx(1.0)


def test_silent_and_damaged_ones_are_to_be_done_and_failed_ones_are_not() -> None:
    for state, seconds in (("silent", 22.0), ("damaged", 22.0), ("failed", 2.0)):
        piece = TaskStatus("p", state, epochs=10)  # type: ignore[arg-type]
        assert estimate_end([running_task(9, 2.0), piece], None).seconds == pytest.approx(seconds), state


def test_why_it_cannot_be_told() -> None:
    assert "no rank works" in estimate_end([WAITING], None).why
    assert "trunk" in estimate_end([WAITING], TaskStatus("trunk", "running")).why
    assert estimate_end([TaskStatus("f", "finished")], None).why == "all ingredients are there"
