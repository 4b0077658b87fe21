"""Open MPI beside MPICH: the same soups, and a launcher of one with the library of the other is told in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.cluster.conftest import AS_ROOT, SCRIPTS, Cluster
from tests.faults import kit
from tests.faults.kit import JOB, Workdir, fails_under_mpirun, succeeds
from tests.processes import GUARD
from tests.runtime.comm_laws import LAWS, MPI_LAWS

pytestmark = pytest.mark.mpi

METHODS = ("greedy", "gis", "ls", "pls")
SOUP = ("-m", "gnnsoup_hpc", "soup", JOB, "--again", "--set", f"soup.methods={list(METHODS)}")


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Workdir:
    return kit.make_finished(tmp_path_factory)


@pytest.fixture
def workdir(original: Workdir, tmp_path: Path) -> Workdir:
    return kit.copy_workdir(original, tmp_path / "run")


def _run(workdir: Workdir, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in words],
        cwd=workdir.folder,
        env=os.environ | AS_ROOT,
        capture_output=True,
        text=True,
        timeout=GUARD,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def _one_line(outcome: subprocess.CompletedProcess[str], *names: str) -> None:
    """One line of ours, and no page of the MPI library's."""
    fails_under_mpirun(outcome, *names)
    assert "MPI_Init" not in outcome.stderr
    assert "RuntimeWarning" not in outcome.stderr


def _same_soups(workdir: Workdir, original: Workdir, by: str) -> None:
    for method in METHODS:
        found, wanted = (kit.dataset(each.soup(method), "mixture/alpha") for each in (workdir, original))
        np.testing.assert_allclose(found, wanted, atol=1e-6, err_msg=f"{method} by {by}")


def test_soups_are_the_same_under_both(workdir: Workdir, original: Workdir, open_mpi: str, system_python: str) -> None:
    """Of two ranks below, by srun; of MPICH's ranks in tests/ranks/test_same_result.py."""
    for ranks in (1, 3):
        said = succeeds(_run(workdir, open_mpi, "--oversubscribe", "-n", ranks, system_python, *SOUP))
        assert f"{ranks} ranks" in said
        _same_soups(workdir, original, f"{ranks} ranks of Open MPI")


@pytest.mark.parametrize("ranks", [2, 3])
def test_comms_laws_hold_under_open_mpi(open_mpi: str, system_python: str, ranks: int) -> None:
    words = [open_mpi, "--oversubscribe", "-n", str(ranks), system_python, "-m", "tests.runtime.comm_laws"]
    outcome = subprocess.run(
        words,
        cwd=Path(__file__).resolve().parents[2],
        env=os.environ | AS_ROOT,
        capture_output=True,
        text=True,
        timeout=GUARD,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert outcome.stdout.count("holds: ") == len(LAWS | MPI_LAWS)


def test_open_mpis_mpirun_with_mpich(workdir: Workdir, open_mpi: str, mpich: str) -> None:
    outcome = _run(workdir, open_mpi, "--oversubscribe", "-n", 2, sys.executable, *SOUP)
    _one_line(outcome, "[rank 0/2]", "started by Open MPI's mpirun", "library here is MPICH", ".venv/bin")


def test_mpichs_mpirun_with_open_mpi(workdir: Workdir, system_python: str, mpich: str) -> None:
    outcome = _run(workdir, mpich, "-n", 2, system_python, *SOUP)
    _one_line(outcome, "[rank 0/2]", "started by MPICH's mpirun", "library here is Open MPI", "MPI=embedded")


@pytest.mark.parametrize(
    ("plugin", "library", "advice"),
    [
        pytest.param("none", "MPICH", "--mpi=pmi2", id="none"),
        pytest.param("pmix", "MPICH", "--mpi=pmi2", id="MPICH with pmix"),
        pytest.param("pmi2", "Open MPI", "--mpi=pmix", id="Open MPI with pmi2"),
    ],
)
def test_srun_with_a_plugin_that_the_library_does_not_know(
    cluster: Cluster, workdir: Workdir, system_python: str, mpich: str, plugin: str, library: str, advice: str
) -> None:
    python = sys.executable if library == "MPICH" else system_python
    outcome = subprocess.run(
        ["srun", "--nodes=2", "--ntasks=2", f"--mpi={plugin}", python, *SOUP],
        cwd=workdir.folder,
        env=cluster.slurm.environment,
        capture_output=True,
        text=True,
        timeout=GUARD,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    _one_line(outcome, "[rank 0/2]", f"srun --mpi={plugin}", f"library here is {library}", advice)


def test_srun_with_open_mpi(cluster: Cluster, workdir: Workdir, original: Workdir, system_python: str) -> None:
    """The script finds the plugin by itself."""
    ours = Cluster(cluster.slurm, workdir)
    words = ("--nodes=2", "--ntasks=2", "--cpus-per-task=1", SCRIPTS / "soup.sh", *SOUP[3:])
    job = ours.sbatch(*words, GNNSOUP_PYTHON=system_python)
    assert ours.ended(job) == ["COMPLETED"], ours.said(job)
    assert "--mpi=pmix" in ours.said(job)
    assert "2 ranks" in ours.said(job)
    _same_soups(workdir, original, "srun")
