"""Which process this is, among all that may look at a run's files, and whether another one lives."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_NAMESPACE = Path("/proc/self/ns/pid")


@dataclass(frozen=True)
class Life:
    """A process that is there. state: as in proc(5), "Z" where it only waits to be reaped; started: in clock ticks."""

    state: str
    started: str


def here() -> dict[str, object]:
    """What processes have in common that see each other: host, boot, pid namespace and user.

    Containers may share a host's name and boot, and number their processes alike.
    """
    return {"host": socket.gethostname(), "boot": _boot(), "namespace": namespace(), "user": os.getuid()}


def namespace() -> int:
    """Number of this process's pid namespace; 0 where the system has none."""
    try:
        return _NAMESPACE.stat().st_ino
    except OSError:
        return 0


def life(pid: int) -> Life | None:
    """The process of that number, as it is now; None where there is none, or no /proc to look into."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return Life(fields[0], fields[19])


def _boot() -> str:
    try:
        return _BOOT_ID.read_text(encoding="utf-8").strip()
    except OSError:
        return "unknown"
