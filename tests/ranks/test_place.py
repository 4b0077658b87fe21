"""Where a process stands, by the variables that launchers set."""

from __future__ import annotations

import pytest

from gnnsoup_hpc.runtime.launch import read_rank_info, read_slurm_job

SRUN = {
    "SLURM_JOB_ID": "7",
    "SLURM_NTASKS": "8",
    "SLURM_PROCID": "5",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        pytest.param({}, (0, 1, 0, 1), id="alone"),
        pytest.param(
            {
                "OMPI_COMM_WORLD_RANK": "5",
                "OMPI_COMM_WORLD_SIZE": "8",
                "OMPI_COMM_WORLD_LOCAL_RANK": "1",
                "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
            },
            (5, 8, 1, 4),
            id="Open MPI",
        ),
        pytest.param(
            {"PMI_RANK": "5", "PMI_SIZE": "8", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "4"}, (5, 8, 1, 4), id="hydra"
        ),
        pytest.param({"PMI_RANK": "1", "PMI_SIZE": "2"}, (1, 2, 1, 2), id="PMI that says no node"),
        pytest.param(SRUN, (5, 8, 1, 4), id="srun"),
        pytest.param(SRUN | {"PMI_RANK": "5", "PMI_SIZE": "8"}, (5, 8, 1, 4), id="srun --mpi=pmi2"),
        pytest.param(
            SRUN | {"SLURM_STEP_TASKS_PER_NODE": "2(x3),1", "SLURM_STEP_NUM_TASKS": "7"},
            (5, 7, 1, 2),
            id="uneven nodes",
        ),
        pytest.param(
            SRUN
            | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_TASKS_PER_NODE": "1"}
            | {"PMI_RANK": "5", "PMI_SIZE": "8", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "4"},
            (5, 8, 1, 4),
            id="hydra inside Slurm",
        ),
        pytest.param(
            {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
            (0, 1, 0, 1),
            id="the batch script itself",
        ),
    ],
)
def test_place(environment: dict[str, str], expected: tuple[int, int, int, int]) -> None:
    here = read_rank_info(environment)
    assert (here.rank, here.size, here.local_rank, here.local_size) == expected
    assert here.prefix == (f"[rank {expected[0]}/{expected[1]}] " if expected[1] > 1 else "")


def test_the_slurm_job_is_known() -> None:
    assert read_slurm_job({}) == {}
    assert read_slurm_job(SRUN) == {"slurm_job": "7", "slurm_restarts": "0"}
    assert read_slurm_job(SRUN | {"SLURM_RESTART_COUNT": "2"}) == {"slurm_job": "7", "slurm_restarts": "2"}
