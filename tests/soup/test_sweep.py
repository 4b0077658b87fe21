"""Sweeps: trials are made once by whoever comes first, the best on validation is the soup, all are reported."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from gnnsoup_hpc.analysis.status.read import read_status
from gnnsoup_hpc.cli.report import report
from gnnsoup_hpc.config import Job, expand_grids
from gnnsoup_hpc.errors import DivergedError, MemoryLimitError, Preempted, RunError
from gnnsoup_hpc.io import soup as soup_store
from gnnsoup_hpc.io import teacher as teacher_store
from gnnsoup_hpc.io.records import MixingWeights
from gnnsoup_hpc.runtime import processes, status_files
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.runtime.signals import PreemptionHandler
from gnnsoup_hpc.soup import distillation
from gnnsoup_hpc.soup.context import SoupContext
from gnnsoup_hpc.soup.methods.learned import PartitionLearned
from tests import runs
from tests.faults import kit
from tests.faults.kit import JOB, Workdir, succeeds
from tests.processes import GUARD, plant, start
from tests.soup.test_distil import Stopping

METHODS = 'soup.methods=["best", "gis", "pls"]'
SWEEP = ("sweep.seed=[0, 1]", "sweep.pls.union=[2, 3]", "sweep.gis.granularity=[3, 5]")
WORDS = tuple(word for override in (METHODS, *SWEEP) for word in ("--set", override))


def make_soups(job: Job, *overrides: str) -> tuple[Job, RunDir]:
    job = runs.change_job(job, METHODS, "soup.diagnose=false", *overrides)
    return runs.soup_run(job), RunDir.of(job)


@pytest.fixture
def job(trained: Job, tmp_path: Path) -> Job:
    return runs.copy_run(trained, tmp_path)


@pytest.fixture(scope="module")
def swept(trained: Job, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A run with a sweep; not to be changed."""
    return make_soups(runs.copy_run(trained, tmp_path_factory.mktemp("swept")), *SWEEP)[0]


def cells(run: RunDir, method: str = "pls") -> dict[str, Path]:
    return {path.stem: path for path in run.cells(method).iterdir()}


def table(path: Path, name: str) -> dict[str, Any]:
    with h5py.File(path) as file:
        group = file[name]
        return {
            column: group[column].asstr()[:] if group[column].dtype.kind == "O" else group[column][:]
            for column in group.attrs["columns"]
        }


def test_a_sweep_of_one_cell_is_the_plain_soup(job: Job, tmp_path: Path) -> None:
    _, plain = make_soups(runs.copy_run(job, tmp_path / "plain"), "soup.pls.union=2", "soup.seed=5")
    _, run = make_soups(job, "sweep.pls.union=[2]", "sweep.seed=[5]")
    found, wanted = (soup_store.read(r.soup("pls")) for r in (run, plain))
    assert found.options == wanted.options
    assert (found.mixture.alpha == wanted.mixture.alpha).all()
    assert (found.validation_accuracy, found.test_accuracy) == (wanted.validation_accuracy, wanted.test_accuracy)
    assert found.mixture.history[-1].loss == wanted.mixture.history[-1].loss
    assert found.counts == wanted.counts


def test_every_cell_is_the_soup_of_its_own_job(swept: Job, job: Job) -> None:
    made = [soup_store.read(path) for path in cells(RunDir.of(swept)).values()]
    assert len(made) == 4
    for soup in made:
        options = (f"soup.seed={soup.options['seed']}", f"soup.pls.union={soup.options['union']}")
        wanted = soup_store.read(make_soups(job, *options)[1].soup("pls"))
        assert (soup.mixture.alpha == wanted.mixture.alpha).all()


def test_the_cell_with_the_highest_validation_accuracy_is_the_soup(swept: Job) -> None:
    run = RunDir.of(swept)
    for method, grid in expand_grids(swept).items():
        made = {path: soup_store.read(path) for path in cells(run, method).values()}
        assert len(made) == len(grid)
        chosen = soup_store.read(run.soup(method))
        assert chosen.validation_accuracy == max(soup.validation_accuracy for soup in made.values())
        assert run.soup(method).read_bytes() in [path.read_bytes() for path in made]


