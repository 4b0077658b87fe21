"""What others may know of a rank's work: how far a training is, and why one failed. Read by `gnnsoup status`.

A failure that the same command met already, on this rank or on another, it does not try again; the next command does.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from gnnsoup_hpc.errors import FileError, GraphError, MemoryLimitError, RunError, SoupError
from gnnsoup_hpc.runtime import leases, processes, status_files
from gnnsoup_hpc.runtime.launch import RankInfo, launch_id
from gnnsoup_hpc.runtime.progress import Bar, Log
from gnnsoup_hpc.runtime.run_dir import RunDir

SECONDS_BETWEEN_POSTS = 1.0
_FAILURES = (RunError, FileError, GraphError, MemoryLimitError)  # of our own errors; to be stopped is no failure


class TaskBoard:
    """One rank's side. It begins with the failures that were there before."""

    def __init__(self, run: RunDir, here: RankInfo, log: Log) -> None:
        self.run, self.log = run, log
        self.who = {"host": here.host, "rank": here.rank, "ranks": here.size, "pid": os.getpid()}
        self._launch, self._silent = launch_id(here), False
        self._before = {path.name: status_files.read(path) for path in run.failures.glob("*.json")}

    def failed(self, work: str) -> str:
        """Why `work` failed since this command began, whoever tried it; empty where it did not."""
        path = self.run.failure(work)
        note = status_files.read(path)
        is_new = note.get("launch") == self._launch or note != self._before.get(path.name, {})
        return str(note.get("why", "")) if is_new else ""

    @contextmanager
    def watch(self, work: str, title: str, epochs: int) -> Iterator[Bar]:
        """A block in which `work` is trained: its progress is posted on the bar that it yields, and a failure kept."""
        progress = self.run.progress(work)
        bar = PostingBar(self.log, epochs, title, partial(self.note_progress, work))
        try:
            yield bar
        except Exception as error:
            if not isinstance(error, SoupError) or isinstance(error, _FAILURES):
                self.note_failure(work, error, title)
            raise
        finally:
            bar.close()
            note = status_files.read(progress)
            if all(note.get(key) == self.who[key] for key in ("host", "pid")):  # not another process's
                self._try(status_files.remove, progress)

    def note_progress(self, work: str, values: dict[str, Any]) -> None:
        """Say how far `work` is."""
        self._try(status_files.write, self.run.progress(work), {"work": work} | values | self.who)

    def note_failure(self, work: str, error: Exception, title: str = "") -> None:
        """Keep why `work` failed, and how often it has by now."""
        path = self.run.failure(work)
        why = str(error) if isinstance(error, SoupError) else f"{type(error).__name__}: {error}"
        times = int(status_files.read(path).get("times", 0)) + 1
        what = {"work": work, "title": title, "why": " ".join(why.split())}
        when = {"when": time.time(), "launch": self._launch, "times": times}
        self._try(status_files.write, path, what | when | self.who)

    def forget_failure(self, work: str) -> None:
        """Once the result of `work` is there, its failures are history."""
        self._try(status_files.remove, self.run.failure(work))

    def _try(self, write: Callable[..., None], *what: object) -> None:
        """Notes are a service, no result: where they cannot be written, that is said once, and the work goes on."""
        try:
            write(*what)
        except OSError as error:
            if not self._silent:
                self.log.say(f"train: `gnnsoup status` cannot be told how things stand: {error}")
            self._silent = True


class PostingBar(Bar):
    """A bar that posts its figures too: at once, and then no more often than SECONDS_BETWEEN_POSTS."""

    def __init__(self, log: Log, epochs: int, title: str, post: Callable[[dict[str, Any]], None]) -> None:
        super().__init__(log, epochs, title)
        self._post, self._next, self._last = post, 0.0, time.monotonic()
        self._figures: dict[str, Any] = {"title": title, "epochs": epochs, "since": time.time()}
        post(self._figures)

    def advance(self, text: str = "", **figures: float) -> None:
        """One step further; `figures` are posted."""
        super().advance(text)
        now = time.monotonic()
        self._figures |= figures | {"epoch_seconds": now - self._last}
        self._last = now
        if now >= self._next:
            self._next = now + SECONDS_BETWEEN_POSTS
            self._post(self._figures)


def remove_leftovers(run: RunDir, done: Iterable[str]) -> None:
    """Remove what killed processes left of works that are done, for nobody else would: leases, notes and checkpoints.

    And temporaries. What cannot be removed stays; nobody heeds it.
    """
    for work in done:
        lease = run.lease(work)
        leases.clear(lease)
        if lease.exists():  # somebody looks at it just now
            continue
        for left in (run.checkpoint(work), run.progress(work), run.failure(work)):
            with suppress(OSError):
                left.unlink(missing_ok=True)
    for folder in (run.root, run.ingredients, run.checkpoint("").parent, run.lease("").parent, run.failures):
        processes.remove_leftovers(folder)
