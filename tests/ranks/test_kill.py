"""Whatever is killed while training, the same command finishes the rest, and the result is that of a quiet run."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.faults import kit
from tests.faults.kit import JOB, Bowl, content, succeeds
from tests.tiny import mpirun

TOTAL = 4
LONGER = ("--set", f"train.ingredients={TOTAL}", "--set", "train.epochs=400")
GUARD = 120  # seconds until a hang is called one
DONE = re.compile(r"ingredient (\d+) done")


@pytest.fixture(scope="session")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Content of each ingredient of a run that nobody disturbed."""
    bowl = kit.laid_out(tmp_path_factory.mktemp("quiet"))
    succeeds(bowl.gnnsoup_here("train", *LONGER))
    return [content(bowl.ingredient(index)) for index in range(TOTAL)]


@pytest.fixture
def fresh(tmp_path: Path) -> Bowl:
    """A prepared graph and nothing trained."""
    bowl = kit.laid_out(tmp_path)
    succeeds(bowl.gnnsoup_here("prepare", *LONGER))
    return bowl


def _start(bowl: Bowl, ranks: int = 0) -> subprocess.Popen[str]:
    launcher = [mpirun(), "-n", str(ranks)] if ranks else []
    words = [*launcher, sys.executable, "-m", "gnnsoup_hpc", "train", JOB, *LONGER]
    return subprocess.Popen(
        words,
        cwd=bowl.folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def _there(bowl: Bowl) -> dict[Path, str]:
    """The finished ingredients and their bytes' hashes."""
    paths = (bowl.ingredient(index) for index in range(TOTAL))
    return {path: kit.digest(path) for path in paths if path.exists()}


def _trainer(bowl: Bowl, started: subprocess.Popen[str]) -> int:
    """Process id of a rank that is training, once at least one ingredient is done."""
    until = time.monotonic() + GUARD
    while time.monotonic() < until and started.poll() is None:
        for lease in sorted((bowl.root / "leases").glob("ingredient-*.lease")) if _there(bowl) else ():
            try:
                return int(json.loads(lease.read_text())["pid"])
            except FileNotFoundError:
                continue
        time.sleep(0.005)
    raise AssertionError(f"no rank was ever seen to train: {started.communicate(timeout=GUARD)[0]}")


def _finished_like(bowl: Bowl, quiet: list[str], before: dict[Path, str]) -> None:
    """The same command ends well, trains what was missing and nothing else, and the result is the quiet run's."""
    assert 0 < len(before) < TOTAL, "the kill came too late to show anything"
    said = succeeds(bowl.gnnsoup("train", *LONGER, ranks=2))
    missing = {f"{index:04d}": 1 for index in range(TOTAL) if bowl.ingredient(index) not in before}
    assert Counter(DONE.findall(said)) == missing
    assert {path: kit.digest(path) for path in before} == before
    assert [content(bowl.ingredient(index)) for index in range(TOTAL)] == quiet


@pytest.mark.mpi
def test_one_rank_is_killed(fresh: Bowl, quiet: list[str]) -> None:
    started = _start(fresh, ranks=2)
    os.kill(_trainer(fresh, started), signal.SIGKILL)
    started.communicate(timeout=GUARD)
    assert started.returncode != 0
    _finished_like(fresh, quiet, _there(fresh))


@pytest.mark.mpi
def test_the_whole_job_is_killed(fresh: Bowl, quiet: list[str]) -> None:
    started = _start(fresh, ranks=2)
    rank = _trainer(fresh, started)
    for process in {started.pid, rank, *_family(started.pid)}:
        os.kill(process, signal.SIGKILL)
    started.communicate(timeout=GUARD)
    _finished_like(fresh, quiet, _there(fresh))


def _family(pid: int) -> list[int]:
    """All processes below one, from /proc."""
    below = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [process for child in below for process in (child, *_family(child))]


def test_two_jobs_at_once_share_the_work(fresh: Bowl, quiet: list[str]) -> None:
    both = [_start(fresh), _start(fresh)]
    said = [started.communicate(timeout=GUARD)[0] for started in both]
    assert [started.returncode for started in both] == [0, 0], said
    assert Counter(DONE.findall("".join(said))) == {f"{index:04d}": 1 for index in range(TOTAL)}
    assert [content(fresh.ingredient(index)) for index in range(TOTAL)] == quiet


def test_the_other_job_finishes_what_a_killed_one_leaves(fresh: Bowl, quiet: list[str]) -> None:
    victim = _start(fresh)
    assert _trainer(fresh, victim) == victim.pid
    other = _start(fresh)
    victim.kill()
    lost = victim.communicate(timeout=GUARD)[0]
    before = _there(fresh)
    said = other.communicate(timeout=GUARD)[0]
    assert other.returncode == 0, said
    missing = {f"{index:04d}": 1 for index in range(TOTAL) if fresh.ingredient(index) not in before}
    assert Counter(DONE.findall(said)) == missing
    assert not set(DONE.findall(lost)) & set(missing)
    assert {path: kit.digest(path) for path in before} == before
    assert [content(fresh.ingredient(index)) for index in range(TOTAL)] == quiet


def test_leases_of_the_silent_and_torn_ones_hold_nobody_up(fresh: Bowl, quiet: list[str]) -> None:
    """A holder on another host that was not heard of for an hour; a lease that a crash of the host left empty."""
    leases = fresh.root / "leases"
    leases.mkdir(exist_ok=True)
    elsewhere = {"host": "elsewhere", "boot": "another", "pid": 1, "started": "1", "since": 0.0, "token": "x"}
    (leases / "ingredient-0000.lease").write_text(json.dumps(elsewhere))
    (leases / "ingredient-0001.lease").write_text("")
    hour_ago = time.time() - 3600
    for lease in leases.iterdir():
        os.utime(lease, (hour_ago, hour_ago))
    started = _start(fresh)
    said = started.communicate(timeout=GUARD)[0]
    assert started.returncode == 0, said
    assert [content(fresh.ingredient(index)) for index in range(TOTAL)] == quiet
    assert not list(leases.iterdir())
