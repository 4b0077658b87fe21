"""Ranks without any launcher: its variables are read from a mapping."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from gnnsoup_hpc.config import MachineJob
from gnnsoup_hpc.errors import JobError, LauncherError
from gnnsoup_hpc.runtime import launch
from gnnsoup_hpc.runtime.launch import RankInfo, Threads
from tests.tiny import write_job

OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "5",
    "OMPI_COMM_WORLD_SIZE": "8",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
}
MPICH = {"PMI_RANK": "5", "PMI_SIZE": "8", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "4"}
SRUN = {
    "SLURM_PROCID": "5",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
}


@pytest.fixture
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def without_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK"):
        monkeypatch.delenv(name, raising=False)


def place(**changes: int) -> RankInfo:
    return RankInfo(**({"rank": 0, "size": 1, "local_rank": 0, "local_size": 1} | changes), host="here")


@pytest.mark.parametrize("environment", [OPEN_MPI, MPICH, SRUN])
def test_place_is_the_launchers(environment: dict[str, str]) -> None:
    found = launch.read_rank_info(environment)
    assert (found.rank, found.size, found.local_rank, found.local_size) == (5, 8, 1, 4)
    assert found.prefix == "[rank 5/8] "


def test_without_a_launcher_there_is_one_rank() -> None:
    found = launch.read_rank_info({})
    assert (found.rank, found.size, found.local_rank, found.local_size) == (0, 1, 0, 1)
    assert found.prefix == ""


def test_a_batch_script_is_one_process() -> None:
    assert launch.read_rank_info({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "1"}).size == 1


def test_a_launcher_that_says_no_local_rank_has_one_node() -> None:
    found = launch.read_rank_info({"PMI_RANK": "2", "PMI_SIZE": "4"})
    assert (found.local_rank, found.local_size) == (2, 4)


@pytest.mark.parametrize(("text", "size"), [("3", 3), ("2,1", 2), ("2(x3),1", 2)])
def test_slurms_short_form_of_tasks_a_node(text: str, size: int) -> None:
    assert launch.read_rank_info(SRUN | {"SLURM_STEP_TASKS_PER_NODE": text}).local_size == size


def test_slurm_job_is_noted_under_slurm_alone() -> None:
    assert launch.read_slurm_job({}) == {}
    assert launch.read_slurm_job({"SLURM_JOB_ID": "77"}) == {"slurm_job": "77", "slurm_restarts": "0"}
    assert launch.read_slurm_job({"SLURM_JOB_ID": "77", "SLURM_RESTART_COUNT": "2"})["slurm_restarts"] == "2"


def test_threads_are_the_jobs_or_an_equal_share(monkeypatch: pytest.MonkeyPatch) -> None:
    without_variables(monkeypatch)
    monkeypatch.setattr(launch, "count_cores", lambda: 8)
    assert launch.threads_per_rank(MachineJob(), place()) == 8
    assert launch.threads_per_rank(MachineJob(), place(size=4, local_size=4)) == 2
    assert launch.threads_per_rank(MachineJob(), place(size=16, local_size=16)) == 1
    assert launch.threads_per_rank(MachineJob(threads=3), place(size=4, local_size=4)) == 3


@pytest.mark.parametrize(
    ("variables", "size", "threads", "by"),
    [
        pytest.param({"OMP_NUM_THREADS": "3"}, 1, 3, "OMP_NUM_THREADS", id="OpenMP's"),
        pytest.param({"OMP_NUM_THREADS": "4,2"}, 4, 4, "OMP_NUM_THREADS", id="OpenMP's list for nested teams"),
        pytest.param({"OMP_NUM_THREADS": " 2 "}, 1, 2, "OMP_NUM_THREADS", id="spaces"),
        pytest.param({"OMP_NUM_THREADS": ""}, 1, 8, "", id="empty is as unset"),
        pytest.param({"SLURM_CPUS_PER_TASK": "2"}, 4, 2, "SLURM_CPUS_PER_TASK", id="Slurm's"),
        pytest.param({"SLURM_CPUS_PER_TASK": "2"}, 1, 8, "", id="Slurm's, of a batch script"),
        pytest.param({"SLURM_CPUS_PER_TASK": "64"}, 4, 8, "SLURM_CPUS_PER_TASK", id="Slurm's, more than the cores"),
        pytest.param(
            {"SLURM_CPUS_PER_TASK": "4", "OMP_NUM_THREADS": "1"}, 4, 1, "OMP_NUM_THREADS", id="OpenMP's before Slurm's"
        ),
    ],
)
@pytest.mark.usefixtures("_threads")
def test_threads_by_variables(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], size: int, threads: int, by: str
) -> None:
    without_variables(monkeypatch)
    monkeypatch.setattr(launch, "count_cores", lambda: 8)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    here = place(size=size)
    assert launch.threads_per_rank(MachineJob(), here) == threads
    assert launch.threads_per_rank(MachineJob(threads=5), here) == 5
    assert launch.plan_threads(MachineJob(), here) == Threads(threads if by == "OMP_NUM_THREADS" else 8)
    device = launch.claim_machine(MachineJob(device="cpu"), here)
    assert torch.get_num_threads() == threads
    assert f" threads ({by})," in launch.describe_mapping(MachineJob(), here, device) or not by
    assert " threads (machine.threads)," in launch.describe_mapping(MachineJob(threads=5), here, device)


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK"])
@pytest.mark.parametrize("value", ["many", "0", "-1", "1e3", "5000", "²", ",2"])
def test_a_number_of_threads_that_is_none_is_one_line(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    without_variables(monkeypatch)
    monkeypatch.setenv(name, value)
    with pytest.raises(LauncherError, match=f"^{name} = '{value}' is not a number from 1 to 4096: .*unset it$"):
        launch.threads_per_rank(MachineJob(), place(size=2, local_size=2))
    assert launch.threads_per_rank(MachineJob(threads=2), place(size=2, local_size=2)) == 2


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        pytest.param({"PMI_RANK": "x", "PMI_SIZE": "2"}, "PMI_RANK = 'x' is not a number from 0 on", id="rank"),
        pytest.param({"PMI_RANK": "0", "PMI_SIZE": "two"}, "PMI_SIZE = 'two' is not a number from 1 on", id="size"),
        pytest.param({"PMI_RANK": "0", "PMI_SIZE": "0"}, "PMI_SIZE = '0' is not a number from 1 on", id="no rank"),
        pytest.param({"PMI_RANK": "-1", "PMI_SIZE": "2"}, "PMI_RANK = '-1' is not", id="below"),
        pytest.param({"PMI_RANK": "2", "PMI_SIZE": "2"}, "PMI_RANK = 2 is no rank of PMI_SIZE = 2", id="beyond"),
        pytest.param(SRUN | {"SLURM_STEP_TASKS_PER_NODE": "(x2)"}, "SLURM_STEP_TASKS_PER_NODE = ", id="a node's"),
        pytest.param(OPEN_MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "0"}, "LOCAL_SIZE = '0' is not", id="a node's, none"),
        pytest.param(OPEN_MPI | {"OMPI_COMM_WORLD_LOCAL_RANK": "a"}, "LOCAL_RANK = 'a' is not", id="on the node"),
    ],
)
def test_launchers_variables_that_make_no_sense_are_one_line(environment: dict[str, str], says: str) -> None:
    with pytest.raises(LauncherError, match=re.escape(says)):
        launch.read_rank_info(environment)


@pytest.mark.parametrize("environment", [{"PMI_RANK": "", "PMI_SIZE": ""}, {"PMI_RANK": "0", "PMI_SIZE": ""}])
def test_empty_variables_of_launchers_are_as_none(environment: dict[str, str]) -> None:
    assert launch.read_rank_info(environment).size == 1


def test_cores_are_those_that_this_process_may_use() -> None:
    assert launch.count_cores() == len(os.sched_getaffinity(0))


@pytest.mark.usefixtures("_threads")
def test_a_rank_claims_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    without_variables(monkeypatch)
    monkeypatch.setattr(launch, "count_cores", lambda: 2)
    shared = place(size=2, local_size=2)
    launch.claim_machine(MachineJob(device="cpu"), shared)
    assert torch.get_num_threads() == 1
    with launch.plan_threads(MachineJob(), shared).alone():
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 1
    with launch.plan_threads(MachineJob(threads=1), shared).alone():
        assert torch.get_num_threads() == 1


@pytest.mark.usefixtures("_threads")
def test_devices_are_dealt_by_local_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=2**30))
    parts: list[float] = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda part, device: parts.append(part))
    found = [launch.claim_machine(MachineJob(), place(size=4, local_size=4, local_rank=rank)) for rank in range(4)]
    assert [str(device) for device in found] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    assert chosen == found
    assert parts == [0.5] * 4
    assert launch.claim_machine(MachineJob(device="cpu"), place()).type == "cpu"


@pytest.mark.usefixtures("_threads")
def test_a_gpu_that_is_asked_for_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(LauncherError, match=r"machine.device = 'cuda', but no GPU is visible"):
        launch.claim_machine(MachineJob(device="cuda"), place())
    assert launch.claim_machine(MachineJob(), place()).type == "cpu"


def test_one_rank_needs_no_mpi() -> None:
    assert launch.start_mpi(place()) is None


def test_errors_are_one_line_with_the_rank(capsys: pytest.CaptureFixture[str]) -> None:
    launch.say_error(place(rank=1, size=2), JobError("a.toml: no"))
    assert capsys.readouterr().err == "[rank 1/2] gnnsoup: error: a.toml: no\n"


def test_control_groups_bound_the_memory(tmp_path: Path) -> None:
    inner = tmp_path / "job_7" / "step_0"
    inner.mkdir(parents=True)
    (inner / "memory.max").write_text("max\n")
    (inner.parent / "memory.max").write_text("5000\n")
    (tmp_path / "memory.max").write_text("9000\n")
    assert sorted(launch.read_group_limits(tmp_path, "/job_7/step_0", "memory.max")) == [5000, 9000]
    assert launch.read_group_limits(tmp_path, "/elsewhere", "memory.max") == [9000]


def test_a_memory_limit_is_each_ranks_own() -> None:
    given = MachineJob(memory_limit="2 GiB")
    assert launch.memory_limit_bytes(given, place(local_size=4)) == 2 << 30
    share = launch.memory_limit_bytes(MachineJob(), place(local_size=4))
    assert share == launch.memory_limit_bytes(MachineJob(), place()) // 4


def test_bfloat16_is_refused_where_it_would_be_imitated(tmp_path: Path) -> None:
    cpuinfo, cpu = tmp_path / "cpuinfo", torch.device("cpu")
    cpuinfo.write_text("flags\t\t: fpu avx512f avx512_bf16 amx_tile\n")
    launch.check_precision("soup", "bfloat16", cpu, cpuinfo)
    cpuinfo.write_text("flags\t\t: fpu avx2 avx512f\n")
    launch.check_precision("soup", "float32", cpu, cpuinfo)
    with pytest.raises(LauncherError, match="this processor has no bfloat16 products; use 'float32'"):
        launch.check_precision("soup", "bfloat16", cpu, cpuinfo)
    with pytest.raises(LauncherError, match="no bfloat16 products"):
        launch.check_precision("soup", "bfloat16", cpu, tmp_path / "nowhere")


def test_more_threads_than_cores_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    without_variables(monkeypatch)
    monkeypatch.setattr(launch, "count_cores", lambda: 2)
    for count, said in ((3, "3 threads, more than the 2 cores,"), (2, "2 threads, device")):
        monkeypatch.setattr(torch, "get_num_threads", lambda count=count: count)
        assert said in launch.describe_mapping(MachineJob(), place(), torch.device("cpu"))


def test_the_mapping_names_cores_threads_and_device(monkeypatch: pytest.MonkeyPatch) -> None:
    without_variables(monkeypatch)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 5, 8, 9})
    said = launch.describe_mapping(MachineJob(), place(), torch.device("cpu"))
    assert said == f"on here, cores 0-2,5,8-9, {torch.get_num_threads()} threads, device cpu"
    assert launch.count_cores() == 6


@pytest.mark.parametrize(
    "variables",
    [*(pytest.param(each, marks=pytest.mark.slow) for each in (OPEN_MPI, MPICH)), SRUN],
    ids=["Open MPI", "MPICH", "srun"],
)
def test_training_never_imports_mpi(variables: dict[str, str], tmp_path: Path) -> None:
    """Not even where a launcher says that there are many ranks."""
    job = write_job(tmp_path, ingredients=1)
    code = (
        "import sys; sys.modules['mpi4py'] = None; from gnnsoup_hpc.__main__ import main;"
        f" sys.exit(main(['train', {str(job)!r}, '--set', 'train.epochs=1']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "[rank 5/8] train: ingredient 0000 done" in done.stdout
