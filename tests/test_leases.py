"""Leases: exclusive, given up, taken over from the dead and the silent, never from the living."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gnnsoup_hpc import leases
from gnnsoup_hpc.errors import RunError

HOLDER = """
import sys
from pathlib import Path
from gnnsoup_hpc import leases
with leases.held(Path(sys.argv[1])) as ours:
    print(ours, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "leases" / "work.lease"


def takes(path: Path) -> bool:
    with leases.held(path) as ours:
        return ours


@contextmanager
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lease until it is killed."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        try:
            yield process
        finally:
            process.kill()


def left_by(path: Path, seconds_ago: float = 0.0, **who: object) -> None:
    """Put a lease there that this very process holds, but for what `who` says, renewed that long ago."""
    with leases.held(path):
        text = path.read_text()
    path.write_text(json.dumps(json.loads(text) | who))
    age(path, seconds_ago)


def age(path: Path, seconds: float) -> None:
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))


def wait_until(true: Callable[[], bool]) -> None:
    """Give a thread or the kernel its time, but not for ever."""
    for _ in range(2000):
        if true():
            return
        time.sleep(0.01)
    pytest.fail("waited for nothing")


SILENT, LATE = leases.EXPIRE_SECONDS + 5.0, leases.EXPIRE_SECONDS / 2


def test_a_lease_is_exclusive_and_given_up(path: Path) -> None:
    with leases.held(path) as ours:
        assert ours
        assert not takes(path)
        assert not leases.is_over(path)
    assert list(path.parent.iterdir()) == []
    assert takes(path)


def test_a_lease_is_given_up_when_the_work_fails(path: Path) -> None:
    with pytest.raises(ValueError, match="work"), leases.held(path):
        raise ValueError("work")
    assert takes(path)


def test_work_has_leases_of_its_own(path: Path) -> None:
    with leases.held(path), leases.held(path.with_name("other.lease")) as other:
        assert other


def test_a_living_holder_keeps_its_lease_however_silent(path: Path) -> None:
    with holder(path):
        assert not takes(path)
        age(path, SILENT)
        assert not takes(path)


def test_a_dead_holder_loses_its_lease_at_once(path: Path) -> None:
    with holder(path) as process:
        process.kill()
        wait_until(lambda: leases.is_over(path))  # dead, and nobody has asked for its exit code yet
        process.wait()
        assert leases.is_over(path)
        assert takes(path)


def test_a_process_number_used_again_is_another_holder(path: Path) -> None:
    left_by(path, started="1")
    assert takes(path)


@pytest.mark.parametrize("who", [{"host": "elsewhere"}, {"boot": "another"}])
def test_a_holder_out_of_sight_loses_its_lease_by_age_alone(path: Path, who: dict[str, str]) -> None:
    left_by(path, **who)
    assert not takes(path)
    left_by(path.with_name("late.lease"), LATE, **who)
    assert not takes(path.with_name("late.lease"))
    left_by(path.with_name("silent.lease"), SILENT, **who)
    assert takes(path.with_name("silent.lease"))


@pytest.mark.parametrize("text", ["", "half a le", "{}", "[]", "7", '{"host": "elsewhere"}'])
def test_a_file_that_is_no_lease_expires_like_a_silent_holder(path: Path, text: str) -> None:
    path.parent.mkdir()
    path.write_text(text)
    assert not takes(path)
    age(path, SILENT)
    assert takes(path)


def test_a_stolen_lease_is_not_removed_by_its_former_holder(path: Path) -> None:
    with leases.held(path):
        path.write_text("somebody else's")
    assert path.read_text() == "somebody else's"
    assert list(path.parent.iterdir()) == [path]


def test_a_lease_that_vanished_is_no_trouble(path: Path) -> None:
    with leases.held(path) as ours:
        path.unlink()
    assert ours
    assert takes(path)


def test_a_lease_taken_over_between_two_looks_stays_its_new_holders(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two ranks find the same lease to be over; the slower one must not take the quicker one's new lease away."""
    left_by(path, started="1")
    look = leases.is_over

    def look_and_be_overtaken(lease: Path) -> bool:
        over = look(lease)
        lease.write_text("the quicker one's")
        return over

    monkeypatch.setattr(leases, "is_over", look_and_be_overtaken)
    assert not takes(path)
    assert path.read_text() == "the quicker one's"


def test_a_held_lease_is_renewed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.01)
    with leases.held(path):
        age(path, SILENT)
        before = path.stat().st_mtime
        wait_until(lambda: path.stat().st_mtime - before > LATE)


def test_a_folder_that_cannot_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "leases").write_text("a file")
    with (
        pytest.raises(RunError, match=r"work.lease cannot be written"),
        leases.held(tmp_path / "leases" / "work.lease"),
    ):
        pass
