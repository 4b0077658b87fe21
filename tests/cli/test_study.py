"""`gnnsoup study`: all of its runs, by whoever works at it, once; what they say together; and what is refused."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from statistics import mean

import numpy as np
import pandas as pd
import pytest

from gnnsoup_hpc.__main__ import main
from gnnsoup_hpc.analysis.report.compare import judge
from gnnsoup_hpc.api import read_report
from gnnsoup_hpc.cli.study import StudyRunner
from gnnsoup_hpc.config import loading
from gnnsoup_hpc.config.study import follow, list_bundled_studies, read_study
from gnnsoup_hpc.io import report
from gnnsoup_hpc.models.jobs import load_job
from tests import runs as tiny_runs
from tests import tiny

STUDY = """\
name = "small"
seeds = [0, 1, 2]
[job]
graph = { source = "npz:tiny.npz", train_share = 0.1 }
model = { hidden = 4 }
partition = { parts = 2 }
train = { ingredients = 2, epochs = 3, learning_rate = 0.05 }
soup = { diagnose = true, align = "none", methods = ["uniform", "ensemble"], pls = { union = 1 } }
machine = { threads = 1 }
[across.layers]
"1" = { model.layers = 1 }
[ingredients]
shared = {}
own = { train.start = "own" }
[ingredients."own, all"]
train = { start = "own", labels = "all" }
soup = { diagnose = false, methods = ["uniform", "ensemble", "distil"], distil = { epochs = 2, union = 2 } }
[alone]
longer = {}
"""


def write_study(folder: Path, *changes: tuple[str, str]) -> Path:
    text = STUDY
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    np.savez(folder / "tiny.npz", **tiny.planted(nodes=120))
    path = folder / "small.toml"
    path.write_text(text)
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.excepthook", sys.excepthook)  # which a command replaces
    return tmp_path


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study whose runs are all there."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.excepthook", sys.excepthook)
        assert main(["study", str(write_study(folder))]) == 0
    return folder


def test_what_it_says_is_what_its_runs_say(
    done: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(done)
    monkeypatch.setattr("sys.excepthook", sys.excepthook)
    before = {path: path.stat().st_mtime_ns for path in (done / "runs").rglob("*.h5") if path.name != "study.h5"}
    assert main(["study", "small.toml"]) == 0
    out = capsys.readouterr().out
    assert "12 runs, 12 of them done" in out
    assert before == {path: path.stat().st_mtime_ns for path in before}  # nothing was made again
    rows = pd.DataFrame(report.read_tables(done / "runs" / "small" / "study.h5", report.STUDY)["runs"])
    differences, over_shared = [], []
    for seed in range(3):
        best, ensemble = {}, {}
        for way in ("shared", "own"):
            tables = read_report(done / "runs" / "small" / f"1_{way}_{seed}")
            methods, ingredients = tables["methods"].set_index("method"), tables["ingredients"]
            best[way] = ingredients.loc[ingredients["validation_accuracy"].idxmax(), "test_accuracy"]
            ensemble[way] = methods.loc["ensemble", "test_accuracy"]
            mine = rows[(rows["way"] == way) & (rows["seed"] == seed)].set_index("method")
            assert (mine.loc["best", "test"], mine.loc["ensemble", "test"]) == (best[way], ensemble[way])
            assert (mine["layers"] == "1").all()
        rows_of = read_report(done / "runs" / "small" / f"1_own_{seed}")["diagnosis"]
        halfway = rows_of[(rows_of["ingredient"] != "all") & (rows_of["setting"] == "")]
        assert mine["barrier"].iloc[0] == pytest.approx(halfway["barrier_accuracy"].mean())
        differences.append(100 * (ensemble["own"] - best["own"]))
        over_shared.append(100 * (best["own"] - best["shared"]))
    gains, beside = (line for line in out.splitlines() if line.startswith("| 1 | own | 3 |"))
    assert (
        f"| {mean(differences):+.2f} ± {100 * float(judge([each / 100 for each in differences])[0]):.2f}"
        in gains.replace("*", "")
    )
    assert f"| 2 | {mean(over_shared):+.2f} ± " in beside.replace("*", "")


def test_one_model_alone_is_trained_as_long_as_all(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(done)
    job = loading.load(str(done / "runs" / "small" / "1_longer_1" / "job.toml"))
    assert (job.train.ingredients, job.train.epochs, job.soup.methods) == (1, 6, ("best",))
    assert (job.train.seed, job.graph.split_seed, job.soup.seed) == (1, 1, 1)
    study = read_study("small.toml")
    run = next(run for run in study.runs[0] if run.alone)
    base = load_job({**study.runs[0][0].tables, "name": "base"})
    chosen = follow(type(run)(**{**vars(run), "own": {"train": {"labels": "all"}}}), base, 2)
    assert chosen["train"]["epochs"] == 2


def test_all_labels_are_trained_on_for_the_epochs_that_validation_chose(
    done: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of them the last that is one model stands for what is chosen, for no label is left to choose by."""
    monkeypatch.chdir(done)
    rows = pd.DataFrame(report.read_tables(done / "runs" / "small" / "study.h5", report.STUDY)["runs"])
    for seed in range(3):
        job = loading.load(str(done / "runs" / "small" / f"1_own-all_{seed}" / "job.toml"))
        shared, mine = (
            rows[(rows["way"] == way) & (rows["seed"] == seed)].set_index("method") for way in ("shared", "own, all")
        )
        assert (job.train.labels, job.train.ingredients) == ("all", 2)
        assert job.train.epochs == shared["best_epoch"].iloc[0]
        assert mine.loc["chosen soup", "test"] == mine.loc["distil", "test"]
    assert main(["study", "small.toml", "--show"]) == 0
    (_, beside) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("| 1 | own, all | 3 |"))
    assert beside.split("|")[7].strip() == ""  # what it gains on validation nodes


