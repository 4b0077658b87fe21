"""Every change to a folder's files, seen before it happens, and made to fail or to be the last thing that happens.

intercept.c says how: a library that goes before the C library's calls by LD_PRELOAD, so that what Python, NumPy or HDF5
do is seen alike, from any thread, whichever module of the package it comes from.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import gnnsoup_hpc

SOURCE = Path(__file__).with_suffix(".c")
PACKAGE = Path(gnnsoup_hpc.__file__).parent
GO_ON, HALF, HALF_AND_KILL, KILL_AFTER = 0, -1, -2, -3

TAKES_SPACE = frozenset({"create", "write", "mkdir", "link", "reserve"})
FAULTS = {
    "disk full": TAKES_SPACE | {"rename", "sync", "truncate"},
    "half written, then full": frozenset({"write"}),
    "read-only": TAKES_SPACE | {"open", "rename", "sync", "truncate", "remove", "touch"},
    "killed before": TAKES_SPACE | {"open", "rename", "sync", "truncate", "remove", "touch"},
    "killed half-way": frozenset({"write"}),
    "killed after": frozenset({"create", "rename", "link"}),
}
FAILS = frozenset({"disk full", "half written, then full", "read-only"})  # the others end the process

Decide = Callable[[str, str, int], int]
_DECIDE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_long)


@dataclass(frozen=True)
class Point:
    """A call that changes a file: the call, the kind of file (its name without what differs), and from where."""

    call: str
    file: str
    line: str  # the innermost line of the package, "store/files.py:52"; empty where there is none

    def __str__(self) -> str:
        return f"{self.call} {self.file} ({self.line})"


@dataclass
class Recorder:
    """Notes all points in their order."""

    folder: Path

    def __post_init__(self) -> None:
        self.points: list[Point] = []
        self.lines: set[str] = set()

    def __call__(self, call: str, path: str, size: int) -> int:
        stack = lines()
        self.lines.update(stack)
        self.points.append(Point(call, kind_of(path, self.folder), stack[0] if stack else ""))
        return GO_ON


@dataclass
class Injector:
    """Does `fault` at the `turn`-th time (from 0) that `point` is reached, and says so; a full disk stays full."""

    folder: Path
    point: Point
    turn: int
    fault: str
    say: Callable[[], None]

    def __post_init__(self) -> None:
        self.reached, self.broken = 0, False

    def __call__(self, call: str, path: str, size: int) -> int:
        if self.broken:
            return self._later(call)
        stack = lines()
        if Point(call, kind_of(path, self.folder), stack[0] if stack else "") != self.point:
            return GO_ON
        self.reached += 1
        return self._now() if self.reached == self.turn + 1 else GO_ON

    def _now(self) -> int:
        self.say()
        if self.fault == "killed before":
            os.kill(os.getpid(), signal.SIGKILL)
        self.broken = True
        if self.fault == "half written, then full":
            return HALF
        if self.fault in FAILS:
            return errno.ENOSPC if self.fault == "disk full" else errno.EROFS
        return HALF_AND_KILL if self.fault == "killed half-way" else KILL_AFTER

    def _later(self, call: str) -> int:
        if self.fault == "read-only":
            return errno.EROFS
        return errno.ENOSPC if call in TAKES_SPACE else GO_ON


@functools.cache
def _line_of(file: str, number: int) -> str:
    return f"{os.path.relpath(file, PACKAGE)}:{number}" if file.startswith(f"{PACKAGE}{os.sep}") else ""


def lines() -> list[str]:
    """Lines of the package that are being executed by this thread, the innermost first."""
    found, frame = [], sys._getframe(1)
    while frame is not None:
        line = _line_of(frame.f_code.co_filename, frame.f_lineno)
        if line:
            found.append(line)
        frame = frame.f_back  # type: ignore[assignment]
    return found


def kind_of(path: str, folder: Path) -> str:
    """A path without what differs between runs, processes and ingredients."""
    name = path.removeprefix(f"{folder}/").replace(f".{socket.gethostname()}-", ".HOST-")
    name = re.sub(r"(?<=soups/)(\.?)[a-z]+(?=\.h5)", r"\1METHOD", name)
    return re.sub(r"\b[0-9a-f]{8,}\b|(?<![h])\d+", "#", name)


def compiled(folder: Path) -> Path:
    """The library, compiled; skips the test where there is no C compiler, or no LD_PRELOAD."""
    compiler = shutil.which("cc")
    if not compiler or sys.platform != "linux":
        pytest.skip("this needs a C compiler (cc) and Linux")
    library = folder / "intercept.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"], check=True)
    return library


def watch(library: Path, folder: Path, decide: Decide) -> None:
    """From now on, ask `decide(call, path, bytes)` before every change below `folder`; for this process's life."""
    asked = _DECIDE(lambda call, path, size: decide(os.fsdecode(call), os.fsdecode(path), size))
    watch.kept = asked  # type: ignore[attr-defined] # ctypes keeps no reference of its own
    ctypes.CDLL(str(library)).watch(os.fsencode(folder), asked)
