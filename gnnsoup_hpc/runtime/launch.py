"""Ranks: the only user of mpi4py and of the launchers' variables. Rank, device, threads, abort.

Training needs no communication, so it never starts MPI: a rank reads its number from the launcher's environment. So it
trains as well where launcher and library do not know each other (a step of many tasks, each of which MPI takes for a
world of one), for ranks share the work by leases. Souping starts MPI when the launcher says that there is more than one
rank, and is refused there, for every rank would do all the work.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import traceback
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from gnnsoup_hpc.errors import LauncherError, MismatchError, SoupError
from gnnsoup_hpc.runtime.gpu import claim_gpu
from gnnsoup_hpc.runtime.signals import PreemptionHandler
from gnnsoup_hpc.types import Precision

if TYPE_CHECKING:  # each is loaded by what needs it
    import torch
    from mpi4py.MPI import Intracomm

    from gnnsoup_hpc.config import MachineJob
    from gnnsoup_hpc.runtime.comm import Comm

_LAST_WORDS_SECONDS = 0.5  # for the launcher to pass on what was said; a busy one has lost it
_LOOK_SECONDS = 0.05
_MOST_THREADS = 4096  # as for machine.threads
_OF_A_PROCESS = ("machine.threads", "OMP_NUM_THREADS")  # they bound it also while the node's other ranks sleep
_BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})  # of x86 and ARM, in /proc/cpuinfo
_OPEN_MPI, _MPICH = "Open MPI", "MPICH Version"
# (rank, size, rank on the node, ranks on the node), by launcher; srun's variables are those of a step, for a batch
# script itself has SLURM_NTASKS too but is one process.
_SLURM = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE")
_LAUNCHERS = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    _SLURM,
)
_UNBOUNDED = 1 << 31


@dataclass(frozen=True)
class RankInfo:
    """Where this process stands among the ranks that one launcher started, and whether it was asked to stop."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    host: str
    stop: PreemptionHandler = field(default_factory=PreemptionHandler, compare=False, repr=False)

    @property
    def prefix(self) -> str:
        """What begins this rank's lines."""
        return f"[rank {self.rank}/{self.size}] " if self.size > 1 else ""


def read_rank_info(environment: Mapping[str, str] = os.environ) -> RankInfo:
    """This process's place, from the launcher's variables; alone where there are none, or empty ones.

    Raises: LauncherError where they make no sense.
    """
    host = socket.gethostname()
    for rank, size, local_rank, local_size in _LAUNCHERS:
        if not (environment.get(rank) and environment.get(size)):
            continue
        if local_rank not in environment and environment.get("SLURM_PROCID") == environment[rank]:
            _, _, local_rank, local_size = _SLURM  # srun with PMI, which knows no node
        mine, everyone = read_number(environment, rank), read_number(environment, size, least=1)
        if mine >= everyone:
            raise LauncherError(
                f"{rank} = {mine} is no rank of {size} = {everyone}: start ranks by mpirun or srun, or unset both"
            )
        here = read_number(environment, local_rank, default=mine)
        neighbours = read_number(environment, local_size, default=everyone, least=1)
        return RankInfo(mine, everyone, here, neighbours, host, PreemptionHandler(says=mine == 0))
    return RankInfo(0, 1, 0, 1, host)


def read_number(
    environment: Mapping[str, str], name: str, default: int = 0, least: int = 0, most: int = _UNBOUNDED
) -> int:
    """The number that a variable begins with: Slurm writes "2(x3),1", OpenMP takes a list; empty is as not there.

    Raises: LauncherError.
    """
    text = environment.get(name, "").strip()
    first = text.split(",")[0].split("(")[0].strip()
    if not text:
        return default
    if not (first.isascii() and first.isdecimal()) or not least <= int(first) <= most:
        span = f"from {least} on" if most == _UNBOUNDED else f"from {least} to {most}"
        raise LauncherError(f"{name} = {text!r} is not a number {span}: set it to one, or unset it")
    return int(first)


