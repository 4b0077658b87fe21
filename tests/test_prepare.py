"""prepare: made once, kept, made anew when asked, refused when it is another job's; every file name in one place."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from gnnsoup_hpc import job as jobs
from gnnsoup_hpc import leases
from gnnsoup_hpc import prepare as room
from gnnsoup_hpc.errors import RunError
from gnnsoup_hpc.job import Job
from gnnsoup_hpc.run_dir import RunDir
from gnnsoup_hpc.store import graph as graph_store
from tests import pantry, tiny


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return pantry.prepared(tmp_path)


def test_a_graph_that_is_there_is_kept(job: Job) -> None:
    before = RunDir.of(job).graph.stat()
    room.prepare(job, pantry.ALONE, pantry.QUIET)
    after = RunDir.of(job).graph.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_another_cut_is_made_when_it_is_asked_for(job: Job) -> None:
    other = pantry.changed(job, "partition.parts=4")
    with pytest.raises(RunError, match=r"partition.parts = 8, the job says 4"):
        room.prepare(other, pantry.ALONE, pantry.QUIET)
    room.prepare(other, pantry.ALONE, pantry.QUIET, again=True)
    with graph_store.opened(RunDir.of(other).graph, other, verify=True) as graph:
        assert graph.parts == 4


def test_while_somebody_prepares_the_others_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "POLL_SECONDS", 0.01)
    done = pantry.prepared(tmp_path / "done")
    job = pantry.job_in(tmp_path / "waits", f"graph.source={done.graph.source}")
    graph, content = RunDir.of(job).graph, RunDir.of(done).graph.read_bytes()
    monkeypatch.setattr(room, "partitioned", lambda *_: pytest.fail("prepared what somebody else was preparing"))
    lease = RunDir.of(job).shared_graph(graph_store.key(job)).with_suffix(".lease")
    held, finish = threading.Event(), threading.Event()

    def somebody_else() -> None:
        with leases.held(lease):
            held.set()
            finish.wait()
            graph.parent.mkdir()
            graph.write_bytes(content)

    other = threading.Thread(target=somebody_else)
    other.start()
    held.wait()
    threading.Timer(0.1, finish.set).start()
    room.prepare(job, pantry.ALONE, pantry.QUIET)
    other.join()
    assert graph.read_bytes() == content


def test_the_resolved_job_is_kept_with_the_run(job: Job) -> None:
    room.note_job(job)
    assert jobs.load(str(RunDir.of(job).job)) == job
    other = pantry.changed(job, "train.epochs=3")
    room.note_job(other)
    assert jobs.load(str(RunDir.of(job).job)) == other


def test_file_names_of_a_run() -> None:
    run = RunDir.of(Job(name="x", runs="some/runs"))
    names = [
        *(run.job, run.graph, run.initial, run.ingredient(7), run.ingredient(12345), run.gathered),
        *(run.soup("pls"), run.report, run.lease("x")),
    ]
    assert [str(path.relative_to("some/runs/x")) for path in names] == [
        "job.toml",
        "graph.h5",
        "initial.h5",
        "ingredients/0007.h5",
        "ingredients/12345.h5",
        "ingredients.h5",
        "soups/pls.h5",
        "report.h5",
        "leases/x.lease",
    ]


def test_a_source_that_has_changed_is_refused(tmp_path: Path) -> None:
    """Bare training on it would answer for a graph that is no longer the user's."""
    job = pantry.prepared(tmp_path)
    np.savez(tmp_path / "tiny.npz", **tiny.planted(seed=1))
    with pytest.raises(RunError, match=r"tiny.npz has changed since .*graph.h5 was made from it"):
        room.prepare(job, pantry.ALONE, pantry.QUIET)
    room.prepare(job, pantry.ALONE, pantry.QUIET, again=True)
    (tmp_path / "tiny.npz").unlink()
    room.prepare(job, pantry.ALONE, pantry.QUIET)
