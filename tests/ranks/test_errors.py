"""Errors with several ranks end all of them, with a code that is not zero and a line that says why; nothing hangs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults import kit
from tests.faults.kit import JOB, MARK, Workdir, fails_under_mpirun, truncate, unchanged
from tests.processes import GUARD, plant
from tests.tiny import mpirun


def _mpirun(*words: object, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """`mpirun WORDS`; a hang fails the test."""
    try:
        return subprocess.run(
            [mpirun(), *map(str, words)],
            cwd=cwd,
            env=os.environ | variables,
            capture_output=True,
            text=True,
            timeout=GUARD,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired as expired:
        raise AssertionError(f"hangs; so far it said: {expired.stdout!r} {expired.stderr!r}") from None


def _soup(*words: object) -> list[object]:
    return [sys.executable, "-m", "gnnsoup_hpc", "soup", JOB, "--again", *words]


@pytest.mark.mpi
@pytest.mark.parametrize("command", ["train", pytest.param("soup", marks=pytest.mark.slow)])
def test_a_bad_job_is_told_once(workdir: Workdir, command: str) -> None:
    before = workdir.digests()
    outcome = workdir.gnnsoup(command, "--set", "train.epoch=3", ranks=2)
    fails_under_mpirun(outcome, "'train.epoch'", "'train.epochs'")
    unchanged(before, workdir)


@pytest.mark.mpi
def test_souping_before_training(tmp_path: Path) -> None:
    workdir = kit.make_workdir(tmp_path)
    fails_under_mpirun(workdir.gnnsoup("soup", ranks=2), "runs/tiny/graph.h5", "gnnsoup")
    kit.succeeds(workdir.gnnsoup_here("prepare"))
    fails_under_mpirun(workdir.gnnsoup("soup", ranks=2), "runs/tiny/ingredients", "gnnsoup train")


@pytest.mark.mpi
def test_a_damaged_ingredient_is_told_once(workdir: Workdir) -> None:
    truncate(workdir.ingredient(1))
    before = workdir.digests()
    fails_under_mpirun(workdir.gnnsoup("soup", ranks=2), "ingredients/0001.h5", "damaged", "gnnsoup train")
    unchanged(before, workdir)


@pytest.mark.mpi
def test_a_changed_recipe_is_refused_by_every_rank(workdir: Workdir) -> None:
    before = workdir.digests()
    outcome = workdir.gnnsoup("train", "--set", "train.epochs=13", ranks=2)
    fails_under_mpirun(outcome, "train.epochs was 12", "says 13", "name=", each=True)
    unchanged(before, workdir)


@pytest.mark.mpi
def test_a_rank_that_does_not_find_the_run_ends_all(workdir: Workdir) -> None:
    outcome = _mpirun("-n", 1, *_soup(), ":", "-n", 1, *_soup("--set", "name=none"), cwd=workdir.folder)
    assert fails_under_mpirun(outcome, "runs/none/graph.h5").startswith("[rank 1/2] ")


@pytest.mark.mpi
def test_a_rank_that_does_not_find_the_job_ends_all_and_says_so(workdir: Workdir) -> None:
    """A job file that is not on every node."""
    (workdir.folder / "elsewhere").mkdir()
    outcome = _mpirun(
        "-n", 1, *_soup(), ":", "-n", 1, "-wdir", workdir.folder / "elsewhere", *_soup(), cwd=workdir.folder
    )
    assert fails_under_mpirun(outcome, JOB, "elsewhere").startswith("[rank 1/2] ")


@pytest.mark.mpi
@pytest.mark.parametrize("how", ["raise", "kill"])
def test_a_rank_that_dies_while_souping_ends_all(workdir: Workdir, tmp_path: Path, how: str) -> None:
    ingredients = {name: sha for name, sha in workdir.digests().items() if name.startswith("ingredients/")}
    variables = plant(tmp_path, "gnnsoup_hpc.soup.mixtures:Mixtures.state", does=how, rank=1)
    outcome = _mpirun("-n", 3, *_soup(), cwd=workdir.folder, **variables)
    assert outcome.returncode != 0
    assert "soup: best done" not in outcome.stdout
    if how == "raise":
        assert "[rank 1/3] ZeroDivisionError: planted in Mixtures" in outcome.stderr
    unchanged(ingredients, workdir)


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        pytest.param({"PMI_RANK": "0", "PMI_SIZE": "2"}, ("2 ranks", "sees 1"), id="PMI"),
        pytest.param({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"}, ("srun --mpi=none", "--mpi=pmi"), id="Slurm"),
    ],
)
def test_a_launcher_that_mpi_does_not_know_is_refused(
    workdir: Workdir, variables: dict[str, str], says: tuple[str, str]
) -> None:
    before = workdir.digests()
    outcome = subprocess.run(
        [str(word) for word in _soup()],
        cwd=workdir.folder,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=GUARD,
        check=False,
    )
    lines = [line for line in outcome.stderr.splitlines() if MARK in line]
    assert outcome.returncode > 0
    assert len(lines) == 1, outcome.stderr
    assert all(words in lines[0] for words in says), lines
    assert "Traceback" not in outcome.stderr
    assert "soup: " not in outcome.stdout
    unchanged(before, workdir)
