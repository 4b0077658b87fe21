"""One table of laws, over every Comm; and what is left of a world when a rank fails."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gnnsoup_hpc.runtime import launch, processes
from gnnsoup_hpc.runtime.comm import SERIAL, Comm, Moves
from tests.comms import CheckingComm, OrderError, ThreadComm, WorldError, run_ranks
from tests.runtime.comm_laws import COLLECTIVES, LAWS, MPI_LAWS
from tests.tiny import mpirun

ROOT = Path(__file__).resolve().parents[2]
GUARD = 240  # seconds until a hang is called one
every_law = pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
every_collective = pytest.mark.parametrize("collective", COLLECTIVES)


def start(ranks: int, *words: object) -> subprocess.CompletedProcess[str]:
    """The program of laws on so many ranks; a hang fails the test."""
    try:
        return subprocess.run(
            [mpirun(), "-n", str(ranks), sys.executable, "-m", "tests.runtime.comm_laws", *map(str, words)],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=GUARD,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired as expired:
        raise AssertionError(f"hangs; so far it said: {expired.stdout!r} {expired.stderr!r}") from None


@pytest.fixture(scope="module")
def said() -> dict[int, subprocess.CompletedProcess[str]]:
    """What all laws over MPI said, by number of ranks."""
    return {}


@every_law
def test_laws_of_one_rank(law) -> None:
    law(SERIAL)
    law(CheckingComm(SERIAL))


@every_law
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_laws_of_threads(law, size: int) -> None:
    run_ranks(size, law)
    run_ranks(size, lambda comm: law(CheckingComm(comm)))


@pytest.mark.mpi
@pytest.mark.parametrize("law", [*LAWS, *MPI_LAWS])
@pytest.mark.parametrize("ranks", [pytest.param(2, marks=pytest.mark.slow), 4])
def test_laws_over_mpi(said: dict[int, subprocess.CompletedProcess[str]], ranks: int, law: str) -> None:
    if ranks not in said:
        said[ranks] = start(ranks)
    assert law in re.findall(r"holds: (\w+)", said[ranks].stdout), said[ranks].stdout + said[ranks].stderr
    assert said[ranks].returncode == 0


@pytest.mark.mpi
@pytest.mark.parametrize(("how", "who"), [("raise", 1), ("kill", 1), ("kill", 0)])
@every_collective
def test_a_rank_that_fails_ends_all(tmp_path: Path, collective: str, how: str, who: int) -> None:
    outcome = start(3, collective, how, who, tmp_path)
    assert outcome.returncode != 0
    assert "went on" not in outcome.stdout
    if how == "raise":
        assert f"[rank {who}/3] ZeroDivisionError: planted" in outcome.stderr
    pids = [int(path.read_text()) for path in tmp_path.glob("*.pid")]
    assert len(pids) == 3
    until = time.monotonic() + GUARD
    while left := [pid for pid in pids if (life := processes.read_life(pid)) is not None and life.state != "Z"]:
        assert time.monotonic() < until, f"ranks are left behind: {left}"
        time.sleep(0.02)


@every_collective
@pytest.mark.parametrize("checking", [False, True])
def test_a_rank_that_raises_breaks_a_world_of_threads(collective: str, checking: bool) -> None:
    broken = []

    def rank(comm: Comm) -> None:
        comm.allgather(None)
        if comm.rank == 1:
            raise ZeroDivisionError("planted")
        try:
            COLLECTIVES[collective](CheckingComm(comm) if checking else comm)
        except WorldError as error:
            broken.append((comm.rank, str(error)))
            raise

    with pytest.raises(ZeroDivisionError, match="planted"):
        run_ranks(3, rank)
    assert sorted(broken) == [(other, f"rank {other} waits for rank 1, which has ended") for other in (0, 2)]


@every_collective
def test_a_rank_that_returns_early_breaks_a_world_of_threads(collective: str) -> None:
    with pytest.raises(WorldError, match="rank 0 waits for rank 1, which has ended"):
        run_ranks(3, lambda comm: comm.rank == 1 or COLLECTIVES[collective](comm))


def test_ranks_results_are_in_order() -> None:
    assert run_ranks(4, lambda comm: 10 * comm.rank) == [0, 10, 20, 30]


def test_another_order_is_told_with_each_ranks_call() -> None:
    def rank(comm: ThreadComm) -> None:
        checking = CheckingComm(comm)
        if comm.rank == 1:
            checking.bcast(1)
        else:
            checking.sum_in_order(np.zeros((2, 3)))

    says = r"^rank 0 calls sum_in_order of float64 \(2, 3\); rank 1 calls bcast$"
    with pytest.raises(OrderError, match=says):
        run_ranks(2, rank)


def test_one_rank_alone_exchanges_with_nobody() -> None:
    moves: Moves = [(1, np.array([0]), np.array([1]))]
    with pytest.raises(ValueError, match="rank 1"):
        SERIAL.exchange(np.zeros((2, 1)), moves)


def test_one_rank_is_connected_without_mpi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    comm = launch.connect(launch.read_rank_info({}))
    assert comm is SERIAL
    assert (comm.rank, comm.size) == (0, 1)
