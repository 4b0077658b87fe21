"""Leases: exclusive, given up, taken over from the dead and the silent, never from the living."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gnnsoup_hpc.errors import RunError
from gnnsoup_hpc.runtime import leases, processes
from gnnsoup_hpc.runtime.leases import LeaseMonitor

HOLDER = """
import sys
from pathlib import Path
from gnnsoup_hpc.runtime import leases
with leases.hold(Path(sys.argv[1])) as ours:
    print(bool(ours), flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "leases" / "work.lease"


class Onlooker:
    """Asks for a lease again and again; its clock is moved by hand."""

    def __init__(self) -> None:
        self.now = 0.0
        self._watch = LeaseMonitor(lambda: self.now)

    def takes(self, path: Path, after: float = 0.0) -> bool:
        self.now += after
        with leases.hold(path, watch=self._watch) as ours:
            return ours is not None


def takes(path: Path) -> bool:
    """At the first look."""
    return Onlooker().takes(path)


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
    with leases.hold(path):
        text = path.read_text()
    path.write_text(json.dumps(json.loads(text) | who))
    age(path, seconds_ago)


def age(path: Path, seconds: float) -> None:
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))


def wait_until(true: Callable[[], bool]) -> None:
    """Give a thread or the kernel its time, but not for ever."""
    for _ in range(60_000):
        if true():
            return
        time.sleep(0.01)
    pytest.fail("waited for nothing")


SILENT, LATE = leases.EXPIRE_SECONDS + 5.0, leases.EXPIRE_SECONDS / 2
AGES = [0.0, SILENT, 1e6, -1e6]  # since the last renewal, by whatever clock
OUT_OF_SIGHT = [{"host": "elsewhere"}, {"boot": "another"}, {"namespace": 1}, {"user": 10**6}, {"started": None}]


def test_a_lease_is_exclusive_and_given_up(path: Path) -> None:
    with leases.hold(path) as ours:
        assert ours
        assert not takes(path)
        assert not leases.is_expired(path)
    assert list(path.parent.iterdir()) == []
    assert takes(path)


def test_a_lease_is_given_up_when_the_work_fails(path: Path) -> None:
    with pytest.raises(ValueError, match="work"), leases.hold(path):
        raise ValueError("work")
    assert takes(path)


def test_work_has_leases_of_its_own(path: Path) -> None:
    with leases.hold(path), leases.hold(path.with_name("other.lease")) as other:
        assert other


def test_a_living_holder_keeps_its_lease_however_silent(path: Path) -> None:
    with holder(path):
        assert not takes(path)
        age(path, SILENT)
        assert not takes(path)


def test_a_dead_holder_loses_its_lease_at_once(path: Path) -> None:
    with holder(path) as process:
        process.kill()
        wait_until(lambda: leases.is_expired(path))  # dead, and nobody has asked for its exit code yet
        process.wait()
        assert leases.is_expired(path)
        assert takes(path)


def test_a_process_number_used_again_is_another_holder(path: Path) -> None:
    left_by(path, started="1")
    assert takes(path)


@pytest.mark.parametrize("who", OUT_OF_SIGHT, ids=lambda who: next(iter(who)))
def test_a_holder_out_of_sight_keeps_its_lease_until_it_was_silent_and_looked_at(
    path: Path, who: dict[str, str]
) -> None:
    """Containers on one host see other processes under the same numbers, or none."""
    onlooker = Onlooker()
    left_by(path, LATE, **who)
    assert not onlooker.takes(path)
    assert not onlooker.takes(path, after=leases.CONFIRM_SECONDS)
    age(path, SILENT - LATE)
    assert not onlooker.takes(path, after=leases.CONFIRM_SECONDS)
    assert onlooker.takes(path, after=leases.CONFIRM_SECONDS)


@pytest.mark.parametrize("seconds", AGES)
def test_whatever_the_clocks_say_a_lease_that_is_renewed_is_kept(path: Path, seconds: float) -> None:
    """The holder's heartbeat is seen to change the file, if only by a little."""
    onlooker = Onlooker()
    left_by(path, seconds, host="elsewhere")
    for _ in range(100):
        assert not onlooker.takes(path, after=leases.RENEW_SECONDS)
        age(path, -0.5)


@pytest.mark.parametrize("seconds", AGES)
def test_whatever_the_clocks_say_a_lease_of_the_dead_is_taken_in_the_end(path: Path, seconds: float) -> None:
    onlooker = Onlooker()
    left_by(path, seconds, host="elsewhere")
    assert not onlooker.takes(path)
    assert not onlooker.takes(path, after=leases.CONFIRM_SECONDS - 1.0)
    assert onlooker.takes(path, after=leases.EXPIRE_SECONDS)


@pytest.mark.parametrize("host_clock", [0.0, 4e9])
def test_the_hosts_clock_is_nobodys_concern(path: Path, host_clock: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases.time, "time", lambda: host_clock)
    with leases.hold(path, {"host": "elsewhere"}):
        onlooker = Onlooker()
        assert not leases.is_expired(path)
        assert not onlooker.takes(path)
        assert not onlooker.takes(path, after=LATE)


