"""Checkpoints: what goes on from one equals what nobody disturbed, bit for bit; what is not right is never used."""

from __future__ import annotations

import gc
import itertools
import math
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import h5py
import pytest
import torch

from gnnsoup_hpc.config import Job
from gnnsoup_hpc.errors import Preempted, RunError
from gnnsoup_hpc.graph import sampling
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io.ingredient import Checkpoint
from gnnsoup_hpc.io.records import Epoch
from gnnsoup_hpc.runtime.leases import Lease
from gnnsoup_hpc.runtime.profiling import QUANTITIES, Measurement, combine
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.train import checkpointing
from gnnsoup_hpc.train.loop import Training
from gnnsoup_hpc.train.runner import train_all
from tests import runs
from tests.faults import kit

EPOCHS = 4
ONE = (f"train.epochs={EPOCHS}", "train.ingredients=1")
CLUSTER = ("train.batch=cluster", "train.clusters=3")
NEIGHBOUR = ("train.batch=neighbour", "train.batch_size=50", "train.fanout=[4, 3]", "train.sampler=own")
WAYS = {
    "seldom": ("train.validate_every=2",),
    "full": (),
    "edges": ("train.drop_edges=0.3", "train.weight_decay=0.01", "train.bag=0.5"),
    "cluster": (*CLUSTER, "train.drop_edges=0.2", "train.drop_features=0.2"),
    "neighbour": NEIGHBOUR,
    "pyg": (*NEIGHBOUR[:-1], "train.sampler=pyg"),
    "ema": ("train.optimiser=adamw", "train.schedule=cosine", "train.clip_norm=0.1", "train.average=ema", *CLUSTER),
    "swa": ("train.warmup_epochs=2", "train.average=swa", "train.average_from=0.2"),
    "shared draws": ('train.shared_draws=["dropout", "order"]', *CLUSTER),
}
Captured = pytest.CaptureFixture[str]


class Interrupter:
    """Sends this process a real signal at the end of chosen epochs, counted from where a training goes on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.after, self.done = math.inf, 0
        epoch = Training.epoch

        def interrupted(training: Training) -> Epoch:
            outcome = epoch(training)
            self.done += 1
            if self.done == self.after:
                signal.raise_signal(signal.SIGUSR1)
                signal.raise_signal(signal.SIGUSR1)  # again, for nothing
            return outcome

        monkeypatch.setattr(Training, "epoch", interrupted)

    def stop(self, job: Job, after: int, quiet: bool = True) -> str:
        """Train until that many epochs are done; the error's text."""
        here = replace(runs.ALONE)
        here = replace(here, stop=type(here.stop)())
        self.after, self.done = after, 0
        with here.stop.heard(), pytest.raises(Preempted) as ended:
            train_all(job, here, runs.CPU, Log(quiet=quiet, stop=here.stop))
        self.after = math.inf
        return str(ended.value)


