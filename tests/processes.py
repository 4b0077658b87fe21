"""Commands in processes of their own, and ways to make them stay, fail or die at a given place."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from operator import attrgetter
from pathlib import Path

import pytest

from tests.tiny import JOB_FILE, mpirun

GUARD = 600.0  # seconds until a hang is called one
SITE = Path(__file__).with_name("site")


@contextmanager
def start(
    folder: Path, *words: str, ranks: int = 0, before: Sequence[str] = (), **variables: str
) -> Iterator[subprocess.Popen[str]]:
    """`BEFORE gnnsoup WORD tiny.toml WORDS` in a folder and a session of its own, killed at the end of the block."""
    launcher = [mpirun(), "-n", str(ranks)] if ranks else list(before)
    with subprocess.Popen(
        [*launcher, sys.executable, "-m", "gnnsoup_hpc", *words[:1], JOB_FILE, *words[1:]],
        cwd=folder,
        env=os.environ | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_until(true: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Wait for something that a process does."""
    until = time.monotonic() + GUARD
    while not true():
        if process.poll() is not None or time.monotonic() > until:
            process.kill()
            pytest.fail(f"it never came to that: {process.communicate()}")
        time.sleep(0.01)


def plant(
    folder: Path, place: str, does: str = "wait", seconds: float = GUARD, turn: int = 1, rank: int | None = None
) -> dict[str, str]:
    """Variables for which the function "package.module:name" waits, raises or kills, and writes `folder`/reached.

    Waiting ends after `seconds`, or when that file is removed.
    """
    module, _, name = place.partition(":")
    attrgetter(name)(import_module(module))  # raises here, rather than there, where there is no such function
    planted = {"PLANT": place, "TURN": str(turn), "DOES": does, "REACHED": str(folder / "reached")}
    planted |= {"WAIT": str(seconds)} | ({} if rank is None else {"RANK": str(rank)})
    return with_site(planted)


def shorten(place: str, seconds: float) -> dict[str, str]:
    """Variables for which the constant "package.module:NAME" is so many seconds."""
    module, _, name = place.partition(":")
    assert getattr(import_module(module), name) > seconds
    return with_site({"SHORTEN": place, "SECONDS": str(seconds)})


def with_site(variables: dict[str, str], site: Path = SITE) -> dict[str, str]:
    """The variables, and a PYTHONPATH on which Python finds `site`'s sitecustomize.py."""
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    return variables | {"PYTHONPATH": path}


@dataclass(frozen=True)
class Gate:
    """Holds trainings between two epochs until it is opened or a signal comes."""

    path: Path

    def variables(self, first: int = 1) -> dict[str, str]:
        """What processes must be started with, for ingredients from `first` on to be held."""
        return with_site({"HOLD": str(self.path), "HOLD_FROM": str(first)})

    def held(self) -> dict[int, int]:
        """Ingredients that are or were held, and the process that last held each."""
        marks = (path.name.split("-")[-2:] for path in self.path.parent.glob(f"{self.path.name}-*"))
        return {int(index): int(pid) for index, pid in marks}

    def times(self) -> int:
        """How often an ingredient was held, counted once a process."""
        return len(list(self.path.parent.glob(f"{self.path.name}-*")))

    def open(self) -> None:
        """Let all go on."""
        self.path.touch()