def test_what_failed_is_named_and_all_else_is_there(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    little = ("own = {", 'own = { machine.memory_limit = "1 MiB",')
    path = write_study(here, ("seeds = [0, 1, 2]", "seeds = [0]"), little)
    assert main(["study", str(path)]) == 1
    captured = capsys.readouterr()
    assert "1 of 4 runs of the study failed, the others are there: 1_own_0. The first: " in captured.err
    assert "memory_limit" in captured.err
    assert "1 of 4 runs are missing" in captured.out
    write_study(here, ("seeds = [0, 1, 2]", "seeds = [0]"))
    assert main(["study", str(path), "--show"]) == 0
    assert "1 of 4 runs are missing" in capsys.readouterr().out
    assert main(["study", str(path)]) == 0
    assert "missing" not in capsys.readouterr().out


def test_a_run_is_made_anew_where_the_study_says_otherwise(done: Path, here: Path) -> None:
    write_study(here, ("hidden = 4", "hidden = 5"))
    results = here / "runs" / "small" / "results"
    results.parent.mkdir(parents=True)
    results.symlink_to(done / "runs" / "small" / "results")
    runner = StudyRunner(read_study("small.toml"), tiny_runs.ALONE, True, tiny_runs.QUIET)
    assert runner.read() == {}
    write_study(here)
    assert len(StudyRunner(read_study("small.toml"), tiny_runs.ALONE, True, tiny_runs.QUIET).read()) == 12


def test_two_share_the_runs(here: Path) -> None:
    study = read_study(str(write_study(here, ("seeds = [0, 1, 2]", "seeds = [0, 1]"))))
    both = [StudyRunner(study, tiny_runs.ALONE, True, tiny_runs.QUIET) for _ in range(2)]
    workers = [threading.Thread(target=runner.run_all) for runner in both]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [len(runner.read()) for runner in both] == [8, 8]
    assert sum(len(runner.seconds) for runner in both) == 8  # each run once


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("seeds", "sedes"), "unknown key 'sedes'; the nearest known one is 'seeds'"),
        (("[0, 1, 2]", "[0, 0]"), "seeds = [0, 0]: each once"),
        (("[0, 1, 2]", "[]"), "seeds"),
        (("hidden = 4", "hiden = 4"), "the study's run 1_shared_0: the job: unknown key 'model.hiden'"),
        (("longer = {}", "own = {}"), "'own' is in [ingredients] and in [alone]"),
        (("shared = {}", '"own " = {}'), "two names differ in signs alone"),
        (("shared = {}", 'shared = { train.labels = "all" }'), "the first of [ingredients] has train.labels = 'all'"),
        (("[ingredients]", "[ingredients"), "not valid TOML"),
        (("layers = 1", "layers = 0"), "the study's run 1_shared_0: the job: model.layers = 0"),
    ],
)
def test_what_is_wrong_is_said(
    change: tuple[str, str], message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["study", str(write_study(here, change))]) == 2
    assert message in capsys.readouterr().err
    assert not (here / "runs").exists()


def test_fields_of_its_job_are_overridden(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write_study(here))
    runs = [run for block in read_study(path, ["train.epochs=5", "machine.threads=2"]).runs for run in block]
    jobs = [load_job({**run.tables, "name": run.name}) for run in runs if not run.alone]
    assert {(job.train.epochs, job.machine.threads, job.train.learning_rate) for job in jobs} == {(5, 2, 0.05)}
    for key in ("model.layers=3", "train.start=own", "train.seed=4", "name=other"):
        assert main(["study", path, "--set", key]) == 2
        assert "the study itself says what" in capsys.readouterr().err
    assert main(["study", path, "--set", "train.epoch=5"]) == 2
    assert "unknown key 'train.epoch'" in capsys.readouterr().err


def test_a_study_that_is_not_there_is_told(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "nowhere"]) == 2
    assert "there is no study file 'nowhere'" in capsys.readouterr().err


@pytest.mark.parametrize("name", list_bundled_studies())
def test_bundled_studies_are_right(name: str) -> None:
    study = read_study(name)
    StudyRunner(study, tiny_runs.ALONE, True, tiny_runs.QUIET).check()
    assert study.file.name == name
    assert study.file.hours > 0