@pytest.fixture(autouse=True)
def _no_search_for_garbage(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it frees is of no interest here, and the search takes most of a short training's time."""
    monkeypatch.setattr(gc, "collect", lambda: 0)


@pytest.fixture
def interrupter(monkeypatch: pytest.MonkeyPatch) -> Interrupter:
    return Interrupter(monkeypatch)


@pytest.fixture
def prepared(tmp_path: Path) -> Iterator[Job]:
    return runs.prepare_run(tmp_path / "disturbed", *ONE)


def content(job: Job, index: int = 0) -> str:
    return kit.content(RunDir.of(job).ingredient(index))


def checkpoint(job: Job, work: str = "ingredient-0000") -> Path:
    return RunDir.of(job).checkpoint(work)


def undisturbed(job: Job, folder: Path) -> str:
    """What the job's ingredient 0 is where nobody disturbs its training; nothing is kept of it."""
    quiet = runs.copy_run(job, folder)
    shutil.rmtree(RunDir.of(quiet).root / "checkpoints", ignore_errors=True)
    runs.train(quiet)
    return content(quiet)


@pytest.mark.parametrize(
    ("way", "kind", "heads", "norm"),
    [
        *((way, "sage", 1, "layer") for way in WAYS),
        ("edges", "gcn", 1, "none"),
        ("cluster", "gat", 2, "none"),
        *((way, "gcn", 1, "batch") for way in ("full", "swa")),
        *((way, "gin", 1, "batch") for way in ("ema", "neighbour")),
    ],
)
def test_an_ingredient_stopped_after_every_epoch_is_the_undisturbed_one(
    way: str, kind: str, heads: int, norm: str, tmp_path: Path, interrupter: Interrupter
) -> None:
    if way == "pyg" and not sampling.has_pyg_sampler():
        pytest.skip("neither pyg-lib nor torch-sparse is installed")
    job = runs.prepare_run(tmp_path / "a", *ONE, *WAYS[way], kind=kind, heads=heads, norm=norm)
    wanted = undisturbed(job, tmp_path / "b")
    for epoch in range(1, EPOCHS + 1):
        assert f"kept after epoch {epoch} in {checkpoint(job)}" in interrupter.stop(job, 1)
    runs.train(job)
    assert interrupter.done == 1  # the last session had nothing to train
    assert content(job) == wanted
    assert not checkpoint(job).exists()


@pytest.mark.parametrize("epoch", range(1, EPOCHS + 1))
def test_an_ingredient_goes_on_from_any_epoch(
    epoch: int, prepared: Job, tmp_path: Path, interrupter: Interrupter
) -> None:
    wanted = undisturbed(prepared, tmp_path / "b")
    interrupter.stop(prepared, epoch)
    interrupter.done = 0
    runs.train(prepared)
    assert interrupter.done == EPOCHS - epoch
    assert content(prepared) == wanted
    found = ingredient_store.read(RunDir.of(prepared).ingredient(0))
    assert [each.epoch for each in found.history] == list(range(1, EPOCHS + 1))
    assert found.measurement["seconds"] >= sum(each.seconds for each in found.history)  # of both sessions


def test_without_dropout_the_generator_does_not_matter(tmp_path: Path, interrupter: Interrupter) -> None:
    job = runs.prepare_run(tmp_path / "a", *ONE, "train.dropout=0")
    wanted = undisturbed(job, tmp_path / "b")
    interrupter.stop(job, 2)
    runs.train(job)
    assert content(job) == wanted


def test_an_ingredient_that_goes_on_from_another_goes_on_too(tmp_path: Path, interrupter: Interrupter) -> None:
    snapshots = ("train.ingredients=2", "train.start=snapshots", "train.schedule=cosine")
    job = runs.prepare_run(tmp_path / "a", ONE[0], *snapshots)
    quiet = runs.copy_run(job, tmp_path / "b")
    runs.train(quiet)
    assert "ingredient 0001 is kept after epoch 2" in interrupter.stop(job, EPOCHS + 2)
    interrupter.done = 0
    runs.train(job)
    assert interrupter.done == EPOCHS - 2
    assert [content(job, index) for index in range(2)] == [content(quiet, index) for index in range(2)]


def test_a_trunk_goes_on_too(tmp_path: Path, interrupter: Interrupter) -> None:
    job = runs.prepare_run(tmp_path / "a", *ONE, "train.trunk_epochs=4")
    quiet = runs.copy_run(job, tmp_path / "b")
    runs.train(quiet)
    for _ in range(4):
        assert "the trunk is kept after epoch" in interrupter.stop(job, 1)
    runs.train(job)
    one, other = (ingredient_store.read_trunk(RunDir.of(each).trunk) for each in (job, quiet))
    assert all(torch.equal(one.state[name], other.state[name]) for name in other.state)
    assert [replace(e, seconds=0.0) for e in one.history] == [replace(e, seconds=0.0) for e in other.history]
    assert content(job) == content(quiet)
    assert not checkpoint(job, "trunk").exists()


def test_a_best_epoch_before_the_checkpoint_is_kept(tmp_path: Path, interrupter: Interrupter) -> None:
    """At this rate and with these masks accuracy falls after the first epochs."""
    job = runs.prepare_run(tmp_path / "a", *ONE, "train.learning_rate=3.0", "train.engine=torch")
    wanted = undisturbed(job, tmp_path / "b")
    interrupter.stop(job, 3)
    runs.train(job)
    assert content(job) == wanted
    assert ingredient_store.read(RunDir.of(job).ingredient(0)).best_epoch < 3


def test_checkpoints_are_written_as_time_goes_by(prepared: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    write = checkpointing.ingredient_store.write_checkpoint

    def noted(path: Path, kept: Checkpoint, *words: object, **more: object) -> None:
        written.append(len(kept.history))
        write(path, kept, *words, **more)

    monkeypatch.setattr(checkpointing.ingredient_store, "write_checkpoint", noted)
    for seconds, epochs in ((1.0, [1, 2, 3]), (50.0, [2]), (0.0, []), (1e9, [])):  # what is over is published instead
        looks = itertools.count(0.0, 20.0)
        monkeypatch.setattr(checkpointing, "time", SimpleNamespace(monotonic=partial(next, looks)))
        runs.train(job := runs.change_job(prepared, f"train.checkpoint_seconds={seconds}"))
        RunDir.of(job).ingredient(0).unlink()
        assert written == epochs, seconds
        written.clear()


def test_how_often_is_no_part_of_a_recipe(prepared: Job, interrupter: Interrupter) -> None:
    interrupter.stop(prepared, 2)
    interrupter.done = 0
    runs.train(runs.change_job(prepared, "train.checkpoint_seconds=0"))
    assert interrupter.done == EPOCHS - 2
    runs.train(runs.change_job(prepared, "train.checkpoint_seconds=7.5"))  # refuses nothing


@pytest.mark.parametrize("position", [0.0, 0.02, 0.5, 1.0])
def test_a_damaged_checkpoint_is_said_and_not_used(
    position: float, prepared: Job, tmp_path: Path, interrupter: Interrupter, capsys: Captured
) -> None:
    wanted = undisturbed(prepared, tmp_path / "b")
    interrupter.stop(prepared, 3)
    kit.flip(checkpoint(prepared), position)
    interrupter.done = 0
    train_all(prepared, runs.ALONE, runs.CPU, Log())
    assert f"{checkpoint(prepared)} is " in (said := capsys.readouterr().out)
    assert "ingredient 0000 begins anew" in said
    assert interrupter.done == EPOCHS
    assert content(prepared) == wanted
    assert not checkpoint(prepared).exists()


@pytest.mark.parametrize("override", ["train.epochs=3", "train.dropout=0.25", "train.weight_decay=0.5"])
def test_a_checkpoint_of_another_recipe_is_said_and_not_used(
    override: str, prepared: Job, tmp_path: Path, interrupter: Interrupter, capsys: Captured
) -> None:
    interrupter.stop(prepared, 2)
    other = runs.change_job(prepared, override)
    train_all(other, runs.ALONE, runs.CPU, Log())
    said = capsys.readouterr().out
    assert f"{checkpoint(prepared)} is of another recipe: {override.split('=')[0]} was" in said
    assert "ingredient 0000 begins anew" in said
    assert content(other) == undisturbed(runs.prepare_run(tmp_path / "c", *ONE, override), tmp_path / "d")


def test_a_checkpoint_of_another_ingredient_is_not_used(tmp_path: Path, interrupter: Interrupter) -> None:
    job = runs.prepare_run(tmp_path / "a", ONE[0], "train.ingredients=2")
    interrupter.stop(job, 2)
    shutil.copy(checkpoint(job), checkpoint(job, "ingredient-0001"))
    interrupter.done = 0
    runs.train(job)
    assert interrupter.done == EPOCHS - 2 + EPOCHS
    assert content(job, 0) != content(job, 1)


def test_a_checkpoint_of_another_kind_of_device_is_not_used(
    prepared: Job, interrupter: Interrupter, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU's generator has another state."""
    made = Training.checkpoint
    with monkeypatch.context() as patch:
        patch.setattr(Training, "checkpoint", lambda training, spent: replace(made(training, spent), device="cuda"))
        interrupter.stop(prepared, 2)
    interrupter.done = 0
    train_all(prepared, runs.ALONE, runs.CPU, Log())
    assert "is of a training on cuda, and this is cpu" in capsys.readouterr().out
    assert interrupter.done == EPOCHS


def test_a_checkpoint_that_cannot_be_written_is_said_once_and_training_goes_on(
    prepared: Job, capsys: Captured, monkeypatch: pytest.MonkeyPatch, interrupter: Interrupter
) -> None:
    def full(*_: object, **__: object) -> None:
        raise RunError("there cannot be written: No space left on device")

    monkeypatch.setattr(checkpointing.ingredient_store, "write_checkpoint", full)
    often = runs.change_job(prepared, "train.checkpoint_seconds=1e-9")
    train_all(often, runs.ALONE, runs.CPU, Log())
    said = capsys.readouterr().out
    assert said.count("No space left on device") == 1
    assert "Training goes on" in said
    assert "ingredient 0000 done" in said
    RunDir.of(often).ingredient(0).unlink()
    told = interrupter.stop(often, 3)
    assert "of 3 epochs of ingredient 0000 nothing is kept, for there cannot be written: No space left" in told


def test_what_a_kill_left_of_a_finished_ingredient_is_taken_away(prepared: Job, interrupter: Interrupter) -> None:
    interrupter.stop(prepared, 2)
    left = checkpoint(prepared).read_bytes()
    runs.train(prepared)
    checkpoint(prepared).write_bytes(left)
    runs.train(prepared)
    assert not checkpoint(prepared).exists()


def test_whoever_lost_its_lease_lets_the_other_train(
    prepared: Job, capsys: Captured, monkeypatch: pytest.MonkeyPatch, interrupter: Interrupter
) -> None:
    """A process that was suspended comes back in the middle of an epoch, and finds another one at its work."""
    lost = iter([False, False, True])
    monkeypatch.setattr(Lease, "lost", property(lambda _: next(lost, False)))
    train_all(prepared, runs.ALONE, runs.CPU, Log())
    assert "ingredient-0000 was taken over by" in capsys.readouterr().out
    assert interrupter.done == 2 + EPOCHS  # the other one is gone, and it begins again


def test_seconds_add_up_and_the_higher_peak_counts() -> None:
    def spent(seconds: float, peak: float, baseline: float) -> Measurement:
        values = dict.fromkeys(QUANTITIES, math.nan)
        times = {name: seconds for name in QUANTITIES if name.startswith("seconds")}
        return Measurement(values | times | {"peak_host_bytes": peak, "baseline_host_bytes": baseline})

    for one, other in ((spent(1.0, 9.0, 3.0), spent(2.0, 5.0, 4.0)), (spent(2.0, 5.0, 4.0), spent(1.0, 9.0, 3.0))):
        both = combine(one, other)
        assert (both["seconds"], both["seconds_compute"]) == (3.0, 3.0)
        assert (both["peak_host_bytes"], both["baseline_host_bytes"]) == (9.0, 3.0)
        assert math.isnan(both["peak_device_bytes"])


def test_a_checkpoint_says_what_it_is(prepared: Job, interrupter: Interrupter) -> None:
    interrupter.stop(prepared, 2)
    with h5py.File(checkpoint(prepared)) as file:
        assert file.attrs["format"] == "gnnsoup_hpc/checkpoint"
        assert (file.attrs["format_version"], file.attrs["epoch"]) == (1, 2)
        assert file["history/epoch"][:].tolist() == [1, 2]
        assert file["adam/mean"].keys() == file["adam/square"].keys() == file["state"].keys()
        assert file["adam/steps"][:].tolist() == [2.0] * len(file["state"])
        assert file["generator"].attrs["device"] == "cpu"
        assert 1 <= file["best"].attrs["epoch"] <= 2
