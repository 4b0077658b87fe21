"""Whatever is killed while training, the same command finishes the rest, and the result is that of a quiet run."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from gnnsoup_hpc.runtime import leases as leasing
from tests.faults import kit
from tests.faults.kit import Workdir, content, succeeds
from tests.processes import GUARD, Gate, start, wait_until

TOTAL = 4
LONGER = ("--set", f"train.ingredients={TOTAL}")
DONE = re.compile(r"ingredient (\d+) done")


@pytest.fixture(scope="session")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Content of each ingredient of a run that nobody disturbed."""
    workdir = kit.make_workdir(tmp_path_factory.mktemp("quiet"))
    succeeds(workdir.gnnsoup_here("train", *LONGER))
    return [content(workdir.ingredient(index)) for index in range(TOTAL)]


@pytest.fixture
def fresh(tmp_path: Path) -> Workdir:
    """A prepared graph and nothing trained."""
    workdir = kit.make_workdir(tmp_path)
    succeeds(workdir.gnnsoup_here("prepare", *LONGER))
    return workdir


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    """Whoever trains is killed after ingredient 0 is there, and before another is."""
    return Gate(tmp_path / "gate")


def _there(workdir: Workdir) -> dict[Path, str]:
    """The finished ingredients and their bytes' hashes."""
    paths = (workdir.ingredient(index) for index in range(TOTAL))
    return {path: kit.digest(path) for path in paths if path.exists()}


def _trainers(workdir: Workdir, gate: Gate, process: subprocess.Popen[str], ranks: int) -> list[int]:
    """Process ids of the ranks that are training, once ingredient 0 is done and so many ranks are at work on others."""
    wait_until(lambda: workdir.ingredient(0).exists() and len(gate.held()) == ranks, process)
    return list(gate.held().values())


def _finished_like(workdir: Workdir, quiet: list[str], before: dict[Path, str]) -> None:
    """The same command ends well, trains what was missing and nothing else, and the result is the quiet run's."""
    assert set(before) == {workdir.ingredient(0)}
    said = succeeds(workdir.gnnsoup("train", *LONGER, ranks=2))
    assert Counter(DONE.findall(said)) == {f"{index:04d}": 1 for index in range(1, TOTAL)}
    assert {path: kit.digest(path) for path in before} == before
    assert [content(workdir.ingredient(index)) for index in range(TOTAL)] == quiet


@pytest.mark.mpi
def test_one_rank_is_killed(fresh: Workdir, gate: Gate, quiet: list[str]) -> None:
    with start(fresh.folder, "train", *LONGER, ranks=2, **gate.variables()) as process:
        os.kill(_trainers(fresh, gate, process, 2)[0], signal.SIGKILL)
        process.communicate(timeout=GUARD)
    assert process.returncode != 0
    _finished_like(fresh, quiet, _there(fresh))


@pytest.mark.mpi
def test_the_whole_job_is_killed(fresh: Workdir, gate: Gate, quiet: list[str]) -> None:
    with start(fresh.folder, "train", *LONGER, ranks=2, **gate.variables()) as process:
        ranks = _trainers(fresh, gate, process, 2)
        for each in {process.pid, *ranks, *_family(process.pid)}:
            os.kill(each, signal.SIGKILL)
        process.communicate(timeout=GUARD)
    _finished_like(fresh, quiet, _there(fresh))


def _family(pid: int) -> list[int]:
    """All processes below one, from /proc."""
    below = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [process for child in below for process in (child, *_family(child))]


def test_two_jobs_at_once_share_the_work(fresh: Workdir, gate: Gate, quiet: list[str]) -> None:
    words = ("train", *LONGER)
    with (
        start(fresh.folder, *words, **gate.variables()) as one,
        start(fresh.folder, *words, **gate.variables()) as other,
    ):
        assert set(_trainers(fresh, gate, one, 2)) == {one.pid, other.pid}
        gate.open()
        said = [process.communicate(timeout=GUARD)[0] for process in (one, other)]
    assert [one.returncode, other.returncode] == [0, 0], said
    assert Counter(DONE.findall("".join(said))) == {f"{index:04d}": 1 for index in range(TOTAL)}
    assert [content(fresh.ingredient(index)) for index in range(TOTAL)] == quiet


def test_the_other_job_finishes_what_a_killed_one_leaves(fresh: Workdir, gate: Gate, quiet: list[str]) -> None:
    words = ("train", *LONGER)
    with start(fresh.folder, *words, **gate.variables()) as victim:
        assert _trainers(fresh, gate, victim, 1) == [victim.pid]
        with start(fresh.folder, *words, **gate.variables()) as other:
            _trainers(fresh, gate, other, 2)
            victim.kill()
            lost = victim.communicate(timeout=GUARD)[0]
            before = _there(fresh)
            gate.open()
            said = other.communicate(timeout=GUARD)[0]
    assert other.returncode == 0, said
    assert set(before) == {fresh.ingredient(0)}
    assert DONE.findall(lost) == ["0000"]
    assert Counter(DONE.findall(said)) == {f"{index:04d}": 1 for index in range(1, TOTAL)}
    assert {path: kit.digest(path) for path in before} == before
    assert [content(fresh.ingredient(index)) for index in range(TOTAL)] == quiet


def test_leases_of_the_silent_and_torn_ones_hold_nobody_up(
    fresh: Workdir, quiet: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A holder on another host that was not heard of for an hour; a lease that a crash of the host left empty."""
    monkeypatch.setattr(leasing, "CONFIRM_SECONDS", 1.0)  # nobody lives who would renew them meanwhile
    leases = fresh.root / "leases"
    leases.mkdir(exist_ok=True)
    elsewhere = {"host": "elsewhere", "boot": "another", "pid": 1, "started": "1", "since": 0.0, "token": "x"}
    (leases / "ingredient-0000.lease").write_text(json.dumps(elsewhere))
    (leases / "ingredient-0001.lease").write_text("")
    hour_ago = time.time() - 3600
    for lease in leases.iterdir():
        os.utime(lease, (hour_ago, hour_ago))
    succeeds(fresh.gnnsoup_here("train", *LONGER))
    assert [content(fresh.ingredient(index)) for index in range(TOTAL)] == quiet
    assert not list(leases.iterdir())
