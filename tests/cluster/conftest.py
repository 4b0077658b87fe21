"""A Slurm of two virtual nodes for the session, and a job in a folder whose name is hard to quote."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster import sandbox
from tests.cluster.sandbox import Sandbox
from tests.faults import kit
from tests.faults.kit import Workdir
from tests.processes import GUARD, Gate
from tests.tiny import mpirun

SCRIPTS = Path(__file__).resolve().parents[2] / "slurm"
AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
OVER = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "DEADLINE", "BOOT_FAIL"}


@pytest.fixture(scope="session")
def slurm() -> Iterator[Sandbox]:
    """The cluster; tests that want one are skipped where none can be."""
    if why := sandbox.missing():
        pytest.skip(why)
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # a socket's path must be short
    with sandbox.up(folder) as up:
        yield up
    assert up.leftovers() == []


@dataclass(frozen=True)
class Cluster:
    """A folder with a job, and the cluster to submit it to."""

    slurm: Sandbox
    workdir: Workdir

    @property
    def gate(self) -> Gate:
        """Holds what is trained with its variables."""
        return Gate(self.workdir.folder / "gate")

    def sbatch(self, *words: object, **variables: str) -> str:
        """`sbatch WORDS` in the folder; the job's id."""
        variables = {"GNNSOUP_PYTHON": self.python} | variables
        return self.slurm.command("sbatch", "--parsable", *words, cwd=self.workdir.folder, **variables).strip()

    @property
    def python(self) -> str:
        """The interpreter of these tests, for jobs to run."""
        return sys.executable

    def shown(self, job: str) -> str:
        """What Slurm knows of a job."""
        return self.slurm.command("scontrol", "show", "job", job)

    def ended(self, job: str) -> list[str]:
        """States of a job, or of each of an array, once it is over."""
        states: list[str] = []

        def over() -> bool:
            states[:] = re.findall(r"JobState=(\S+)", self.shown(job))
            return set(states) <= OVER

        self.until(over, job)
        return states

    def until(self, happened: Callable[[], bool], job: str) -> None:
        """Wait for something that a job does."""
        deadline = time.monotonic() + GUARD
        while not happened():
            assert time.monotonic() < deadline, f"{self.shown(job)}\n{self.said(job)}"
            time.sleep(0.2)

    def said(self, job: str) -> str:
        """What a job has said, in sbatch's own file and then in its logs."""
        outs = _of_job(self.workdir.folder.glob("*.out"), job)
        return "".join(path.read_text() for path in [*outs, *self.logs(job)])

    def logs(self, job: str) -> list[Path]:
        """Logs of a job, or of each of an array, under the run."""
        return _of_job((self.workdir.root / "logs").glob("*.log"), job)

    def done(self) -> int:
        """Ingredients that are there."""
        return len(list((self.workdir.root / "ingredients").glob("????.h5")))

    def checkpoints(self) -> int:
        """Ingredients that were begun and can be gone on with."""
        return len(list((self.workdir.root / "checkpoints").glob("ingredient-*.h5")))


def _of_job(paths: Iterable[Path], job: str) -> list[Path]:
    """Those that end with a job's id, or that of one of an array."""
    return sorted(path for path in paths if re.search(rf"-{job}(_\d+)?$", path.stem))


@pytest.fixture
def cluster(slurm: Sandbox, tmp_path: Path) -> Cluster:
    """A job in a folder with blanks and a quote in its path."""
    return Cluster(slurm, kit.make_workdir(tmp_path / "it's a job"))


@pytest.fixture(scope="session")
def open_mpi() -> str:
    """Open MPI's mpirun, as Debian and others name it."""
    for name in ("mpirun.openmpi", "mpirun"):
        found = shutil.which(name)
        version = subprocess.run([found, "--version"], capture_output=True, text=True).stdout if found else ""
        if found and ("Open MPI" in version or "OpenRTE" in version):
            return found
    pytest.skip("no Open MPI here: `make cluster-tools` installs it")


@pytest.fixture(scope="session")
def mpich() -> str:
    """MPICH's mpirun from PyPI, which this environment has unless it was set up with MPI=system."""
    if not Path(sys.prefix, "lib", "libmpi.so").exists():
        pytest.skip("no MPICH in this environment: it was set up with MPI=system")
    return mpirun()


@pytest.fixture(scope="session")
def system_python(open_mpi: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter as MPI=system makes it: all of this environment's packages, but no MPI library of its own."""
    folder = tmp_path_factory.mktemp("system")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    site = sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
    # As a site of its own, for a package that is installed in place is found by a .pth file there.
    Path(site, "all.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    return str(folder / "bin" / "python")