@pytest.mark.parametrize("text", ["", "half a le", "{}", "[]", "7", '{"host": "elsewhere"}', "\xff"])
def test_a_file_that_is_no_lease_expires_like_a_silent_holder(path: Path, text: str) -> None:
    path.parent.mkdir()
    path.write_text(text, encoding="latin-1")
    onlooker = Onlooker()
    assert not onlooker.takes(path)
    age(path, SILENT)
    assert not onlooker.takes(path)
    assert onlooker.takes(path, after=leases.CONFIRM_SECONDS)


def test_a_suspended_holder_finds_its_lease_taken_and_leaves_it_alone(path: Path) -> None:
    with holder(path) as process:
        os.kill(process.pid, signal.SIGSTOP)
        wait_until(lambda: processes.read_life(process.pid).state == "T")
        age(path, SILENT)
        onlooker = Onlooker()
        assert not onlooker.takes(path)
        onlooker.now += leases.CONFIRM_SECONDS
        with leases.hold(path, watch=onlooker._watch) as ours:
            assert ours
            text = path.read_text()
            os.kill(process.pid, signal.SIGCONT)
            process.communicate("", timeout=600)  # it gives up what it has no more
            assert process.returncode == 0
            assert path.read_text() == text
            assert not takes(path)


@pytest.mark.usefixtures("quick")
def test_a_holder_notices_that_its_lease_was_taken(path: Path) -> None:
    with leases.hold(path) as ours:
        assert ours
        assert not ours.lost
        path.write_text("somebody else's")
        wait_until(lambda: ours.lost)
    assert path.read_text() == "somebody else's"


@pytest.mark.usefixtures("quick")
def test_a_lease_that_was_removed_is_put_back(path: Path) -> None:
    with leases.hold(path) as ours:
        text = path.read_text()
        path.unlink()
        wait_until(path.exists)
        assert path.read_text() == text
        assert ours
        assert not ours.lost
    assert not path.exists()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.EACCES, errno.ENOSPC])
def test_a_file_systems_troubles_pass(path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    troubles = []
    with leases.hold(path) as ours:
        with monkeypatch.context() as patch:
            patch.setattr(leases.os, "utime", lambda *_: troubles.append(number) or _fail(number))
            wait_until(lambda: len(troubles) > 3)
        age(path, SILENT)
        before = path.stat().st_mtime
        wait_until(lambda: path.stat().st_mtime - before > LATE)
        assert ours
        assert not ours.lost


def _fail(number: int) -> None:
    raise OSError(number, os.strerror(number))


def test_a_file_system_without_links_has_leases_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases.os, "link", lambda *_: _fail(errno.EPERM))
    with leases.hold(path) as ours:
        assert ours
        assert json.loads(path.read_text())["pid"] == os.getpid()
        assert not takes(path)
    assert list(path.parent.iterdir()) == []


def test_a_link_whose_answer_was_lost_is_made(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def lossy(source: Path, target: Path) -> None:
        link(source, target)
        link(source, target)  # NFS asks again

    monkeypatch.setattr(leases.os, "link", lossy)
    assert takes(path)
    assert list(path.parent.iterdir()) == []


def test_a_lease_says_who_holds_it(path: Path) -> None:
    with leases.hold(path, {"rank": 3, "slurm_job": "77"}):
        who = json.loads(path.read_text())
    assert (who["rank"], who["slurm_job"], who["pid"]) == (3, "77", os.getpid())
    assert {"host", "boot", "namespace", "user", "started", "since", "token"} <= who.keys()


def test_a_stolen_lease_is_not_removed_by_its_former_holder(path: Path) -> None:
    with leases.hold(path):
        path.write_text("somebody else's")
    assert path.read_text() == "somebody else's"
    assert list(path.parent.iterdir()) == [path]


def test_a_lease_that_vanished_is_no_trouble(path: Path) -> None:
    with leases.hold(path) as ours:
        path.unlink()
    assert ours
    assert takes(path)


def test_a_lease_taken_over_between_two_looks_stays_its_new_holders(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two ranks find the same lease to be over; the slower one must not take the quicker one's new lease away."""
    left_by(path, started="1")
    look = LeaseMonitor.is_over

    def look_and_be_overtaken(watch: LeaseMonitor, lease: Path) -> bool:
        over = look(watch, lease)
        lease.write_text("the quicker one's")
        return over

    monkeypatch.setattr(LeaseMonitor, "is_over", look_and_be_overtaken)
    assert not takes(path)
    assert path.read_text() == "the quicker one's"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quick heartbeat."""
    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.01)


@pytest.mark.usefixtures("quick")
def test_a_held_lease_is_renewed(path: Path) -> None:
    with leases.hold(path):
        age(path, SILENT)
        before = path.stat().st_mtime
        wait_until(lambda: path.stat().st_mtime - before > LATE)


def test_a_folder_that_cannot_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "leases").write_text("a file")
    with (
        pytest.raises(RunError, match=r"work.lease cannot be written"),
        leases.hold(tmp_path / "leases" / "work.lease"),
    ):
        pass
