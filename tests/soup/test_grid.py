"""Sweeps of training: runs that ranks share, ingredients souped across runs, what is said of them."""

from __future__ import annotations

import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import gnnsoup_hpc as gs
from gnnsoup_hpc.__main__ import main
from gnnsoup_hpc.analysis.status.read import read_status
from gnnsoup_hpc.analysis.status.table import show_status
from gnnsoup_hpc.cli.report import report
from gnnsoup_hpc.config import Job
from gnnsoup_hpc.config.grid import expand_grid, list_joint_runs
from gnnsoup_hpc.config.turns import Hyperparameters
from gnnsoup_hpc.errors import DivergedError, IngredientsError, JobError, MemoryLimitError, Preempted, RunError
from gnnsoup_hpc.io import imports, states
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io import report as report_store
from gnnsoup_hpc.io import soup as soup_store
from gnnsoup_hpc.io.records import Trunk
from gnnsoup_hpc.memory import limits
from gnnsoup_hpc.runtime.launch import RankInfo
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.train import runner
from gnnsoup_hpc.train import trunk as trunk_training
from gnnsoup_hpc.train.imports import import_all
from gnnsoup_hpc.train.loop import TrainData, Training, train_trunk
from gnnsoup_hpc.train.runner import train_all
from gnnsoup_hpc.types import State
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
    for folder in ("grid", "joint"):
        shutil.rmtree(RunDir.of(job).root / folder)
    return job


def test_an_ingredient_of_a_run_is_that_of_the_ordinary_job(souped: Job, tmp_path: Path) -> None:
    run = expand_grid(souped)[1]
    plain = runs.train_run(tmp_path, *SHORT, "train.learning_rate=0.05", "model.hidden=8")
    ours, theirs = RunDir.of(run.job).ingredient(0), RunDir.of(plain).ingredient(0)
    assert kit.content(ours) == kit.content(theirs)
    assert ingredient_store.origin(ours) == ingredient_store.origin(theirs)


