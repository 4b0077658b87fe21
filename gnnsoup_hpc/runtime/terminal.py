"""Standard output and error, which may be full, closed, or of an encoding without our letters.

What is said there is never worth a result: where it cannot be written, the command goes on, and says so at its end.
"""

from __future__ import annotations

import ctypes
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TextIO, cast

EXIT_LOST = 1
EXIT_BROKEN_PIPE = 141  # as the shell has it: 128 + SIGPIPE


class Channel:
    """A text file that takes whatever it is given. `lost` says why something was not written; empty where all was."""

    def __init__(self, file: TextIO | None) -> None:
        self.file: TextIO = file or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        self.is_closed = file is None
        self.lost = ""
        self.broken_pipe = False
        if isinstance(file, io.TextIOWrapper):
            file.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        """Write, or note that it cannot be done."""
        try:
            self.file.write(text)
            self.lost = "it is closed" if self.is_closed else self.lost
        except OSError as error:
            self._lose(error)
        return len(text)

    def flush(self) -> None:
        """Write what is left, or note that it cannot be done."""
        try:
            self.file.flush()
        except OSError as error:
            self._lose(error)

    def __getattr__(self, name: str) -> Any:
        """Encoding, buffer and the like are the file's own."""
        return getattr(self.file, name)

    def _lose(self, error: OSError) -> None:
        self.lost = self.lost or error.strerror or str(error)
        self.broken_pipe = self.broken_pipe or isinstance(error, BrokenPipeError)
        with suppress(io.UnsupportedOperation):  # what its buffer holds would be tried again at the end of the process
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.file.fileno())
            os.close(nowhere)


@dataclass(frozen=True)
class Terminal:
    """Where a command speaks."""

    out: Channel
    err: Channel

    def end(self, code: int, prefix: str = "") -> int:
        """The exit code of a command that ended with `code`: another where what it said on stdout was lost."""
        self.out.flush()
        if self.out.broken_pipe:  # whoever read it, `head` for one, has seen enough
            code = code or EXIT_BROKEN_PIPE
        elif self.out.lost:
            self.err.write(f"{prefix}gnnsoup: error: stdout cannot be written: {self.out.lost}; all else is done\n")
            code = code or EXIT_LOST
        self.err.flush()
        return code


@contextmanager
def terminal() -> Iterator[Terminal]:
    """A block whose output goes through channels; within another such block, through the same ones."""
    before = sys.stdout, sys.stderr
    out, err = cast(Any, before)
    if isinstance(out, Channel) and isinstance(err, Channel):
        yield Terminal(out, err)
        return
    _plug()
    here = Terminal(Channel(sys.stdout), Channel(sys.stderr))
    sys.stdout, sys.stderr = cast(TextIO, here.out), cast(TextIO, here.err)
    try:
        yield here
    finally:
        here.out.flush()
        here.err.flush()
        sys.stdout, sys.stderr = before


@contextmanager
def redirect_to_stderr() -> Iterator[None]:
    """A block in which what a library written in C prints goes to stderr: stdout is for results."""
    sys.stdout.flush()
    flush = ctypes.CDLL(None).fflush
    flush(None)
    out = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        flush(None)
        os.dup2(out, 1)
        os.close(out)


def _plug() -> None:
    """Open what is closed of stdin, stdout and stderr, or the next file would be it, and libraries print into that."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
