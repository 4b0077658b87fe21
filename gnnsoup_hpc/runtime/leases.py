"""Leases on pieces of work in a run directory, so that ranks and jobs that share it do not do the same work twice.

A lease is a small file, created exclusively, whose modification time its holder renews. It only saves double work:
results are published atomically and are functions of their inputs, so correctness never rests on a lease. A lease is
over when its holder's process is gone, which only processes that would see it can tell, or when it was silent: not
renewed for a while on the file system's own clock, and not while the one that takes it over looked on either. So hosts'
clocks may differ, the file system's may jump, and what a network file system remembers of a file may be late.
"""

from __future__ import annotations

import errno
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from gnnsoup_hpc.errors import RunError
from gnnsoup_hpc.runtime import processes, status_files

RENEW_SECONDS = 5.0
CONFIRM_SECONDS = 12.0  # to look on for, so long that a living holder renews meanwhile
EXPIRE_SECONDS = 90.0  # more than the minute that NFS may remember a file's time for
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS})  # what file systems without hard links say


class Lease:
    """A lease that this process has taken, and renews from now on."""

    def __init__(self, path: Path, text: str) -> None:
        self._path, self._text = path, text
        self._lost, self._done = False, threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()

    @property
    def lost(self) -> bool:
        """Whether somebody else has it by now: this process was suspended, or cut off from the file system."""
        return self._lost

    def close(self) -> None:
        """Give it up, unless it is somebody else's by now."""
        self._done.set()
        self._thread.join()  # or it might put back what is removed here
        with suppress(OSError):  # it expires
            _remove_if(self._path, self._text)

    def _keep(self) -> None:
        while not (self._lost or self._done.wait(RENEW_SECONDS)):
            with suppress(OSError):  # a network file system's troubles pass, or the lease expires
                self._renew()

    def _renew(self) -> None:
        """Renew it if it is ours; a lease that was removed is put back."""
        try:
            self._lost = _look(self._path)[0] != self._text
        except FileNotFoundError:
            self._lost = not _create(self._path, self._text)
            return
        if not self._lost:
            os.utime(self._path)


class LeaseMonitor:
    """What one process sees of others' leases over time, on its own monotonic clock."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[Path, tuple[tuple[str, float], float]] = {}  # text and time of renewal, since when

    def is_over(self, path: Path) -> bool:
        """Whether the lease at `path` may be taken over. To be asked again and again: one look tells of few."""
        try:
            look = _look(path)
            by_process = _is_gone(status_files.parse(look[0]))
            if by_process is not None:
                return by_process
            now = self._clock()
            seen, since = self._seen.get(path, (None, now))
            if seen != look:
                self._seen[path] = look, now
                return False
            if CONFIRM_SECONDS <= now - since < EXPIRE_SECONDS:
                return read_clock(path) - look[1] > EXPIRE_SECONDS
            return now - since >= EXPIRE_SECONDS
        except FileNotFoundError:
            return False


@contextmanager
def hold(
    path: Path, who: Mapping[str, object] | None = None, watch: LeaseMonitor | None = None
) -> Iterator[Lease | None]:
    """Yield the lease at `path` if it is ours until the block ends, else None.

    who: what it says of its holder besides the process. watch: who asks for the same lease again and again gives the
    same one, for a silent holder's lease is taken over only after several looks.
    """
    text = json.dumps(_identity() | dict(who or {}))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        ours = _is_free(path, watch or LeaseMonitor()) and _create(path, text)
    except OSError as error:
        if error.errno != errno.ESTALE:  # NFS: replaced while we looked
            raise RunError(f"{path} cannot be written: {error.strerror}; make the run's folder writable") from None
        ours = False
    if not ours:
        yield None
        return
    with closing(Lease(path, text)) as lease:
        yield lease


def _is_free(path: Path, watch: LeaseMonitor) -> bool:
    """Whether nobody holds the lease; one that is over is taken away."""
    try:
        text, _ = _look(path)
    except FileNotFoundError:
        return True
    if not watch.is_over(path):
        return False
    _remove_if(path, text)  # and no other that was taken between our looks
    return True


def clear(path: Path) -> None:
    """Remove the lease at `path` if it is seen to be over, and what killed processes have left of it.

    For work that is done, whose lease nobody asks for any more. What cannot be removed stays; nobody heeds it.
    """
    with suppress(OSError):
        _is_free(path, LeaseMonitor())
    processes.remove_leftovers(path.parent, path.name)


def is_expired(path: Path) -> bool:
    """Whether the lease at `path` exists and its holder is gone or silent, as far as one look can tell."""
    try:
        text, renewed = _look(path)
        gone = _is_gone(status_files.parse(text))
        return read_clock(path) - renewed > EXPIRE_SECONDS if gone is None else gone
    except FileNotFoundError:
        return False


def describe_holder(path: Path) -> str:
    """Who holds the lease at `path`, in words."""
    who = status_files.read(path)
    return f"process {who.get('pid', '?')} on {who.get('host', '?')}" if who else "another process"


def _look(path: Path) -> tuple[str, float]:
    """A lease's text, and when it was renewed; an open file's time, for opening it makes NFS ask the server."""
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.read(), os.fstat(file.fileno()).st_mtime


def _is_gone(who: Mapping[str, Any]) -> bool | None:
    """Whether a holder's process has ended; None where that cannot be seen from here, or it lives but is suspended.

    A text that is no lease's names nobody, and expires like any other.
    """
    here = processes.this_process()
    if any(who.get(key) != value for key, value in here.items()) or None in (who.get("pid"), who.get("started")):
        return None
    life = processes.read_life(int(who["pid"]))
    if life is None or life.state == "Z" or life.started != who["started"]:
        return True
    return None if life.state in "Tt" else False


def _identity() -> dict[str, object]:
    """Who holds a lease: where, which process and since when, and a token that no other lease has."""
    pid = os.getpid()
    life = processes.read_life(pid)
    who = processes.this_process() | {"pid": pid, "started": life.started if life else None}
    return who | {"since": time.time(), "token": uuid.uuid4().hex}


def _create(path: Path, text: str) -> bool:
    """Put `text` at `path` in one step, unless something is there."""
    private = processes.private_name(path, uuid.uuid4().hex)
    try:
        private.write_text(text, encoding="utf-8")
        os.link(private, path)
    except FileExistsError:
        return private.stat().st_nlink == 2  # NFS may have lost the answer that it was done
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        with suppress(FileExistsError), path.open("x", encoding="utf-8") as file:
            file.write(text)
            return True
        return False
    finally:
        private.unlink(missing_ok=True)
    return True


def _remove_if(path: Path, text: str) -> None:
    """Remove the lease if it says `text`; a lease that somebody else took meanwhile stays."""
    aside = processes.private_name(path, uuid.uuid4().hex)
    try:
        if _look(path)[0] != text:
            return
        os.rename(path, aside)
    except FileNotFoundError:
        return
    if _look(aside)[0] != text:  # taken between the look and the renaming: put back, unless it was taken again
        with suppress(FileExistsError):
            os.link(aside, path)
    aside.unlink()


def read_clock(path: Path) -> float:
    """Now, in seconds, on the clock of the file system that holds `path`. Raises: OSError."""
    probe = processes.private_name(path, f"clock.{uuid.uuid4().hex}")
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink()