def test_two_ranks_share_all_runs_and_go_on_where_one_was_stopped(
    souped: Job, prepared: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real signal stops the first at its second run; two go on, and train nothing twice."""
    epoch, done = Training.epoch, list[str]()

    def counted(training: Training) -> Any:
        done.append(threading.current_thread().name)
        if len(done) == 3:
            signal.raise_signal(signal.SIGUSR1)
        return epoch(training)

    monkeypatch.setattr(Training, "epoch", counted)
    here = replace(runs.ALONE, stop=type(runs.ALONE.stop)())
    with here.stop.heard(), pytest.raises(Preempted, match=f"{NAMES[1]}/ingredient 0000 is kept after epoch 1"):
        train_all(prepared, here, runs.CPU, Log(quiet=True, stop=here.stop))
    assert [path.exists() for path in ingredients(prepared)] == [True, False, False, False]
    assert "from a checkpoint on" in show_status(read_status(prepared, RunDir.of(prepared)))
    gather, alone = runner.gathered.gather, threading.Lock()

    def one_at_a_time(*arguments: Any) -> None:
        with alone:  # files are made under names that are a process's own, and both ranks are this one
            gather(*arguments)

    monkeypatch.setattr(runner.gathered, "gather", one_at_a_time)
    monkeypatch.setattr(runner, "POLL_SECONDS", 0.01)
    with ThreadPoolExecutor(2) as pool:
        places = [RankInfo(rank, 2, rank, 2, "here") for rank in range(2)]
        for ended in [pool.submit(train_all, prepared, place, runs.CPU, runs.QUIET) for place in places]:
            ended.result(120)
    assert len(done) == 4 * 2
    assert len(set(done)) == 3
    assert [kit.content(path) for path in ingredients(prepared)] == [kit.content(path) for path in ingredients(souped)]
    assert all(RunDir.of(each.job).graph.samefile(RunDir.of(prepared).graph) for each in expand_grid(prepared))


def test_ingredients_of_one_model_are_souped_across_runs(souped: Job) -> None:
    """As copies with the metrics that they were trained to, of one initial state."""
    for joint in list_joint_runs(souped):
        run, paths = RunDir.of(joint.job), [RunDir.of(each.job).ingredient(0) for each in joint.runs]
        assert [row.file for row in imports.read(run.imported)] == [str(path) for path in paths]
        of = [ingredient_store.read(path) for path in paths]
        found = [ingredient_store.read(run.ingredient(index)) for index in range(2)]
        assert [states.sha256(one.state) for one in found] == [states.sha256(one.state) for one in of]
        for name in ("validation_accuracy", "test_accuracy", "history", "hyperparameters", "best_epoch", "engine"):
            assert [getattr(one, name) for one in found] == [getattr(one, name) for one in of]
        assert len({ingredient_store.origin(run.ingredient(index))["initial_sha256"] for index in range(2)}) == 1
        best, uniform = soup_store.read(run.soup("best")), soup_store.read(run.soup("uniform"))
        assert best.validation_accuracy == max(one.validation_accuracy for one in of)
        assert uniform.state is not None
        for name, tensor in uniform.state.items():
            mean = torch.stack([one.state[name].double() for one in of]).mean(0)
            assert torch.allclose(tensor.double(), mean, rtol=1e-6, atol=1e-7)
        assert soup_store.read(run.soup("gis")).ingredients == ("0000", "0001")


def test_what_a_report_says_is_what_the_files_hold(souped: Job, capsys: pytest.CaptureFixture[str]) -> None:
    run = gs.Run.of(souped)
    tables = run.report()
    made = [ingredient_store.read(path) for path in ingredients(souped)]
    grid = tables["grid"]
    assert list(grid["run"]) == NAMES == list(run.grid)
    assert list(grid["model.hidden"]) == [8, 8, 16, 16]
    assert list(grid["train.learning_rate"]) == [0.02, 0.05] * 2
    assert list(grid["validation_best"]) == [one.validation_accuracy for one in made]
    assert list(grid["test_best"]) == list(grid["test_mean"]) == [one.test_accuracy for one in made]
    assert list(grid["seconds"]) == [one.measurement["seconds"] for one in made]
    assert list(grid["ingredients"]) == list(grid["asked"]) == [1] * 4
    validation = [one.validation_accuracy for one in made]
    assert list(grid["selected"]) == [number == validation.index(max(validation)) for number in range(4)]
    smoothed = [(60 * one.test_accuracy + 2) / 64 for one in made]  # of 60 test nodes
    assert list(grid["test_error"]) == pytest.approx([(share * (1 - share) / 60) ** 0.5 for share in smoothed])
    across = tables["across"]
    assert list(zip(across["run"], across["method"], strict=True)) == [
        (name, method) for name in run.joint_runs for method in souped.soup.methods
    ]
    files = [
        RunDir(run.joint_runs[name].path).soup(method)
        for name, method in zip(across["run"], across["method"], strict=True)
    ]
    assert list(across["test_accuracy"]) == [soup_store.read(path).test_accuracy for path in files]
    assert len(run.ingredients) == 4
    assert len(run.joint_runs["hidden-8"].ingredients) == 2
    report(RunDir.of(souped).root)
    said = capsys.readouterr().out
    assert f"{RunDir.of(souped).root}: 4 combinations, on npz:" in said
    assert "soups across 2 runs, sage, 2 layers, hidden 16: " in said
    rows = [line.split("1 of 1")[0].split() for line in said.splitlines() if " 1 of 1 " in line]
    assert [row[-2:] for row in rows] == [["8", "0.02"], ["8", "0.05"], ["16", "0.02"], ["16", "0.05"]]


def test_values_that_are_no_numbers_are_tabulated_as_text(copy: Job) -> None:
    run = gs.Run.of(copy)
    RunDir(run.path).job.write_text(runs.change_job(copy, "sweep.train.fanout=[[3], [2, 2]]").to_toml())
    report(run.path)
    grid = run.report()["grid"]
    assert list(grid["train.fanout"]) == ["[3]", "[2, 2]"] * 4
    assert list(grid["ingredients"]) == [0] * 8
    assert grid["test_best"].isna().all()
    assert "across" not in run.report()


def test_status_has_all_runs_under_one_name(souped: Job, copy: Job) -> None:
    found = read_status(souped, RunDir.of(souped))
    assert [task.work for task in found.ingredients] == [f"{name}/ingredient-0000" for name in NAMES]
    assert {task.state for task in found.ingredients} == {"finished"}
    assert [[soup.made for soup in joint.soups] for joint in found.joint_runs] == [[True] * 3] * 2
    assert found.report == "there"
    assert found.estimate.why == "all ingredients are there"
    ingredients(copy)[2].unlink()
    text = show_status(read_status(copy, RunDir.of(copy)))
    assert "\ningredients    4: 3 finished, 1 waiting\n" in text
    assert "soups          joint/hidden-8: 3 of 3 made; validation best" in text
    assert f"\n{NAMES[2]}  1: 1 waiting\n" in text


def test_a_combination_that_fails_stops_no_other(
    prepared: Job, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def diverging(data: TrainData, start: State, how: Hyperparameters, *others: Any) -> Trunk:
        if how.learning_rate == 0.03:
            raise DivergedError("the trunk diverged")
        return train_trunk(data, start, how, *others)

    monkeypatch.setattr(trunk_training, "train_trunk", diverging)
    wild = runs.change_job(prepared, "sweep={ train = { learning_rate = [0.03, 0.02] } }", "train.trunk_epochs=1")
    failed = r"1 of 2 ingredients failed, all others are there: learning_rate-0.03/trunk. The first: the trunk diverged"
    with pytest.raises(IngredientsError, match=failed):
        runs.train(wild)
    text = show_status(read_status(wild, RunDir.of(wild)))
    assert "\ntrunk          1 of 2 finished; learning_rate-0.03/trunk: failed, " in text
    first, second = ingredients(wild)
    assert second.exists()
    with pytest.raises(RunError, match=r"run `gnnsoup train JOB`"):
        runs.soup_run(wild)
    lenient = runs.change_job(wild, 'soup.unfit="leave out"')
    runs.soup_run(lenient)
    said = capsys.readouterr().out
    assert f"soup: left out: {first.parent}" in said
    assert "there is one ingredient, so there is nothing to mix" in said
    assert list(report_store.read_tables(RunDir.of(lenient).report)["grid"]["ingredients"]) == [0, 1]
    assert len(imports.read(RunDir.of(list_joint_runs(wild)[0].job).imported)) == 1


def test_souped_ingredients_follow_the_runs(copy: Job, capsys: pytest.CaptureFixture[str]) -> None:
    """One more value of a sweep is one more ingredient, where its place in the lists is; equal ones count once."""
    more = runs.change_job(
        copy, "sweep.train.learning_rate=[0.03, 0.02]", "sweep.model.hidden=[8]", 'soup.methods=["best"]'
    )
    train_all(more, runs.ALONE, runs.CPU, Log())
    former = f"{NAMES[2]}, {NAMES[3]}, {NAMES[1]} are in {RunDir.of(copy).root / 'grid'} too, and not of this sweep"
    assert former in capsys.readouterr().out
    report(RunDir.of(more).root)
    assert "its soups are of other ingredients than are there now: run `gnnsoup soup JOB`" in capsys.readouterr().out
    runs.soup_run(more)
    (joint,) = list_joint_runs(more)
    files = [RunDir.of(each.job).ingredient(0) for each in joint.runs]
    assert [row.file for row in imports.read(RunDir.of(joint.job).imported)] == [str(path) for path in files]
    shutil.copy(files[0], files[1])
    with pytest.raises(RunError, match=r"is of another recipe: train.learning_rate was 0.03, the job says 0.02"):
        runs.soup_run(more)


def test_memory_is_asked_for_all_ingredients_that_are_souped_together(
    copy: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, plan = list[tuple[int, int]](), limits.plan_souping

    def noted(job: Job, *others: Any) -> Any:
        asked.append((job.model.hidden, job.train.ingredients))
        return plan(job, *others)

    monkeypatch.setattr(limits, "plan_souping", noted)
    train_all(copy, runs.ALONE, runs.CPU, runs.QUIET, souping=True)
    assert asked == [(8, 2), (8, 2), (16, 2), (16, 2)]


def test_what_a_sweep_of_training_cannot_do_is_refused(
    souped: Job, copy: Job, trained: Job, capsys: pytest.CaptureFixture[str]
) -> None:
    root = RunDir.of(souped).root
    for command in ("export", "predict", "diagnose"):
        assert main([command, str(root)]) == 1
        assert f"name the folder of one of them, {root}/joint/hidden-8, {root}/" in capsys.readouterr().err
    with pytest.raises(
        RunError, match=r"is the run of a sweep of training, whose soups lie in .*hidden-8, .*: name one"
    ):
        gs.export(root, "soup.pt")
    with pytest.raises(JobError, match="sweeps training, and takes no ingredients from elsewhere"):
        import_all(souped, [str(ingredients(souped)[0])], "", runs.ALONE, runs.QUIET)
    mixed = runs.change_job(trained, RATES, f"runs={trained.runs}")
    with pytest.raises(RunError, match="has ingredients of a job that does not sweep training: give the job a name of"):
        runs.train(mixed)
    ingredients(copy)[0].unlink()
    small = runs.change_job(copy, "machine.memory_limit=600 MiB", "sweep.model.hidden=[8, 100_000]")
    with pytest.raises(MemoryLimitError, match="training on full batches needs"):
        runs.train(small)
    assert not ingredients(copy)[0].exists()


def test_one_joint_run_need_not_be_named(copy: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = runs.change_job(copy, "sweep={ train = { learning_rate = [0.02] }, model = { hidden = [8] } }")
    runs.train(one)
    runs.soup_run(one)
    assert main(["predict", str(RunDir.of(one).root), "--to", str(tmp_path / "scores.npy")]) == 0
    assert "of 300 nodes" in capsys.readouterr().out


def test_a_sweep_that_was_stopped_says_how_it_goes_on(prepared: Job, capsys: pytest.CaptureFixture[str]) -> None:
    root = RunDir.of(prepared).root
    for command in ("export", "predict", "diagnose"):
        assert main([command, str(root)]) == RunError.exit_code
        (line,) = capsys.readouterr().err.splitlines()
        assert "tiny is not souped yet" in line
        assert "give the same `gnnsoup run JOB` again, which goes on with it" in line
        assert "name the folder of one of them" not in line


@pytest.mark.mpi
def test_ranks_of_mpi_make_what_one_makes(souped: Job, tmp_path: Path) -> None:
    workdir = kit.make_workdir(tmp_path)
    words = [word for override in SWEEP for word in ("--set", override)]
    said = kit.succeeds(workdir.gnnsoup("run", *words, ranks=2))
    assert said.count("ingredient 0000 done") == 4
    made = [workdir.root / path.relative_to(RunDir.of(souped).root) for path in ingredients(souped)]
    assert [kit.content(path) for path in made] == [kit.content(path) for path in ingredients(souped)]
    for joint in list_joint_runs(souped):
        ours = RunDir.of(joint.job)
        theirs = RunDir(workdir.root / ours.root.relative_to(RunDir.of(souped).root))
        for method in souped.soup.methods:
            found, wanted = (soup_store.read(run.soup(method)) for run in (theirs, ours))
            assert (found.mixture.alpha == wanted.mixture.alpha).all()
            assert found.test_accuracy == wanted.test_accuracy
