"""Signals that ask to stop: SIGTERM, SIGUSR1 and SIGUSR2, which schedulers send before they take a machine away.

A handler writes nothing. It notes the signal, and ends the command at once by an exception, as Ctrl-C does, unless the
command is in a block that ends itself (training, between epochs). What an exception cannot pass through unchanged (C
code that calls a file object of ours) is left to the next line or step that is said, where the note is looked at again.
"""

from __future__ import annotations

import io
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from gnnsoup_hpc.errors import Preempted

HEEDED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Stop:
    """Whether this process was asked to stop, and what then happens. Made by entry points, one a command."""

    def __init__(self) -> None:
        self._by: signal.Signals | None = None
        self._later = 0
        self._told = False  # the command is on its way out, or over

    @property
    def asked(self) -> bool:
        """Whether a signal came."""
        return self._by is not None

    def because(self, what: str) -> Preempted:
        """The error to end with: the signal, `what` is saved, and how to go on."""
        self._told = True
        name = "a signal" if self._by is None else self._by.name
        return Preempted(f"stopped by {name}: {what}; the same command goes on from here")

    def heed(self) -> None:
        """End the command if a signal came, but not within `later`. Raises: Preempted."""
        if self.asked and not self._later:
            raise self.because("nothing finished is lost")

    def no_more(self) -> None:
        """The command is over: from now on a signal changes nothing."""
        self._told, self._later = True, self._later + 1

    @contextmanager
    def later(self) -> Iterator[None]:
        """A block that looks at `asked` itself; a signal ends the command after it at the latest."""
        self._later += 1
        try:
            yield
        finally:
            self._later -= 1
        self.heed()

    @contextmanager
    def heard(self) -> Iterator[None]:
        """A block in which the signals are ours; the main thread's alone, for others cannot hear any."""
        before = {number: signal.signal(number, self._on) for number in HEEDED}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not Python's

    def _on(self, number: int, frame: FrameType | None) -> None:
        """Note the first signal; those after it find it noted, and the way out is not disturbed."""
        self._by = self._by or signal.Signals(number)
        if not (self._told or self._later or _called_by_c(frame)):
            self.heed()


def _called_by_c(frame: FrameType | None) -> bool:
    """Whether the code at `frame` is a file object's that a library writes to: HDF5 makes another error of ours."""
    return frame is not None and isinstance(frame.f_locals.get("self"), io.FileIO)
