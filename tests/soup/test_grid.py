"""Sweeps of training: runs that ranks share, ingredients souped across runs, what is said of them."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch

import gnnsoup_hpc as gs
from gnnsoup_hpc.__main__ import main
from gnnsoup_hpc.analysis.status.read import read_status
from gnnsoup_hpc.analysis.status.table import show_status
from gnnsoup_hpc.cli.report import report
from gnnsoup_hpc.config import Job
from gnnsoup_hpc.config.grid import expand_grid, list_groups
from gnnsoup_hpc.errors import IngredientsError, JobError, MemoryLimitError, Preempted, RunError
from gnnsoup_hpc.io import imports, states
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io import report as report_store
from gnnsoup_hpc.io import soup as soup_store
from gnnsoup_hpc.runtime.launch import RankInfo
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.train import runner
from gnnsoup_hpc.train.imports import import_all
from gnnsoup_hpc.train.loop import Training
from gnnsoup_hpc.train.runner import train_all
from tests import runs
from tests.faults import kit
from tests.once import make_once

SHORT = ("train.epochs=2", "train.ingredients=1", "soup.diagnose=false", 'soup.methods=["best", "uniform", "gis"]')
RATES = "sweep.train.learning_rate=[0.02, 0.05]"
SWEEP = (*SHORT, RATES, "sweep.model.hidden=[8, 16]")
NAMES = [f"hidden-{width}_learning_rate-{rate}" for width in (8, 16) for rate in (0.02, 0.05)]


def ingredients(job: Job) -> list[Path]:
    """Files of all runs of a sweep, in their order."""
    found = (RunDir.of(each.job).ingredient(n) for each in expand_grid(job) for n in range(each.job.train.ingredients))
    return list(found)


@pytest.fixture(scope="session")
def souped(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A sweep of two rates and two widths, trained and souped; not to be changed."""

    def make(folder: Path) -> None:
        runs.soup_run(runs.train_run(folder, *SWEEP))

    return runs.load_job(make_once(tmp_path_factory, "souped-grid", make), *SWEEP)


@pytest.fixture
def copy(souped: Job, tmp_path: Path) -> Job:
    return runs.copy_run(souped, tmp_path)


@pytest.fixture
def prepared(souped: Job, tmp_path: Path) -> Job:
    """The same before any training."""
    job = runs.copy_run(souped, tmp_path)
    for folder in ("grid", "groups"):
        shutil.rmtree(RunDir.of(job).root / folder)
    return job


def test_an_ingredient_of_a_run_is_that_of_the_ordinary_job(souped: Job, tmp_path: Path) -> None:
    run = expand_grid(souped)[1]
    plain = runs.train_run(tmp_path, *SHORT, "train.learning_rate=0.05", "model.hidden=8")
    ours, theirs = RunDir.of(run.job).ingredient(0), RunDir.of(plain).ingredient(0)
    assert kit.content(ours) == kit.content(theirs)
    assert ingredient_store.origin(ours)["train.learning_rate"] == 0.05
    shared = {name for name, value in ingredient_store.origin(ours).items() if name != "graph_sha256"}
    assert {name: ingredient_store.origin(ours)[name] for name in shared} == {
        name: ingredient_store.origin(theirs)[name] for name in shared
    }


def test_two_ranks_share_all_runs_and_go_on_where_one_was_stopped(
    souped: Job, prepared: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    epoch, done, alone = Training.epoch, list[str](), threading.Lock()
    here = replace(runs.ALONE)
    here = replace(here, stop=type(here.stop)())

    def stopping(training: Training) -> Any:
        done.append(threading.current_thread().name)
        if len(done) == 3:  # in the middle of the second run
            here.stop.asked = True
        return epoch(training)

    monkeypatch.setattr(Training, "epoch", stopping)
    with pytest.raises(Preempted, match=f"{NAMES[1]}/ingredient 0000 is kept after epoch 1"):
        train_all(prepared, here, runs.CPU, Log(quiet=True, stop=here.stop))
    assert [path.exists() for path in ingredients(prepared)] == [True, False, False, False]
