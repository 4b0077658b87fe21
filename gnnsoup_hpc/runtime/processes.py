"""Which process this is, among all that may look at a run's files, whether another one lives, and what it left."""

from __future__ import annotations

import os
import shutil
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Life:
    """A process that is there. state: as in proc(5), "Z" where it only waits to be reaped; started: in clock ticks."""

    state: str
    started: str


def this_process() -> dict[str, object]:
    """What processes have in common that see each other: host, boot, pid namespace and user.

    Containers may share a host's name and boot, and number their processes alike.
    """
    boot = "unknown"
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    return {"host": socket.gethostname(), "boot": boot, "namespace": read_namespace(), "user": os.getuid()}


def read_namespace() -> int:
    """Number of this process's pid namespace; 0 where the system has none."""
    try:
        return Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return 0


def read_life(pid: int) -> Life | None:
    """The process of that number, as it is now; None where there is none, or no /proc to look into."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return Life(fields[0], fields[19])


def private_name(path: Path, what: str = "") -> Path:
    """A name beside `path` that no other process uses, and that tells whose it is; what: of several, which."""
    return path.with_name(f".{path.name}{what and f'.{what}'}.{_label()}.{os.getpid()}")


def remove_leftovers(folder: Path, name: str = "") -> None:
    """Remove what processes that are gone have left under private names in `folder`: beside `name`, or all.

    Only of processes that would be seen from here. What cannot be removed stays; nothing depends on it.
    """
    for left in folder.glob(f".{name or '*'}.*{_label()}.*"):
        pid = left.name.rpartition(".")[2]
        if not pid.isdecimal() or read_life(int(pid)) is not None:
            continue
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            with suppress(OSError):
                left.unlink()


def _label() -> str:
    """Of all processes that see each other."""
    return f"{socket.gethostname()}-{read_namespace()}"