def launch_id(here: RankInfo, environment: Mapping[str, str] = os.environ) -> str:
    """A name that the ranks which one launcher started share, where that can be told, and no later start has."""
    if here.size == 1:
        return uuid.uuid4().hex
    if all(name in environment for name in (*_SLURM[:2], "SLURM_JOB_ID", "SLURM_STEP_ID")):
        return ".".join(
            [environment["SLURM_JOB_ID"], *read_slurm_job(environment).values(), environment["SLURM_STEP_ID"]]
        )
    return environment.get("PMIX_NAMESPACE", f"{here.host}:{os.getppid()}")  # the launcher's own process on this node


def read_slurm_job(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The Slurm job that this process belongs to, and how often it was requeued; nothing outside Slurm."""
    if "SLURM_JOB_ID" not in environment:
        return {}
    return {"slurm_job": environment["SLURM_JOB_ID"], "slurm_restarts": environment.get("SLURM_RESTART_COUNT", "0")}


def describe(here: RankInfo) -> dict[str, object]:
    """What a lease says of the rank that holds it."""
    return {"rank": here.rank, "ranks": here.size, "launch": launch_id(here)} | read_slurm_job()


def count_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def memory_limit_bytes(job: MachineJob, here: RankInfo) -> int:
    """Bytes that this rank's process may fill: the job's limit, or its share of half of the memory here."""
    from gnnsoup_hpc.config import parse_bytes

    return parse_bytes(job.memory_limit) or read_memory_limit() // 2 // here.local_size


def read_memory_limit() -> int:
    """Physical memory, or what a control group allows this process (Slurm's --mem for one), if that is less."""
    allowed = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    groups = Path("/proc/self/cgroup")
    for line in groups.read_text(encoding="utf-8").splitlines() if groups.is_file() else ():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            allowed += read_group_limits(Path("/sys/fs/cgroup"), path, "memory.max")
        elif controllers == "memory":  # version 1
            allowed += read_group_limits(Path("/sys/fs/cgroup/memory"), path, "memory.limit_in_bytes")
    return min(allowed)


def read_group_limits(root: Path, group: str, name: str) -> list[int]:
    """What a control group and those around it allow."""
    folder, found = root / group.lstrip("/"), []
    for each in (folder, *folder.parents):
        with suppress(OSError):
            text = (each / name).read_text(encoding="utf-8").strip()
            found += [int(text)] if text.isdecimal() else []
    return found


def threads_per_rank(job: MachineJob, here: RankInfo) -> int:
    """Threads for each rank of a node when all of them compute: what was asked for, or an equal share."""
    return _asked_threads(job, here)[0] or max(1, count_cores() // here.local_size)


def _asked_threads(job: MachineJob, here: RankInfo) -> tuple[int, str]:
    """How many threads were asked for, and by what; 0 where by nothing.

    The job comes first, then OpenMP's variable, which is about threads, then Slurm's, which is about cores.
    """
    if job.threads:
        return job.threads, "machine.threads"
    if count := read_number(os.environ, "OMP_NUM_THREADS", least=1, most=_MOST_THREADS):
        return count, "OMP_NUM_THREADS"
    if here.size > 1 and (count := read_number(os.environ, "SLURM_CPUS_PER_TASK", least=1, most=_MOST_THREADS)):
        return min(count_cores(), count), "SLURM_CPUS_PER_TASK"
    return 0, ""


@dataclass(frozen=True)
class Threads:
    """How many threads this process computes with while the node's other ranks wait; 0 leaves the number as it is."""

    most: int = 0

    @contextmanager
    def alone(self) -> Iterator[None]:
        """A block in which other ranks wait for this one."""
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(self.most or before)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def plan_threads(job: MachineJob, here: RankInfo) -> Threads:
    """Threads for this rank while the others of its node wait for it."""
    count, by = _asked_threads(job, here)
    return Threads(count if by in _OF_A_PROCESS else count_cores())


def claim_machine(job: MachineJob, here: RankInfo) -> torch.device:
    """Set this rank's threads and choose its device.

    Raises: LauncherError where the job asks for a GPU and there is none, or a variable makes no sense.
    """
    import torch

    torch.set_num_threads(threads_per_rank(job, here))
    visible = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if job.device == "cuda" and not visible:
        raise LauncherError("machine.device = 'cuda', but no GPU is visible here; use 'auto' or 'cpu'")
    if job.device == "cpu" or not visible:
        return torch.device("cpu")
    return claim_gpu(job, here.local_rank % visible, count_sharing(here, visible))


def count_sharing(here: RankInfo, visible: int, environment: Mapping[str, str] = os.environ) -> int:
    """Ranks that use the GPU that this one uses, itself included: ranks of a node take its visible GPUs in turn.

    Where Slurm gives each task GPUs of its own (--gpus-per-task), no other rank has them.
    """
    if environment.get("SLURM_GPUS_PER_TASK"):
        return 1
    return len(range(here.local_rank % visible, here.local_size, visible))


def describe_mapping(job: MachineJob, here: RankInfo, device: torch.device) -> str:
    """Where this rank computes: host, the cores that it may use, as `taskset -c` has them, threads, device."""
    import torch

    threads, by = torch.get_num_threads(), _asked_threads(job, here)[1]
    count = f"{threads} threads" + (f" ({by})" if by else "")
    count += f", more than the {count_cores()} cores" if threads > count_cores() else ""
    named = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    return f"on {here.host}, cores {_spans(os.sched_getaffinity(0))}, {count}, device {device}{named}"


def _spans(numbers: set[int]) -> str:
    """Numbers as spans: 0-3,8."""
    starts, ends = sorted(numbers - {n + 1 for n in numbers}), sorted(numbers - {n - 1 for n in numbers})
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))


def check_precision(
    where: str, precision: Precision, device: torch.device, cpuinfo: Path = Path("/proc/cpuinfo")
) -> None:
    """Refuse a precision that the device would only imitate, far slower than float32. Raises: LauncherError."""
    if precision == "float32":
        return
    import torch

    if device.type == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        words = set(cpuinfo.read_text(encoding="utf-8").split()) if cpuinfo.is_file() else set()
        able = bool(words & _BFLOAT16_FLAGS)
    if not able:
        raise LauncherError(
            f"{where}.precision = {precision!r}, but this {'GPU' if device.type == 'cuda' else 'processor'} has no"
            f" {precision} products; use 'float32'"
        )


def start_mpi(here: RankInfo) -> Intracomm | None:
    """The world's communicator; None for one rank alone, which needs no MPI.

    The first call starts MPI, and so waits for all ranks.
    Raises: LauncherError where MPI is missing; MismatchError where it does not know the launcher of this rank.
    """
    if here.size == 1:
        return None
    try:
        import mpi4py

        mpi4py.rc(initialize=False, finalize=True)  # not before the library is known to fit the launcher
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise LauncherError(
            f"{here.size} ranks were started, but MPI cannot be loaded ({error}); load your MPI module,"
            " or `pip install mpich` for one from PyPI"
        ) from None
    library = MPI.Get_library_version()
    if not MPI.Is_initialized():
        if why := find_mismatch(library, os.environ):
            raise MismatchError(why)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # mpi4py's guesses; the size below tells
            MPI.Init_thread()
    if MPI.COMM_WORLD.size != here.size:
        name = library.partition("\n")[0].strip()
        raise MismatchError(
            f"the launcher started {here.size} ranks, but MPI ({name}) sees {MPI.COMM_WORLD.size}: every rank"
            " would do all the work. Use the mpirun of that library, or `srun --mpi=` with the plugin that it knows"
        )
    return MPI.COMM_WORLD


def find_launcher(environment: Mapping[str, str]) -> str:
    """The launcher of this process, in words that name its options; nothing where none is known."""
    if "OMPI_COMM_WORLD_SIZE" in environment:
        return "Open MPI's mpirun"
    if "MPI_LOCALRANKID" in environment:
        return "MPICH's mpirun"
    if "SLURM_STEP_NUM_TASKS" in environment and "SLURM_PROCID" in environment:
        plugins = {"PMIX_RANK": "pmix", "PMI_FD": "pmi2", "PMI_RANK": "pmi2"}  # for MPI, by what they set
        return f"srun --mpi={next((plugin for name, plugin in plugins.items() if name in environment), 'none')}"
    return ""


def find_mismatch(library: str, environment: Mapping[str, str], speaks_pmi: Callable[[], bool] | None = None) -> str:
    """Why an MPI library cannot work here, and what to do, in one line; nothing where nothing speaks against it.

    library: what the library says of itself, all lines; speaks_pmi: whether an Open MPI knows Slurm's own PMI.
    """
    launcher, name = find_launcher(environment), library.partition("\n")[0].strip()
    where = f"these ranks were started by {launcher}, but the MPI library here is {name}"
    is_open_mpi = _OPEN_MPI in library
    if launcher.startswith("Open MPI") and not is_open_mpi:
        advice = "use the mpirun that belongs to it (in .venv/bin for MPICH from PyPI), or set up with MPI=system"
        return f"{where}: {advice}"
    if launcher.startswith("MPICH") and is_open_mpi:
        return f"{where}: use Open MPI's mpirun, or set up with MPI=embedded for MPICH from PyPI"
    if launcher == "srun --mpi=none":
        return f"{where}, which needs a plugin to find the others: srun --mpi={'pmix' if is_open_mpi else 'pmi2'}"
    if launcher == "srun --mpi=pmi2" and is_open_mpi and not (speaks_pmi or open_mpi_speaks_pmi)():
        return f"{where}, built without Slurm's PMI: use srun --mpi=pmix, or Open MPI's mpirun"
    if launcher == "srun --mpi=pmix" and library.startswith(_MPICH) and "pmix" not in library.lower():
        return f"{where}, built without PMIx: use srun --mpi=pmi2, or MPICH's mpirun"
    return ""


def open_mpi_speaks_pmi() -> bool:
    """Whether Open MPI has its component for Slurm's PMI; taken to be so where nothing tells."""
    if not (tool := shutil.which("ompi_info")):
        return True
    said = subprocess.run([tool, "--parsable"], capture_output=True, text=True, check=False)
    return said.returncode != 0 or any(f"mca:pmix:{name}:" in said.stdout for name in ("s1", "s2"))


def connect(here: RankInfo) -> Comm:
    """The ranks' Comm; a serial one for one rank alone. Rank-collective. Raises: as `start_mpi`."""
    from gnnsoup_hpc.runtime.comm import SERIAL, MpiComm

    world = start_mpi(here)
    return SERIAL if world is None else MpiComm(world)


def show_tracebacks(here: RankInfo) -> None:
    """From now on, an unforeseen error is printed with its rank and ends all ranks, so that none waits for ever."""

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        text = "".join(traceback.format_exception(kind, error, trace))
        lines = "".join(f"{here.prefix}{line}\n" for line in text.splitlines())
        with suppress(OSError):  # the others must be ended, whether it can be said or not
            print(lines, end="", file=sys.stderr, flush=True)
        abort_others(1)

    sys.excepthook = hook


def say_error(here: RankInfo, error: SoupError) -> None:
    """Print an error's one line, in one write with its newline, or lines of several ranks run into each other."""
    print(f"{here.prefix}gnnsoup: error: {error}\n", end="", file=sys.stderr, flush=True)


def mpi_is_running() -> bool:
    """Whether MPI has been started and there is more than one rank."""
    mpi = sys.modules.get("mpi4py.MPI")
    return mpi is not None and mpi.Is_initialized() and not mpi.Is_finalized() and mpi.COMM_WORLD.size > 1


def wait_for_others(seconds: float) -> None:
    """Where MPI runs, wait that long for the other ranks to come here too, for what one ends, it ends for all.

    A rank that nobody asked to stop does not come.
    """
    if mpi_is_running():
        until, others = time.monotonic() + seconds, sys.modules["mpi4py.MPI"].COMM_WORLD.Ibarrier()
        while not others.Test() and time.monotonic() < until:
            time.sleep(_LOOK_SECONDS)


def abort_others(code: int) -> None:
    """Where MPI runs with more than one rank, end them all with `code`; otherwise do nothing."""
    if mpi_is_running():
        time.sleep(_LAST_WORDS_SECONDS)
        sys.modules["mpi4py.MPI"].COMM_WORLD.Abort(code)
