"""Checkpoint files: round trip, small and large, what they are refused for, and that a failed one changes nothing."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gnnsoup_hpc.config import Job
from gnnsoup_hpc.config.turns import Hyperparameters
from gnnsoup_hpc.errors import FileError, ForeignFileError, RunError
from gnnsoup_hpc.io import ingredient as store
from gnnsoup_hpc.io.ingredient import BestEpoch, Checkpoint, Origin
from gnnsoup_hpc.io.records import Epoch
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.runtime.profiling import QUANTITIES, Measurement
from gnnsoup_hpc.types import State
from tests.arbitrary import normal
from tests.faults import kit

JOB = Job(name="x")
NET = Architecture("gat", 2, 4, 8, 3, 2)
ORIGIN = Origin("a" * 64, "b" * 64, NET, "full", 0, 2, Hyperparameters(9, 0.01, 0.0, 0.5))
TRUNK = replace(ORIGIN, index=None)


def state(seed: int) -> State:
    return {name: normal(seed, *shape, kind=torch.float32) for name, shape in NET.shapes().items()}


def checkpoint() -> Checkpoint:
    return Checkpoint(
        history=tuple(Epoch(number, 1.0 / number, 0.1 * number, 0.5) for number in (1, 2, 3)),
        state=state(1),
        steps=dict.fromkeys(NET.shapes(), 6.0),
        mean=state(2),
        square=state(3),
        generator=torch.Generator().manual_seed(5).get_state(),
        device="cpu",
        best=BestEpoch(2, 0.2, state(4)),
        measurement=Measurement({name: float(number) for number, name in enumerate(QUANTITIES)}),
    )


def same(one: Checkpoint, other: Checkpoint) -> bool:
    """Equal to the bit; the order of parameters too, for Adam knows them by their place."""
    for name in ("state", "mean", "square"):
        ours, theirs = getattr(one, name), getattr(other, name)
        if list(ours) != list(theirs) or not all(torch.equal(ours[key], theirs[key]) for key in ours):
            return False
    tensors = {"state": {}, "mean": {}, "square": {}, "generator": torch.empty(0), "best": None}
    bests = [each.best and (each.best.epoch, each.best.accuracy) for each in (one, other)]
    weights = [{} if each.best is None else each.best.state for each in (one, other)]
    return (
        replace(one, **tensors) == replace(other, **tensors)
        and torch.equal(one.generator, other.generator)
        and bests[0] == bests[1]
        and list(weights[0]) == list(weights[1])
        and all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    store.write_checkpoint(tmp_path / "work.h5", checkpoint(), ORIGIN, JOB, rank=1)
    return tmp_path / "work.h5"


def test_a_checkpoint_comes_back_as_it_went(path: Path) -> None:
    assert same(store.read_checkpoint(path, ORIGIN), checkpoint())
    assert not same(store.read_checkpoint(path, ORIGIN), replace(checkpoint(), mean=state(9)))


@pytest.mark.parametrize("best", [None, BestEpoch(1, 0.5, state(7))])
def test_there_may_be_no_best_epoch(path: Path, best: BestEpoch | None) -> None:
    store.write_checkpoint(path, replace(checkpoint(), best=best), TRUNK, JOB)
    assert same(store.read_checkpoint(path, TRUNK), replace(checkpoint(), best=best))


def test_a_large_one_is_built_on_the_disk_and_reads_the_same(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "IN_MEMORY_BYTES", 0)
    small = path.stat().st_size
    store.write_checkpoint(path, checkpoint(), ORIGIN, JOB)
    assert same(store.read_checkpoint(path, ORIGIN), checkpoint())
    assert path.stat().st_size < 2 * small


def test_one_of_another_recipe_is_foreign(path: Path) -> None:
    other = replace(ORIGIN, hyperparameters=replace(ORIGIN.hyperparameters, dropout=0.25))
    with pytest.raises(
        ForeignFileError, match=r"work.h5 is of another recipe: train.dropout was 0.5, the job says 0.25"
    ):
        store.read_checkpoint(path, other)
    with pytest.raises(ForeignFileError, match="of another recipe"):
        store.read_checkpoint(path, TRUNK)


@pytest.mark.parametrize("position", np.linspace(0.0, 1.0, 12).tolist())
def test_any_flipped_bit_is_found(path: Path, position: float) -> None:
    kit.flip(path, position)
    with pytest.raises(FileError, match=r"work\.h5 is "):
        store.read_checkpoint(path, ORIGIN)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_one_is_found(path: Path, share: float) -> None:
    kit.truncate(path, share)
    with pytest.raises(FileError, match=r"work\.h5 is "):
        store.read_checkpoint(path, ORIGIN)


def test_one_that_cannot_be_written_leaves_the_last_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="No space left on device"):
        store.write_checkpoint(path, replace(checkpoint(), mean=state(9)), ORIGIN, JOB)
    assert same(store.read_checkpoint(path, ORIGIN), checkpoint())
    assert list(path.parent.iterdir()) == [path]
