"""`gnnsoup diagnose` end to end: one basin and several; files that are there, damaged, of other ingredients; ranks."""

from __future__ import annotations

import math
import shutil
import subprocess
from pathlib import Path

import pytest

from gnnsoup_hpc.config import Job
from gnnsoup_hpc.data.prepare import note_job
from gnnsoup_hpc.io import diagnosis as diagnosis_store
from gnnsoup_hpc.runtime.run_dir import RunDir
from tests import runs
from tests.analysis.diagnosis.kit import permute, remade
from tests.faults import kit

ORDERS = (0, 3, 7, 8, 11, 12)  # seeds of the orders that hidden units are put in; others are kinder


@pytest.fixture(scope="module")
def collapsing(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Six ingredients of the same outputs, the hidden units of all but the first in another order."""
    how = (
        "model.hidden=6",
        "train.dropout=0.0",
        "train.epochs=60",
        "graph.train_share=0.4",
        "graph.validation_share=0.5",
    )
    job = runs.train_run(tmp_path_factory.mktemp("collapsing"), *how, ingredients=1)
    job = runs.change_job(job, f"train.ingredients={len(ORDERS)}")
    note_job(job)
    return remade(job, lambda state, index: permute(state, ORDERS[index]) if index else state, own_starts=True)


def diagnose(job: Job, *words: object) -> str:
    """What `gnnsoup diagnose RUN WORDS` prints."""
    return kit.succeeds(kit.here("diagnose", RunDir.of(job).root, *words, cwd=Path(job.runs)))


def test_permuted_copies_of_a_model_are_not_in_one_basin(collapsing: Job) -> None:
    said = diagnose(collapsing)
    assert "5 of 6 ingredients are not in one basin with the best, 0000" in said
    assert "which is the uniform soup unless the job aligns hidden units, collapses to" in said
    assert "They started from 6 different initial states" in said
    assert 'The job matches units before mixing (soup.align = "auto"), and then they are in one basin.' in said
    found = diagnosis_store.read(RunDir.of(collapsing).diagnosis)
    assert len({ingredient.alone.accuracy for ingredient in found.ingredients}) == 1  # one function
    assert found.best == "0000"
    assert list(found.variants[0].halfway) == ["0001", "0002", "0003", "0004", "0005"]
    assert "With units matched by weights, 0 are not in one basin with the best (as trained: 5)" in said
    assert found.variants[1].mean.accuracy == found.ingredients[0].alone.accuracy


def test_copies_of_one_model_are_in_one_basin(trained: Job, tmp_path: Path) -> None:
    job = remade(runs.copy_run(trained, tmp_path), lambda state, index: state)
    said = diagnose(job)
    assert "One basin: all 3 ingredients lie in one basin with the best, 0000" in said
    found = diagnosis_store.read(RunDir.of(job).diagnosis)
    alone = found.ingredients[0].alone
    assert len(found.variants) == 1  # nothing is wrong, so nothing else is asked
    assert set(found.variants[0].halfway.values()) == {alone}
    assert found.variants[0].mean.accuracy == alone.accuracy


def test_a_diagnosis_is_used_again_until_an_ingredient_changes(trained: Job, tmp_path: Path) -> None:
    job = runs.copy_run(trained, tmp_path)
    path = RunDir.of(job).diagnosis
    first = diagnose(job)
    kept = kit.digest(path)
    again = diagnose(job)
    assert "the diagnosis is there already" in again
    assert kit.digest(path) == kept
    assert first.splitlines()[-3:] == again.splitlines()[-3:]
    assert "evaluations" in diagnose(job, "--again")
    remade(job, lambda state, index: state)
    assert "evaluations" in diagnose(job)


def test_a_damaged_diagnosis_is_made_again_and_no_report_uses_it(finished: Job, tmp_path: Path) -> None:
    job = runs.copy_run(finished, tmp_path)
    run = RunDir.of(job)
    kit.flip(run.diagnosis, 0.5)
    kit.fails(kit.here("report", run.root, cwd=tmp_path), "diagnosis.h5 is truncated or damaged", "gnnsoup diagnose")
    assert "is truncated or damaged" in diagnose(job)
    assert "the diagnosis is there already" in diagnose(job)
    kit.succeeds(kit.here("report", run.root, cwd=tmp_path))


def test_a_run_may_lie_elsewhere_and_a_job_does_too(trained: Job, tmp_path: Path) -> None:
    shutil.copytree(RunDir.of(trained).root, tmp_path / "moved")
    said = kit.succeeds(kit.here("diagnose", "moved", cwd=tmp_path))
    assert said.splitlines()[-1] == "-> moved/diagnosis.h5"
    job = runs.copy_run(trained, tmp_path)
    (tmp_path / "job.toml").write_text(job.to_toml())
    assert "One basin" in kit.succeeds(kit.here("diagnose", "job.toml", cwd=tmp_path))


def test_what_is_no_run_is_said_in_a_line(tmp_path: Path, trained: Job) -> None:
    (tmp_path / "empty").mkdir()
    kit.fails(kit.here("diagnose", "empty", cwd=tmp_path), "empty is not the folder of a run")
    kit.fails(kit.here("diagnose", "nowhere", cwd=tmp_path), "there is no job file 'nowhere'")
    run = RunDir.of(runs.copy_run(trained, tmp_path))
    shutil.rmtree(run.ingredients)
    kit.fails(kit.here("diagnose", run.root, cwd=tmp_path), "holds no ingredient to diagnose", "gnnsoup train JOB")


def test_an_ingredient_that_is_not_finite_is_left_out_and_named(trained: Job, tmp_path: Path) -> None:
    def spoilt(state: dict[str, object], index: int) -> dict[str, object]:
        return {name: tensor * (math.nan if index == 1 else 1.0) for name, tensor in state.items()}  # type: ignore[operator]

    said = diagnose(remade(runs.copy_run(trained, tmp_path), spoilt))  # type: ignore[arg-type]
    assert "Left out: " in said
    assert "0001.h5 has weights that are not finite" in said
    assert "One basin: all 2 ingredients" in said


def test_one_ingredient_is_no_error(trained: Job, tmp_path: Path) -> None:
    said = diagnose(runs.copy_run(trained, tmp_path), "--set", "train.ingredients=1")
    assert "There is one ingredient" in said


def test_it_stays_within_a_memory_limit_or_says_what_it_needs(trained: Job, tmp_path: Path) -> None:
    outcome = kit.here(
        "diagnose", RunDir.of(runs.copy_run(trained, tmp_path)).root, "--memory-limit", 1000, cwd=tmp_path
    )
    assert outcome.returncode == 3
    assert "is too little" in outcome.stderr


def test_souping_ends_with_a_diagnosis_unless_it_is_told_not_to(trained: Job, finished: Job, tmp_path: Path) -> None:
    run = RunDir.of(finished)
    assert kit.dataset(run.report, "diagnosis/in_basin").tolist() == [1, 1, 1]
    assert kit.texts(run.report, "diagnosis/ingredient")[-1] == "all"
    assert any(line.startswith("One basin") for line in kit.texts(run.report, "verdicts"))
    job = runs.change_job(runs.copy_run(trained, tmp_path), "soup.diagnose=false", 'soup.methods=["uniform"]')
    runs.soup_run(job)
    run = RunDir.of(job)
    assert not run.diagnosis.exists()
    assert kit.texts(run.report, "verdicts")[-1].endswith(f"is not known: run `gnnsoup diagnose {run.root}`.")


def test_a_diagnosis_of_other_ingredients_is_in_no_report(finished: Job, trained: Job, tmp_path: Path) -> None:
    job = runs.copy_run(finished, tmp_path)
    other = remade(runs.copy_run(trained, tmp_path / "other"), lambda state, index: state)
    diagnose(other)
    shutil.copy(RunDir.of(other).diagnosis, RunDir.of(job).diagnosis)
    said = kit.succeeds(kit.here("report", RunDir.of(job).root, "--verbose", cwd=tmp_path))
    assert "is not known: run `gnnsoup diagnose" in said
    assert "midpoints" not in said


@pytest.mark.mpi
def test_any_number_of_ranks_gives_the_same_figures(collapsing: Job) -> None:
    run = RunDir.of(collapsing)
    diagnose(collapsing, "--again")
    alone = diagnosis_store.read(run.diagnosis)
    outcome: subprocess.CompletedProcess[str] = kit.command(
        "diagnose", run.root, "--again", cwd=Path(collapsing.runs), ranks=3
    )
    said = kit.succeeds(outcome)
    assert said.count("Not one basin") == 1
    shared = diagnosis_store.read(run.diagnosis)
    assert shared.ingredients == alone.ingredients
    assert shared.variants == alone.variants