def test_of_equals_the_first_in_the_order_of_the_lists_is_chosen(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """All cells are the best ingredient; and by validation alone, whatever the test accuracies are."""

    def run(self: PartitionLearned, context: SoupContext) -> MixingWeights:
        alpha = np.eye(3)[[0 if self.options.union == 2 else 1]]
        return MixingWeights(runs.torch.from_numpy(alpha), ("model",))

    monkeypatch.setattr(PartitionLearned, "run", run)
    _, run = make_soups(job, "sweep.pls.union=[3, 2]", "sweep.seed=[7, 6]")
    made = [soup_store.read(path) for path in cells(run).values()]
    best = max(soup.validation_accuracy for soup in made)
    first = next(u for u in (3, 2) if any(s.options["union"] == u and s.validation_accuracy == best for s in made))
    chosen = soup_store.read(run.soup("pls")).options
    assert (chosen["seed"], chosen["union"]) == (7, first)


def test_cells_that_are_there_are_not_made_again(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    _, run = make_soups(job, *SWEEP)
    before = {path: path.read_bytes() for path in (*cells(run).values(), run.soup("pls"))}
    lost = next(iter(cells(run).values()))
    lost.unlink()
    made: list[int] = []
    real = PartitionLearned.run
    monkeypatch.setattr(PartitionLearned, "run", lambda self, context: (made.append(1), real(self, context))[1])
    make_soups(job, *SWEEP)
    assert len(made) == 1
    assert {path: path.read_bytes() == content for path, content in before.items() if path != lost} == {
        path: True for path in before if path != lost
    }
    make_soups(job, *SWEEP, "sweep.pls.union=[2, 3, 4]")
    assert len(made) == 3  # two seeds of the new value


def test_again_makes_all_cells_anew(job: Job) -> None:
    asked, run = make_soups(job, *SWEEP)
    before = set(cells(run).values())
    for path in before:
        os.utime(path, (0, 0))
    runs.soup_run(asked, again=True)
    assert set(cells(run).values()) == before
    assert all(path.stat().st_mtime_ns > 0 for path in before)


def test_a_damaged_cell_is_made_again(job: Job) -> None:
    _, run = make_soups(job, *SWEEP)
    path = next(iter(cells(run).values()))
    alpha = soup_store.read(path).mixture.alpha
    path.write_bytes(path.read_bytes()[:-40])
    make_soups(job, *SWEEP)
    assert (soup_store.read(path).mixture.alpha == alpha).all()


def test_what_a_killed_process_left_of_a_cell_that_is_there_is_removed(job: Job) -> None:
    _, run = make_soups(job, *SWEEP)
    work = f"cell-gis-{next(iter(cells(run, 'gis')))}"
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    gone = processes.this_process() | {"pid": ended.pid, "started": "0"}
    run.lease(work).write_text(json.dumps(gone))
    kit.left_by_the_dead(run.progress(work))
    make_soups(job, *SWEEP)
    assert list(run.lease(work).parent.iterdir()) == []


def test_the_number_of_threads_names_no_other_cell(job: Job) -> None:
    _, run = make_soups(job, *SWEEP)
    names = set(cells(run))
    runs.torch.set_num_threads(2)
    try:
        make_soups(job, *SWEEP, "machine.threads=2")
    finally:
        runs.torch.set_num_threads(1)
    assert set(cells(run)) == names


def test_a_cell_that_diverges_is_not_chosen_and_ends_nothing(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    real = PartitionLearned.run

    def run(self: PartitionLearned, context: SoupContext) -> MixingWeights:
        if self.options.union == 2:
            raise DivergedError("its loss is not a number")
        return real(self, context)

    monkeypatch.setattr(PartitionLearned, "run", run)
    asked, run = make_soups(job, *SWEEP)
    assert len(cells(run)) == 2
    rows = table(run.report, "cells")
    failed = (rows["method"] == "pls") & (rows["pls.union"] == 2)
    assert failed.sum() == 2
    assert np.isnan(rows["validation_accuracy"][failed]).all()
    assert not np.isnan(rows["validation_accuracy"][~failed]).any()
    status = read_status(asked, run)
    assert [piece.why for piece in status.cells] == ["its loss is not a number"] * 2
    assert status.cells[0].title.startswith("pls with seed = ")
    pls = next(s for s in status.soups if s.method == "pls")
    assert (pls.combinations, pls.combinations_made) == (4, 2)
    with pytest.raises(RunError, match="pls failed with every combination of the sweep"):
        make_soups(job, "sweep.pls.union=[2]")
    monkeypatch.undo()
    make_soups(job, *SWEEP)
    assert not [note for note in run.failures.iterdir() if "union = 2" in str(status_files.read(note))]
    assert len(cells(run)) == 4


def test_a_cell_that_does_not_fit_is_refused_before_anything_is_made(job: Job) -> None:
    with pytest.raises(MemoryLimitError):
        make_soups(job, "machine.memory_limit=400 MiB", *SWEEP)
    assert not RunDir.of(job).soups.exists()


def test_the_report_has_all_cells_and_the_spread_over_seeds(swept: Job) -> None:
    run = RunDir.of(swept)
    rows = table(run.report, "cells")
    assert list(rows)[:4] == ["method", "gis.granularity", "seed", "pls.union"]
    assert rows["method"].tolist() == ["gis"] * 2 + ["pls"] * 4
    np.testing.assert_equal(rows["pls.union"], [np.nan, np.nan, 2, 3, 2, 3])
    np.testing.assert_equal(rows["seed"], [np.nan, np.nan, 0, 0, 1, 1])
    for method in ("gis", "pls"):
        own = rows["method"] == method
        assert rows["selected"][own].sum() == 1
        chosen = own & (rows["selected"] == 1)
        assert rows["validation_accuracy"][chosen] == rows["validation_accuracy"][own].max()
        assert rows["test_accuracy"][chosen] == soup_store.read(run.soup(method)).test_accuracy
    assert (rows["seconds"] > 0).all()
    seeds = table(run.report, "seeds")
    assert seeds["combination"].tolist() == ["union = 2", "union = 3"]
    of_two = rows["test_accuracy"][rows["pls.union"] == 2]
    assert seeds["test_mean"][0] == pytest.approx(of_two.mean())
    assert seeds["test_deviation"][0] == pytest.approx(of_two.std(ddof=1))
    assert seeds["seeds"].tolist() == [2, 2]


def test_the_printed_table_marks_the_selected(swept: Job, capsys: pytest.CaptureFixture[str]) -> None:
    report(RunDir.of(swept).root, form="verbose")
    said = capsys.readouterr().out
    assert "sweep of pls: 4 combinations" in said
    assert len(re.findall(r"^\* ", said, re.M)) == 2
    assert "pls over seeds" in said
    assert "gis over seeds" not in said


def test_without_a_sweep_nothing_is_told_of_any(finished: Job) -> None:
    run = RunDir.of(finished)
    with h5py.File(run.report) as file:
        assert "cells" not in file
        assert "seeds" not in file
    assert not run.soups.joinpath("cells").exists()


def test_soups_of_another_sweep_are_not_reported(job: Job) -> None:
    asked, run = make_soups(job, *SWEEP)
    run.job.write_text(runs.change_job(asked, "sweep.pls.union=[4]", "sweep.seed=[9]").to_toml())
    with pytest.raises(RunError, match="run `gnnsoup soup JOB`, which brings all soups up to date"):
        report(run.root)


# Of distil, which trains, may begin at a soup that is swept itself, and imitates what all of its trials share.

DISTILS = (
    "soup.methods=['ls', 'distil']",
    "soup.distil.epochs=2",
    "sweep.distil.start=['uniform', 'ls']",
    "sweep.distil.temperature=[1.0, 2.0]",
)


def state_of(path: Path) -> dict[str, Any]:
    state = soup_store.read(path).state
    assert state is not None
    return {name: tensor.numpy() for name, tensor in state.items()}


def test_cells_of_distil_are_the_soups_of_their_own_jobs(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    write = teacher_store.write
    monkeypatch.setattr(teacher_store, "write", lambda path, *what: (written.append(path.name), write(path, *what)))
    RunDir.of(job).teacher(1.0).unlink(missing_ok=True)
    _, run = make_soups(job, *DISTILS, "sweep.ls.epochs=[2, 6]")
    assert [name for name in written if name.startswith("teacher")] == ["teacher.h5", "teacher-2.0.h5"]
    assert sorted(path.name for path in run.root.glob("outputs*")) == []
    made = {path: soup_store.read(path) for path in cells(run, "distil").values()}
    assert len(made) == 4
    chosen = soup_store.read(run.soup("distil"))
    assert chosen.validation_accuracy == max(each.validation_accuracy for each in made.values())
    epochs = soup_store.read(run.soup("ls")).options["epochs"]
    plain = runs.copy_run(job, tmp_path / "plain")
    for path, each in made.items():
        options = [f"soup.distil.{key}={each.options[key]}" for key in ("start", "temperature")]
        _, alone = make_soups(plain, DISTILS[0], "soup.distil.epochs=2", f"soup.ls.epochs={epochs}", *options)
        wanted = state_of(alone.soup("distil"))
        assert all(np.array_equal(value, wanted[name]) for name, value in state_of(path).items())
    rows = table(run.report, "cells")
    own = rows["method"] == "distil"
    assert rows["distil.start"][own].tolist() == ["uniform", "uniform", "ls", "ls"]
    assert rows["distil.temperature"][own].tolist() == [1.0, 2.0, 1.0, 2.0]
    assert not np.isnan(rows["validation_accuracy"]).any()
    assert rows["selected"][own].sum() == 1


def test_cells_that_begin_at_a_changed_soup_are_made_anew(job: Job) -> None:
    def distil_all(*overrides: str) -> dict[str, tuple[Path, int]]:
        _, run = make_soups(job, *DISTILS, "soup.distil.epochs=1", *overrides)
        return {name: (path, path.stat().st_ino) for name, path in cells(run, "distil").items()}

    first = distil_all()
    assert distil_all() == first
    both = distil_all("soup.ls.epochs=2")
    assert len(both) == 6
    assert first.items() <= both.items()
    rows = table(RunDir.of(job).report, "cells")
    assert rows["distil.start"].tolist() == ["uniform", "uniform", "ls", "ls"]
    assert not np.isnan(rows["validation_accuracy"]).any()


def test_a_cell_of_distil_goes_on_from_its_own_checkpoint(
    job: Job, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = ("soup.methods=['distil']", "sweep.distil.dropout=[0.2, 0.4]", "soup.distil.epochs=3")
    asked, run = make_soups(job, *sweep)
    wanted = {name: state_of(path) for name, path in cells(run, "distil").items()}
    for path in cells(run, "distil").values():
        path.unlink()
    with monkeypatch.context() as patch, (stop := PreemptionHandler()).heard():
        patch.setattr(distillation, "SharedCheckpoints", Stopping)
        with pytest.raises(Preempted, match=r"distil is kept after epoch 2 in .*/cell-distil-\w+\.h5"):
            runs.soup(asked, replace(runs.ALONE, stop=stop))
    assert (cells(run, "distil"), list(run.lease("").parent.glob("*.lease"))) == ({}, [])
    (kept,) = run.checkpoint("").parent.glob("*.h5")
    assert kept.stem.removeprefix("cell-distil-") in wanted
    runs.soup_run(asked)
    assert f"distil goes on after epoch 2, from {kept}" in capsys.readouterr().out
    assert not kept.exists()
    for name, path in cells(run, "distil").items():
        assert all(np.array_equal(value, wanted[name][key]) for key, value in state_of(path).items())


@pytest.fixture
def workdir(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> Workdir:
    return kit.copy_workdir(kit.make_finished(tmp_path_factory), tmp_path)


def contents(workdir: Workdir) -> dict[str, np.ndarray]:
    found = sorted((workdir.root / "soups" / "cells").rglob("*.h5"))
    made = {
        path.name: kit.dataset(path, "mixture/alpha") for path in [*found, workdir.soup("pls"), workdir.soup("gis")]
    }
    return made | {
        f"{path.name} {name}": value
        for path in found
        if path.parent.name == "distil"
        for name, value in state_of(path).items()
    }


@pytest.mark.mpi
def test_ranks_share_the_cells_and_find_what_one_finds(
    workdir: Workdir, tmp_path_factory: pytest.TempPathFactory
) -> None:
    distil = ('soup.methods=["best", "gis", "pls", "distil"]', "sweep.distil.temperature=[1.0, 2.0]")
    words = (*WORDS, *(word for override in distil for word in ("--set", override)))
    alone = kit.copy_workdir(workdir, tmp_path_factory.mktemp("alone"))
    succeeds(alone.gnnsoup_here("soup", *words))
    said = succeeds(workdir.gnnsoup("soup", *words, ranks=2))
    for method, count in {"pls": 4, "gis": 2, "distil": 4}.items():
        assert len(re.findall(f"soup: {method} with .* done", said)) == count
        assert method == "gis" or f"[rank 1/2] soup: {method} with" in said
    found, wanted = contents(workdir), contents(alone)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, atol=1e-6, err_msg=name)
    assert list((workdir.root / "leases").iterdir()) == []


def test_jobs_at_once_share_the_cells(workdir: Workdir) -> None:
    words = [sys.executable, "-m", "gnnsoup_hpc", "soup", JOB, *WORDS]
    two = [subprocess.Popen(words, cwd=workdir.folder, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = "".join(process.communicate(timeout=240)[0] for process in two)
    assert [process.returncode for process in two] == [0, 0]
    assert len(re.findall("pls with .* done", said)) == 4


def test_a_sweep_that_is_killed_goes_on_where_it_was(workdir: Workdir) -> None:
    folder = workdir.root / "soups" / "cells" / "pls"
    killed = plant(workdir.folder, f"{PartitionLearned.__module__}:PartitionLearned.run", does="kill", turn=3)
    with start(workdir.folder, "soup", *WORDS, **killed) as process:
        process.communicate(timeout=GUARD)
    assert process.returncode == -signal.SIGKILL
    there = {path.name: path.stat().st_mtime_ns for path in folder.glob("[!.]*.h5")}
    assert len(there) == 2
    said = succeeds(workdir.gnnsoup_here("soup", *WORDS))
    assert len(re.findall("pls with .* done", said)) == 2
    assert there.items() <= {path.name: path.stat().st_mtime_ns for path in folder.glob("*.h5")}.items()
