"""The memory that a process may fill, by the machine and by the control groups that it is in."""

from __future__ import annotations

import os
from pathlib import Path


def read_memory_limit() -> int:
    """Physical memory, or what a control group allows this process (Slurm's --mem for one), if that is less."""
    allowed = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    try:
        groups = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return allowed[0]
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            allowed += read_group_limits(Path("/sys/fs/cgroup"), path, "memory.max")
        elif controllers == "memory":  # version 1
            allowed += read_group_limits(Path("/sys/fs/cgroup/memory"), path, "memory.limit_in_bytes")
    return min(allowed)


def read_group_limits(root: Path, group: str, name: str) -> list[int]:
    """What a control group and those around it allow."""
    folder = root / group.lstrip("/")
    found = []
    for each in (folder, *folder.parents):
        try:
            text = (each / name).read_text(encoding="utf-8").strip()
        except OSError:
            continue
        found += [int(text)] if text.isdecimal() else []
    return found
