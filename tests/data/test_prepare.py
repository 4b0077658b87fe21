"""prepare: made once, kept, made anew when asked, refused when it is another job's; every file name in one place."""

from __future__ import annotations

import os
import shutil
import sys
import threading
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from gnnsoup_hpc.config import Job
from gnnsoup_hpc.config import loading as jobs
from gnnsoup_hpc.data import partition, transforms
from gnnsoup_hpc.data import prepare as room
from gnnsoup_hpc.errors import GraphError, JobError, PartError, RunError
from gnnsoup_hpc.graph import identity
from gnnsoup_hpc.io import graph as graph_store
from gnnsoup_hpc.runtime import leases, processes
from gnnsoup_hpc.runtime.leases import Lease
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.utils import out_of_core
from tests import runs, tiny


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return runs.prepare_run(tmp_path)


def test_a_graph_that_is_there_is_kept(job: Job) -> None:
    before = RunDir.of(job).graph.stat()
    room.prepare(job, runs.ALONE, runs.QUIET)
    after = RunDir.of(job).graph.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


@pytest.mark.parametrize("name", ["nodes/x", "edges/indices"])
@pytest.mark.parametrize("rank", [0, 1])
def test_every_rank_refuses_a_damaged_graph(job: Job, rank: int, name: str) -> None:
    """A rank trains without waiting for rank 0, and what it reads of features and edges has no other checksum."""
    path = RunDir.of(job).graph
    with h5py.File(path) as file:
        place = file[name].id.get_offset() + 42
    data = bytearray(path.read_bytes())
    data[place] ^= 0x10
    path.write_bytes(data)
    with pytest.raises(RunError, match=r"graph\.h5 is truncated or damaged: .*run `gnnsoup prepare JOB --again`"):
        room.prepare(job, replace(runs.ALONE, rank=rank, size=2), runs.QUIET)


def test_another_cut_is_made_when_it_is_asked_for(job: Job) -> None:
    other = runs.change_job(job, "partition.parts=4")
    runs.begin_to_train(job)
    with pytest.raises(RunError, match=r"partition.parts = 8, the job says 4"):
        room.prepare(other, runs.ALONE, runs.QUIET)
    room.prepare(other, runs.ALONE, runs.QUIET, again=True)
    with graph_store.open_graph(RunDir.of(other).graph, other, verify=True) as graph:
        assert graph.parts == 4


def test_what_a_refused_job_left_behind_does_not_block_the_corrected_one(tmp_path: Path) -> None:
    """Another kind of task, another split, another file: each takes the place of what nothing was computed on."""
    runs.job_in(tmp_path)
    arrays = tiny.planted()
    np.savez(tmp_path / "labels.npz", **arrays | {"y": np.eye(tiny.CLASSES)[arrays["y"]]})
    np.savez(tmp_path / "copy.npz", **tiny.planted(seed=1))
    labels, copy = (f"graph.source=npz:{tmp_path}/{name}.npz" for name in ("labels", "copy"))
    room.prepare(runs.load_job(tmp_path, labels, "task.kind=multilabel"), runs.ALONE, runs.QUIET)
    corrected = {
        (labels, "task.kind=regression"): "task.kind = 'multilabel', the job says 'regression'",
        ("graph.split_seed=3",): "graph.split_seed = 0, the job says 3",
        (copy, "graph.split_seed=3"): f"made from other content than {tmp_path}/copy.npz holds now",
    }
    said: list[str] = []
    log = Log()
    log.say = said.append  # type: ignore[method-assign]
    for overrides, how in corrected.items():
        said.clear()
        job = runs.load_job(tmp_path, *overrides)
        room.prepare(job, runs.ALONE, log)
        assert [how in line for line in said if "nothing was computed on it" in line] == [True], said
    kept = len(list(RunDir.of(job).shared_graphs.glob("*.h5")))
    assert kept == 1 + len(corrected)  # none of them is lost
    runs.begin_to_train(job)
    with pytest.raises(RunError, match=r"graph.split_seed = 3, the job says 0"):
        room.prepare(runs.load_job(tmp_path, copy), runs.ALONE, runs.QUIET)


def test_a_graph_that_is_kept_nowhere_else_is_not_replaced(job: Job) -> None:
    shared_by(job).unlink()
    with pytest.raises(RunError, match=r"partition.parts = 8, the job says 4"):
        room.prepare(runs.change_job(job, "partition.parts=4"), runs.ALONE, runs.QUIET)


def test_a_task_that_means_nothing_on_a_source_leaves_no_graph(tmp_path: Path) -> None:
    job = runs.job_in(tmp_path, "task.kind=binary")
    with pytest.raises(JobError, match=r"task.kind = 'binary': the graph has 3 classes"):
        room.prepare(job, runs.ALONE, runs.QUIET)
    assert not list((tmp_path / "runs").rglob("*.h5"))


