"""Progress of long work: a bar on a terminal, now and then a plain line in a batch log, the rank in front."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

from gnnsoup_hpc.runtime.signals import PreemptionHandler


class Log:
    """Where a rank says what it does; `prefix` begins every line. A signal that asks to `stop` is heeded there too."""

    def __init__(self, prefix: str = "", quiet: bool = False, stop: PreemptionHandler | None = None) -> None:
        self.prefix = prefix
        self.quiet = quiet
        self.stop = stop or PreemptionHandler()

    def say(self, text: str) -> None:
        """Print one line."""
        if not self.quiet:
            # One write with its newline, or lines of several ranks run into each other.
            tqdm.write(f"{self.prefix}{text}\n", file=sys.stdout, end="")
            sys.stdout.flush()
        self.stop.check()

    def bar(self, total: int, title: str) -> Bar:
        """Progress of `total` steps."""
        return Bar(self, total, title)


class Bar:
    """Progress of one piece of work."""

    SECONDS_BETWEEN_LINES = 15.0

    def __init__(self, log: Log, total: int, title: str) -> None:
        self._log, self._total, self._title = log, total, title
        self._done, self._said = 0, time.monotonic()
        on_terminal = sys.stderr.isatty() and not log.quiet
        self._bar = tqdm(total=total, desc=f"{log.prefix}{title}", leave=False) if on_terminal else None

    def begin(self, done: int) -> None:
        """So many steps were done before this process came to it."""
        self._done = done
        if self._bar is not None:
            self._bar.update(done)

    def advance(self, text: str = "", **figures: float) -> None:
        """One step further; `text` says where things stand, `figures` the same for whoever asks for numbers."""
        self._done += 1
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update()
        elif time.monotonic() - self._said > self.SECONDS_BETWEEN_LINES:
            self._said = time.monotonic()
            self._log.say(f"{self._title}: {self._done}/{self._total} {text}".rstrip())
        self._log.stop.check()

    def close(self) -> None:
        """Take the bar off the terminal."""
        if self._bar is not None:
            self._bar.close()
