"""Whether an MPI library fits the launcher, from the launcher's variables and what the library says of itself."""

from __future__ import annotations

import pytest

from gnnsoup_hpc.runtime.launch import find_mismatch

MPICH = "MPICH Version:      5.0.2\nMPICH configure:    --with-device=ch4:ucx,ofi --with-pm=hydra:gforker\n"
MPICH_PMIX = "MPICH Version:      4.3.0\nMPICH configure:    --with-pmix=/opt/pmix --with-pm=no\n"
CRAY = "MPI VERSION    : CRAY MPICH version 8.1.28.29 (ANL base 3.4a2)\n"
OPEN_MPI = "Open MPI v4.1.4, package: Debian OpenMPI, ident: 4.1.4, repo rev: v4.1.4, May 26, 2022"
STEP = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "4"}
PMI2 = STEP | {"PMI_FD": "12", "PMI_RANK": "1", "PMI_SIZE": "4"}
PMIX = STEP | {"PMIX_RANK": "1", "PMIX_NAMESPACE": "slurm.pmix.7.0"}
HYDRA = {"PMI_FD": "12", "PMI_RANK": "1", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "4"}
ORTE = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4", "PMIX_RANK": "1"}


@pytest.mark.parametrize(
    ("library", "environment"),
    [
        pytest.param(MPICH, HYDRA, id="MPICH's mpirun"),
        pytest.param(MPICH, STEP | HYDRA, id="MPICH's mpirun inside Slurm"),
        pytest.param(MPICH, PMI2, id="srun, MPICH"),
        pytest.param(MPICH_PMIX, PMIX, id="srun, MPICH with PMIx"),
        pytest.param(CRAY, PMIX, id="srun, a library that does not say what it knows"),
        pytest.param(OPEN_MPI, ORTE, id="Open MPI's mpirun"),
        pytest.param(OPEN_MPI, STEP | ORTE, id="Open MPI's mpirun inside Slurm"),
        pytest.param(OPEN_MPI, PMIX, id="srun, Open MPI"),
        pytest.param(MPICH, {}, id="no launcher known"),
    ],
)
def test_what_fits(library: str, environment: dict[str, str]) -> None:
    assert find_mismatch(library, environment, lambda: False) == ""


@pytest.mark.parametrize(
    ("library", "environment", "started", "advice"),
    [
        pytest.param(MPICH, ORTE, "Open MPI's mpirun", "in .venv/bin", id="Open MPI's mpirun, MPICH"),
        pytest.param(OPEN_MPI, HYDRA, "MPICH's mpirun", "Open MPI's mpirun", id="MPICH's mpirun, Open MPI"),
        pytest.param(OPEN_MPI, STEP | HYDRA, "MPICH's mpirun", "Open MPI's mpirun", id="the same inside Slurm"),
        pytest.param(MPICH, STEP, "srun --mpi=none", "srun --mpi=pmi2", id="srun without a plugin, MPICH"),
        pytest.param(OPEN_MPI, STEP, "srun --mpi=none", "srun --mpi=pmix", id="srun without a plugin, Open MPI"),
        pytest.param(OPEN_MPI, PMI2, "srun --mpi=pmi2", "srun --mpi=pmix", id="srun with pmi2, Open MPI"),
        pytest.param(MPICH, PMIX, "srun --mpi=pmix", "srun --mpi=pmi2", id="srun with pmix, MPICH"),
    ],
)
def test_what_does_not_fit_is_one_line(library: str, environment: dict[str, str], started: str, advice: str) -> None:
    said = find_mismatch(library, environment, lambda: False)
    assert "\n" not in said
    assert f"started by {started}, " in said
    assert f"library here is {library.splitlines()[0]}" in said
    assert advice in said.partition("library here is")[2]


def test_an_open_mpi_that_knows_slurms_own_pmi_fits() -> None:
    assert find_mismatch(OPEN_MPI, PMI2, lambda: True) == ""
