"""Leases on pieces of work in a run directory, so that ranks and jobs that share it do not do the same work twice.

A lease is a small file, created exclusively, whose modification time its holder renews. It only saves double work:
results are published atomically and are functions of their inputs, so correctness never rests on a lease. A lease is
over when its holder's process is gone (on the same host) or when it was not renewed for a while (from any host; ages
are taken on the file system's own clock, so hosts' clocks may differ).
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gnnsoup_hpc.errors import RunError

RENEW_SECONDS = 10.0
EXPIRE_SECONDS = 90.0
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@contextmanager
def held(path: Path) -> Iterator[bool]:
    """Yield whether the lease at `path` is ours; it is renewed until the block ends, then given up."""
    text = _identity()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        ours = _is_free(path) and _create(path, text)
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror}; make the run's folder writable") from None
    if not ours:
        yield False
        return
    done = threading.Event()
    threading.Thread(target=_renew, args=(path, done), daemon=True).start()
    try:
        yield True
    finally:
        done.set()
        _remove_if(path, text)


def _is_free(path: Path) -> bool:
    """Whether nobody holds the lease; one that is over is taken away."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return True
    if not is_over(path):
        return False
    _remove_if(path, text)  # and no other that was taken between our looks
    return True


def is_over(path: Path) -> bool:
    """Whether the lease at `path` exists and its holder is gone or silent."""
    try:
        holder = _holder(path.read_text())
        age = _file_system_time(path) - path.stat().st_mtime
    except FileNotFoundError:
        return False
    if (holder.get("host"), holder.get("boot")) == (socket.gethostname(), _boot()):
        return _started(holder.get("pid")) != holder.get("started")
    return age > EXPIRE_SECONDS


def holder(path: Path) -> str:
    """Who holds the lease at `path`, in words."""
    try:
        who = _holder(path.read_text())
    except FileNotFoundError:
        return "another process"
    return f"process {who.get('pid', '?')} on {who.get('host', '?')}"


def _holder(text: str) -> dict[str, Any]:
    """Who a lease's text says to hold it; nobody known for a text that is no lease's, which expires like any other."""
    try:
        holder = json.loads(text)
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _create(path: Path, text: str) -> bool:
    """Put `text` at `path` in one step, unless something is there."""
    private = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    private.write_text(text)
    try:
        os.link(private, path)
    except FileExistsError:
        return False
    finally:
        private.unlink()
    return True


def _remove_if(path: Path, text: str) -> None:
    """Remove the lease if it still says `text`; a lease that somebody else took meanwhile stays."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return
    if aside.read_text() != text and not path.exists():
        os.rename(aside, path)
        return
    aside.unlink()


def _renew(path: Path, done: threading.Event) -> None:
    while not done.wait(RENEW_SECONDS):
        try:
            os.utime(path)
        except FileNotFoundError:
            return


def _identity() -> str:
    """Who holds a lease: host, boot, process and when it started, and a token that no other lease has."""
    pid = os.getpid()
    who = {"host": socket.gethostname(), "boot": _boot(), "pid": pid, "started": _started(pid)}
    return json.dumps(who | {"since": time.time(), "token": uuid.uuid4().hex})


def _boot() -> str:
    return _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else "unknown"


def _started(pid: object) -> str:
    """Start time of a process in clock ticks, "gone" where there is none, "zombie" where it only waits to be reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return "gone"
    return "zombie" if fields[0] == "Z" else fields[19]


def _file_system_time(path: Path) -> float:
    """Now, on the clock of the file system that holds `path`."""
    probe = path.with_name(f".clock.{uuid.uuid4().hex}")
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink()
