"""What started this process, and whether the MPI library can work with it, told before MPI starts.

A library that does not know its launcher takes each rank for a world of its own, or ends the process with a page of
words and no exception; what can be told from the launcher's variables and the library's own description is told here.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Mapping

from gnnsoup_hpc.errors import LauncherError

OPEN_MPI, MPICH = "Open MPI", "MPICH Version"
# (rank, size, rank on the node, ranks on the node), by launcher; srun's variables are those of a step, for a batch
# script itself has SLURM_NTASKS too but is one process.
SLURM = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE")
_LAUNCHERS = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    SLURM,
)
_UNBOUNDED = 1 << 31


def read_standing(environment: Mapping[str, str]) -> tuple[int, int, int, int]:
    """(rank, size, rank on the node, ranks on the node); of one process alone where no launcher says more.

    Raises: LauncherError where its variables make no sense.
    """
    for rank, size, local_rank, local_size in _LAUNCHERS:
        if not (environment.get(rank) and environment.get(size)):
            continue
        if local_rank not in environment and environment.get("SLURM_PROCID") == environment[rank]:
            _, _, local_rank, local_size = SLURM  # srun with PMI, which knows no node
        mine, everyone = read_number(environment, rank), read_number(environment, size, least=1)
        if mine >= everyone:
            raise LauncherError(
                f"{rank} = {mine} is no rank of {size} = {everyone}: start ranks by mpirun or srun, or unset both"
            )
        here = read_number(environment, local_rank, default=mine)
        return mine, everyone, here, read_number(environment, local_size, default=everyone, least=1)
    return 0, 1, 0, 1


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


def started_by(environment: Mapping[str, str]) -> str:
    """The launcher of this process, in words that name its options; nothing where none is known."""
    if "OMPI_COMM_WORLD_SIZE" in environment:
        return "Open MPI's mpirun"
    if "MPI_LOCALRANKID" in environment:
        return "MPICH's mpirun"
    if "SLURM_STEP_NUM_TASKS" in environment and "SLURM_PROCID" in environment:
        plugins = {"PMIX_RANK": "pmix", "PMI_FD": "pmi2", "PMI_RANK": "pmi2"}  # for MPI, by what they set
        return f"srun --mpi={next((plugin for name, plugin in plugins.items() if name in environment), 'none')}"
    return ""


def mismatch(library: str, environment: Mapping[str, str], speaks_pmi: Callable[[], bool] | None = None) -> str:
    """Why an MPI library cannot work here, and what to do, in one line; nothing where nothing speaks against it.

    library: what the library says of itself, all lines; speaks_pmi: whether an Open MPI knows Slurm's own PMI.
    """
    launcher, name = started_by(environment), library.partition("\n")[0].strip()
    where = f"these ranks were started by {launcher}, but the MPI library here is {name}"
    if launcher.startswith("Open MPI") and OPEN_MPI not in library:
        return (
            f"{where}: use the mpirun that belongs to it (in .venv/bin for MPICH from PyPI), or set up with MPI=system"
        )
    if launcher.startswith("MPICH") and OPEN_MPI in library:
        return f"{where}: use Open MPI's mpirun, or set up with MPI=embedded for MPICH from PyPI"
    if launcher == "srun --mpi=none":
        return (
            f"{where}, which needs a plugin to find the others: srun --mpi={'pmix' if OPEN_MPI in library else 'pmi2'}"
        )
    if launcher == "srun --mpi=pmi2" and OPEN_MPI in library and not (speaks_pmi or open_mpi_speaks_pmi)():
        return f"{where}, built without Slurm's PMI: use srun --mpi=pmix, or Open MPI's mpirun"
    if launcher == "srun --mpi=pmix" and library.startswith(MPICH) and "pmix" not in library.lower():
        return f"{where}, built without PMIx: use srun --mpi=pmi2, or MPICH's mpirun"
    return ""


def open_mpi_speaks_pmi() -> bool:
    """Whether Open MPI has its component for Slurm's PMI; taken to be so where nothing tells."""
    if not (tool := shutil.which("ompi_info")):
        return True
    said = subprocess.run([tool, "--parsable"], capture_output=True, text=True, check=False)
    return said.returncode != 0 or any(f"mca:pmix:{name}:" in said.stdout for name in ("s1", "s2"))
