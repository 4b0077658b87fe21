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
BY_PATH = frozenset({"create", "open", "mkdir", "link", "rename", "replace", "remove", "remove nothing", "touch"})
CHANGES = frozenset({"create", "mkdir", "link", "reserve", "truncate", "rename", "replace", "remove", "touch"})
SAME = frozenset(
    {"open", "remove nothing"}
)  # for whatever kind of file: only a read-only disk minds, and nothing changes
FAULTS = {
    "disk full": (TAKES_SPACE - {"write"}) | {"rename", "replace", "sync"},
    "half written, then full": frozenset({"write"}),
    "read-only": BY_PATH,  # and not where a file is open to be written, for then none is remounted so
    "no hard links": frozenset({"link"}),
    # Where two kills would leave the same files there is one: a sync changes none, and what is there before a file is
    # written is there after it was created.
    "killed before": CHANGES,
    "killed half-way": frozenset({"write"}),
    "killed after": frozenset({"create", "rename", "replace"}),
}
FAILS = frozenset({"disk full", "half written, then full", "read-only"})  # and a line may say so
KILLS = frozenset({"killed before", "killed half-way", "killed after"})

Decide = Callable[[str, str, int], int]
_DECIDE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_long)


@dataclass(frozen=True)
class Point:
    """A call that changes a file: the call, the kind of file (its name without what differs), and from where."""

    call: str
    file: str
    line: str  # the innermost line of the package, "io/files.py:52"; empty where there is none

    def __str__(self) -> str:
        return f"{self.call} {self.file} ({self.line})"


class Recorder:
    """Notes all points in their order, with their paths, and the lines of the package that led to them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.points: list[tuple[Point, str]] = []
        self.lines: set[str] = set()

    def __call__(self, call: str, path: str, size: int) -> int:
        if (point := self.point(call, path)) is not None:
            self.points.append((point, path))
        return GO_ON

    def point(self, call: str, path: str) -> Point | None:
        """The point that is reached by a call; None where it changes nothing, whatever the disk is like."""
        stack = lines()
        self.lines.update(stack)
        named = _named(call, path)
        kind = "" if named in SAME else kind_of(path, self.folder)
        return Point(named, kind, stack[0] if stack else "") if named else None


class Injector(Recorder):
    """Does a fault at the `turn`-th time (from 0) that `wanted` is reached, and says so; a full disk stays full."""

    def __init__(self, folder: Path, wanted: Point, turn: int, fault: str, say: Callable[[], None]) -> None:
        super().__init__(folder)
        self.wanted, self.turn, self.fault, self.say = wanted, turn, fault, say
        self.reached, self.broken = 0, False

    def __call__(self, call: str, path: str, size: int) -> int:
        point = self.point(call, path)
        if self.broken:
            return self._later(call)
        if point != self.wanted:
            return GO_ON
        self.reached += 1
        return self._now() if self.reached == self.turn + 1 else GO_ON

    def _now(self) -> int:
        self.say()
        if self.fault == "killed before":
            os.kill(os.getpid(), signal.SIGKILL)
        self.broken = True
        ways = {
            "disk full": errno.ENOSPC,
            "half written, then full": HALF,
            "read-only": errno.EROFS,
            "no hard links": errno.EPERM,
            "killed half-way": HALF_AND_KILL,
            "killed after": KILL_AFTER,
        }
        return ways[self.fault]

    def _later(self, call: str) -> int:
        if self.fault == "read-only":
            return errno.EROFS
        if self.fault == "no hard links":
            return errno.EPERM if call == "link" else GO_ON
        return errno.ENOSPC if call in TAKES_SPACE else GO_ON


def _named(call: str, path: str) -> str:
    """The call, by what it does with what is there now; empty where it does nothing."""
    there = os.path.lexists(path)
    if call == "rename":
        return "replace" if there else "rename"
    if call == "remove":
        return "remove" if there else "remove nothing"
    if call == "mkdir":  # nor where what it is to be in is not there
        return "" if there or not os.path.isdir(os.path.dirname(path)) else "mkdir"
    if call == "open":
        return "open" if there else ""
    return call


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
    """A path without what differs between runs, processes, methods and ingredients."""
    name = path.removeprefix(f"{folder}/").replace(f".{socket.gethostname()}-", ".HOST-")
    name = re.sub(r"^runs/[a-z]+", "runs/NAME", name)
    name = re.sub(r"(?<=cells/)[a-z]+", "METHOD", name)
    name = re.sub(r"((?:leases|failures)/\.?)(trunk|ingredient-\d+|cell-[a-z]+-[0-9a-f]+)(?=\.)", r"\1WORK", name)
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