def test_while_somebody_prepares_the_others_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "POLL_SECONDS", 0.01)
    done = runs.prepare_run(tmp_path / "done")
    job = runs.job_in(tmp_path / "waits", f"graph.source={done.graph.source}")
    graph, content = RunDir.of(job).graph, RunDir.of(done).graph.read_bytes()
    monkeypatch.setattr(room, "partition_graph", lambda *_: pytest.fail("prepared what somebody else was preparing"))
    lease = RunDir.of(job).graph_lease(identity.request_key(job))
    held, finish = threading.Event(), threading.Event()

    def somebody_else() -> None:
        with leases.hold(lease):
            held.set()
            finish.wait()
            graph.parent.mkdir()
            graph.write_bytes(content)

    other = threading.Thread(target=somebody_else)
    other.start()
    held.wait()
    threading.Timer(0.1, finish.set).start()
    room.prepare(job, runs.ALONE, runs.QUIET)
    other.join()
    assert graph.read_bytes() == content


def test_what_was_made_just_before_the_lease_was_ours_is_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = runs.prepare_run(tmp_path / "done")
    job = runs.job_in(tmp_path / "late", f"graph.source={done.graph.source}")
    graph, content, hold = RunDir.of(job).graph, RunDir.of(done).graph.read_bytes(), leases.hold

    def hold_late(path: Path, *rest: Any) -> AbstractContextManager[Lease | None]:
        graph.parent.mkdir(parents=True)
        graph.write_bytes(content)
        return hold(path, *rest)

    monkeypatch.setattr(leases, "hold", hold_late)
    monkeypatch.setattr(room, "partition_graph", lambda *_: pytest.fail("prepared what somebody else had prepared"))
    room.prepare(job, runs.ALONE, runs.QUIET)
    assert graph.read_bytes() == content


def test_the_resolved_job_is_kept_with_the_run(job: Job) -> None:
    room.note_job(job)
    assert jobs.load(str(RunDir.of(job).job)) == job
    other = runs.change_job(job, "train.epochs=3")
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


def another(job: Job, name: str, *overrides: str) -> Job:
    return runs.change_job(job, f"name={name}", *overrides)


