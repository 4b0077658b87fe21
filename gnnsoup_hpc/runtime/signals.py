"""Signals that ask to stop: Ctrl-C, and those that schedulers and terminals send before they take a machine away.

A handler notes the signal, and ends the command at once by an exception, unless the command is in a block that ends
itself (training, between epochs). What an exception cannot pass through unchanged (C code that calls a file object of
ours) is left to the next line or step that is said, where the note is looked at again. A second Ctrl-C ends at once.
"""

from __future__ import annotations

import io
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from gnnsoup_hpc.errors import Interrupted, Preempted

HEEDED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
CTRL_C = signal.SIGINT
_MAY_BE_IGNORED = (signal.SIGINT, signal.SIGHUP)  # by nohup, or a shell that starts us in the background
SAME_SECONDS = 0.5  # a terminal and mpirun may both pass one Ctrl-C on


@contextmanager
def ignore_while_loading() -> Iterator[None]:
    """A block before the command begins, which saves nothing: Ctrl-C ends it with one line, wherever in an import."""
    if signal.getsignal(CTRL_C) is signal.SIG_IGN:
        yield
        return
    before = signal.signal(CTRL_C, lambda number, frame: _end_at_once("gnnsoup: error: interrupted before it began\n"))
    try:
        yield
    finally:
        signal.signal(CTRL_C, before)


@contextmanager
def block_for_children() -> Iterator[None]:
    """A block in which a process is started that hears none of them: a terminal sends Ctrl-C to it too.

    Whoever starts it must end it. What comes to us meanwhile is heard after the block.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*HEEDED, CTRL_C})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class PreemptionHandler:
    """Whether this process was asked to stop, and what then happens. Made by entry points, one a command.

    With `says`, the first Ctrl-C is answered where the command goes on to the end of its epoch.
    """

    def __init__(self, says: bool = True) -> None:
        self._says = says
        self._by: signal.Signals | None = None
        self._at = 0.0  # when Ctrl-C was last heard
        self._later = 0
        self._told = False  # the command is on its way out, or over

    @property
    def asked(self) -> bool:
        """Whether a signal came."""
        return self._by is not None

    def because(self, what: str) -> Preempted | Interrupted:
        """The error to end with: the signal, `what` is saved, and how to go on."""
        self._told = True
        kind, name = (Interrupted, "Ctrl-C") if self._by == CTRL_C else (Preempted, "a signal")
        name = self._by.name if self._by is not None and self._by != CTRL_C else name
        return kind(f"stopped by {name}: {what}; the same command goes on from here")

    def check(self) -> None:
        """End the command if a signal came, but not within `later`. Raises: Preempted, Interrupted."""
        if self.asked and not self._later:
            raise self.because("nothing finished is lost")

    def no_more(self) -> None:
        """The command is over: from now on a signal changes nothing, but a second Ctrl-C ends at once."""
        self._told, self._later = True, self._later + 1

    @contextmanager
    def later(self) -> Iterator[None]:
        """A block that looks at `asked` itself; a signal ends the command after it at the latest."""
        self._later += 1
        try:
            yield
        finally:
            self._later -= 1
        self.check()

    @contextmanager
    def heard(self, last: bool = False) -> Iterator[None]:
        """A block in which the signals are ours; the main thread's alone, for others cannot hear any.

        What nohup or a shell had ignored stays ignored. last: the process ends after it, and if by a signal, another of
        them that comes too late must not end it with another exit code.
        """
        ignored = {number for number in _MAY_BE_IGNORED if signal.getsignal(number) is signal.SIG_IGN}
        before = {number: signal.signal(number, self._on) for number in (*HEEDED, CTRL_C) if number not in ignored}
        try:
            yield
        finally:
            usual = signal.SIG_IGN if last and self.asked else signal.SIG_DFL
            for number, handler in before.items():
                signal.signal(number, usual if handler in (None, signal.SIG_DFL) else handler)  # None: not Python's

    def _on(self, number: int, frame: FrameType | None) -> None:
        """Note the first signal; those after it find it noted, and the way out is not disturbed but by Ctrl-C."""
        again, self._by = self.asked, self._by or signal.Signals(number)
        if number == CTRL_C:
            since, self._at = time.monotonic() - self._at, time.monotonic()
            if again and since > SAME_SECONDS:
                self._end_now(frame)
            if not again and self._later and not self._told and self._says:
                _write("gnnsoup: stopping at the end of the epoch; Ctrl-C again stops at once\n")
        if not (self._told or self._later or _called_by_c(frame)):
            self.check()

    def _end_now(self, frame: FrameType | None) -> None:
        """Leave everything as it is: by an exception, so that leases are given back, where one can still pass."""
        if self._told or _called_by_c(frame):
            _end_at_once("")
        self._told = True
        raise KeyboardInterrupt


def _write(text: str) -> None:
    """From a handler: past Python's buffers, which the code that it interrupts may be in the middle of."""
    with suppress(OSError):  # nobody listens
        os.write(2, text.encode())


def _end_at_once(words: str) -> None:
    _write(words)
    os._exit(Interrupted.exit_code)


def _called_by_c(frame: FrameType | None) -> bool:
    """Whether the code at `frame` is a file object's that a library writes to: HDF5 makes another error of ours."""
    return frame is not None and isinstance(frame.f_locals.get("self"), io.FileIO)
