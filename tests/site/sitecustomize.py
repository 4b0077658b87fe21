"""Run first by every Python that tests start with this folder on PYTHONPATH; tests/processes.py sets the variables.

HOLD: a gate. Each ingredient from number HOLD_FROM on stays between two epochs, after the third of this process, until
the gate's file is there or a signal comes. A file beside the gate says that it stays.
PLANT: a function, "package.module:name", that in the process of rank RANK (or in any) does what DOES says when it is
called for the TURN-th time: wait (WAIT seconds, once), raise or kill. A file REACHED says that it has come to that.
SHORTEN: a constant, "package.module:NAME", that is SECONDS.
"""

from __future__ import annotations

import importlib
import os
import select
import signal
import sys
import time
from itertools import count
from pathlib import Path
from typing import Any

EPOCHS = 3
TRAINS = {"train", "run", "gnnsoup_hpc.train"}


def hold(gate: Path, first: int) -> None:
    """Let ingredients from `first` on stay between two epochs."""
    from gnnsoup_hpc.train import runner

    train = runner.train
    heard, hears = os.pipe()  # a signal that Python handles writes a byte, which nobody reads: from then on none stays
    os.set_blocking(hears, False)
    signal.set_wakeup_fd(hears, warn_on_full_buffer=False)

    def stay(index: int) -> None:
        gate.with_name(f"{gate.name}-{index:04d}-{os.getpid()}").touch()
        while not gate.exists() and not select.select([heard], [], [], 0.02)[0]:
            pass

    def held(course: Any, initial: Any, how: Any, seed: int, index: int, bar: Any, *rest: Any) -> Any:
        advance, done = bar.advance, 0

        def advance_and_stay(*words: Any, **values: Any) -> None:
            nonlocal done
            done += 1
            advance(*words, **values)
            if done >= EPOCHS and index >= first:
                stay(index)

        bar.advance = advance_and_stay
        return train(course, initial, how, seed, index, bar, *rest)

    runner.train = held


def plant(place: str, turn: int, does: str, reached: Path, seconds: float) -> None:
    """Make a function do something else first; waiting ends too when the file `reached` is removed."""
    module, _, name = place.partition(":")
    *owner, last = name.split(".")
    target = importlib.import_module(module)
    for each in owner:
        target = getattr(target, each)
    function, calls = getattr(target, last), count(1)

    def planted(*words: Any, **named: Any) -> Any:
        self = words[0] if words else None  # whose method it is, for the signal handler to see
        if next(calls) != turn:
            return function(*words, **named)
        again = reached.exists()
        reached.touch()
        if does == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if does == "raise":
            raise ZeroDivisionError(f"planted in {type(self).__name__}")
        until = time.monotonic() + (0 if again else seconds)
        while reached.exists() and time.monotonic() < until:
            time.sleep(0.01)
        return function(*words, **named)

    setattr(target, last, planted)


def shorten(place: str, seconds: float) -> None:
    """Wait less where a constant says how long."""
    module, _, name = place.partition(":")
    setattr(importlib.import_module(module), name, seconds)


variables = os.environ
rank = variables.get("PMI_RANK", variables.get("OMPI_COMM_WORLD_RANK", ""))
if "HOLD" in variables and TRAINS & set(sys.orig_argv):
    hold(Path(variables["HOLD"]), first=int(variables["HOLD_FROM"]))
if "PLANT" in variables and variables.get("RANK", rank) == rank:
    plant(
        variables["PLANT"],
        int(variables["TURN"]),
        variables["DOES"],
        Path(variables["REACHED"]),
        float(variables["WAIT"]),
    )
if "SHORTEN" in variables:
    shorten(variables["SHORTEN"], float(variables["SECONDS"]))