def prepare_quietly(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepare a job whose graph need not be made."""
    with monkeypatch.context() as patch:
        patch.setattr(room, "partition_graph", lambda *_: pytest.fail("made what is there"))
        room.prepare(job, runs.ALONE, runs.QUIET)


def test_jobs_that_want_the_same_graph_share_one_file(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    other = another(job, "other", "model.hidden=8", "train.epochs=1", "soup.seed=4")
    prepare_quietly(other, monkeypatch)
    one, two = RunDir.of(job).graph, RunDir.of(other).graph
    assert one.stat().st_ino == two.stat().st_ino
    shutil.rmtree(one.parent)
    with graph_store.open_graph(two, other, verify=True) as graph:
        assert graph.nodes == tiny.NODES


def test_jobs_that_want_other_parts_do_not_overwrite_each_other(job: Job) -> None:
    before = RunDir.of(job).graph.read_bytes()
    other = another(job, "other", "partition.parts=4")
    room.prepare(other, runs.ALONE, runs.QUIET)
    assert RunDir.of(job).graph.read_bytes() == before
    with graph_store.open_graph(RunDir.of(other).graph, other) as graph:
        assert graph.parts == 4


def test_making_a_graph_again_leaves_other_runs_theirs(job: Job) -> None:
    other = another(job, "other")
    room.prepare(other, runs.ALONE, runs.QUIET)
    before = RunDir.of(other).graph.stat()
    room.prepare(job, runs.ALONE, runs.QUIET, again=True)
    assert RunDir.of(other).graph.stat().st_ino == before.st_ino != RunDir.of(job).graph.stat().st_ino


def shared_by(job: Job) -> Path:
    """The only graph that runs share."""
    (shared,) = RunDir.of(job).shared_graphs.glob("*.h5")
    return shared


@pytest.mark.parametrize("hurt", ["damaged", "truncated", "no HDF5"])
def test_a_shared_graph_that_is_not_right_is_made_again(hurt: str, job: Job) -> None:
    shared = shared_by(job)
    whole = shared.read_bytes()
    RunDir.of(job).graph.unlink()
    ways = {"damaged": whole[:5000] + b"?" + whole[5001:], "truncated": whole[:-100], "no HDF5": b"x" * 2000}
    shared.write_bytes(ways[hurt])
    other = another(job, "other")
    said: list[str] = []
    log = Log()
    log.say = said.append  # type: ignore[method-assign]
    room.prepare(other, runs.ALONE, log)
    assert any("made again" in line for line in said)
    with graph_store.open_graph(RunDir.of(other).graph, other, verify=True) as graph:
        assert graph.nodes == tiny.NODES


def test_where_there_are_no_hard_links_a_run_gets_a_copy(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    other = another(job, "other")
    link = os.link

    def refuse(source: Path, target: Path) -> None:
        if str(source).endswith(".h5"):
            raise OSError(1, "Operation not permitted")
        link(source, target)

    monkeypatch.setattr(os, "link", refuse)
    prepare_quietly(other, monkeypatch)
    one, two = RunDir.of(job).graph, RunDir.of(other).graph
    assert one.stat().st_ino != two.stat().st_ino
    assert one.read_bytes() == two.read_bytes()


def test_scratch_folders_of_the_dead_are_swept_and_none_is_left(tmp_path: Path) -> None:
    job = runs.job_in(tmp_path)
    request = RunDir.of(job).shared_graph(identity.request_key(job))
    ours = processes.private_name(request, "scratch")
    dead = ours.with_name(ours.name.removesuffix(str(os.getpid())) + "999999999")
    dead.mkdir(parents=True)
    (dead / "features").write_bytes(b"x")
    room.prepare(job, runs.ALONE, runs.QUIET)
    assert list(request.parent.iterdir()) == [shared_by(job)]


def test_metis_in_a_process_of_its_own_cuts_the_same(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "ENTRIES_TO_CUT_APART", 0)
    other = runs.prepare_run(tmp_path / "apart")
    with (
        graph_store.open_graph(RunDir.of(job).graph, job) as one,
        graph_store.open_graph(RunDir.of(other).graph, other) as two,
    ):
        assert one.cut["part_sha256"] == two.cut["part_sha256"]
        assert two.measurement["peak_host_bytes"] > one.measurement["peak_host_bytes"] + 5e6  # the child's is counted


def test_metis_that_dies_is_said_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "ENTRIES_TO_CUT_APART", 0)
    job = runs.job_in(tmp_path)
    script = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    monkeypatch.setattr(partition, "COMMAND", (sys.executable, "-c", script))
    with pytest.raises(PartError, match=r"METIS ended with exit code -9; .*more memory"):
        room.prepare(job, runs.ALONE, runs.QUIET)
    assert not list(RunDir.of(job).shared_graph("x").parent.iterdir())
    assert not RunDir.of(job).graph.exists()


def test_blocks_do_not_matter(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Features and edges in pieces of a few rows make the same file as all at once."""
    monkeypatch.setattr(out_of_core, "BLOCK_BYTES", 400)
    monkeypatch.setattr(transforms, "BLOCK_BYTES", 700)
    monkeypatch.setattr(graph_store, "ENTRIES", 50)
    other = runs.prepare_run(tmp_path / "pieces")
    with (
        graph_store.open_graph(RunDir.of(job).graph, job) as one,
        graph_store.open_graph(RunDir.of(other).graph, other) as two,
    ):
        for name in ("nodes/y", "nodes/original_id", "edges/indptr", "edges/indices", "parts/ptr"):
            assert np.array_equal(one.file[name][:], two.file[name][:]), name
        np.testing.assert_allclose(one.file["nodes/x"][:], two.file["nodes/x"][:], rtol=1e-5, atol=1e-6)
        for name in ("edge_cut", "undirected_edges", "balance"):
            assert one.cut[name] == two.cut[name]


def test_a_source_that_has_changed_is_refused(tmp_path: Path) -> None:
    """Bare training on it would answer for a graph that is no longer the user's."""
    job = runs.prepare_run(tmp_path)
    runs.begin_to_train(job)
    np.savez(tmp_path / "tiny.npz", **tiny.planted(seed=1))
    with pytest.raises(RunError, match=r"tiny.npz has changed since .*graph.h5 was made from it"):
        room.prepare(job, runs.ALONE, runs.QUIET)
    room.prepare(job, runs.ALONE, runs.QUIET, again=True)
    (tmp_path / "tiny.npz").unlink()
    room.prepare(job, runs.ALONE, runs.QUIET)


def test_what_was_done_with_a_source_is_said_and_kept(tmp_path: Path) -> None:
    job = runs.job_in(tmp_path, "graph.edge_weight=ignore", "graph.split=auto")
    arrays = tiny.planted()
    masks = {f"{name}_mask": np.arange(tiny.NODES) % 3 == k for k, name in enumerate(("train", "val", "test"))}
    weights = {"edge_weight": np.linspace(0.0, 1.0, arrays["edge_index"].shape[1])}
    np.savez(tmp_path / "tiny.npz", **arrays, **masks, **weights, pos=arrays["x"])
    said: list[str] = []
    log = Log()
    log.say = said.append  # type: ignore[method-assign]
    room.prepare(job, runs.ALONE, log)
    third = tiny.NODES // 3
    assert f"prepare: {third} nodes to train, {third} to validate, {third} to test; split: stored masks" in said
    notes = ("edge_weight is ignored (graph.edge_weight = 'ignore')", "not used: pos")
    assert [f"prepare: {note}" for note in notes] == [line for line in said if "edge_weight" in line or "pos" in line]
    with graph_store.open_graph(RunDir.of(job).graph, job, verify=True) as graph:
        assert (graph.split, graph.notes) == ("stored masks", notes)


def test_features_that_float32_does_not_hold_leave_no_graph(tmp_path: Path) -> None:
    job = runs.job_in(tmp_path, "graph.features=none")
    arrays = tiny.planted()
    np.savez(tmp_path / "tiny.npz", **arrays | {"x": arrays["x"].astype(np.float64) * 1e40})
    with pytest.raises(GraphError, match=r"^npz:.*tiny.npz: x has a value that float32 does not hold"):
        room.prepare(job, runs.ALONE, runs.QUIET)
    assert not RunDir.of(job).graph.exists()
    assert not list(RunDir.of(job).shared_graph("x").parent.iterdir())
