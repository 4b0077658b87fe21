"""What others may know of a rank's work: how far a training is, and why one failed. Read by `gnnsoup status`.

A failure that the same command met already, on this rank or on another, it does not try again; the next command does.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import TracebackType
from typing import Any

from gnnsoup_hpc.errors import FileError, GraphError, MemoryLimitError, RunError, SoupError
from gnnsoup_hpc.runtime import leases, processes, status_files
from gnnsoup_hpc.runtime.launch import RankInfo, launch_id
from gnnsoup_hpc.runtime.progress import Bar, Log
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.train.checkpointing import OvertakenError

# ---- cleanup
# What killed processes leave of work that is done since: nobody heeds it, and nobody else would remove it.


def remove_leftovers(run: RunDir, done: Iterable[str]) -> None:
    """Remove leases, notes and checkpoints of works that are done, and temporaries; what cannot be removed stays."""
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

    def watched(self, work: str, title: str, epochs: int) -> WatchedTask:
        """A block in which `work` is trained; it yields the bar."""
        return WatchedTask(self, work, title, epochs)

    def note_progress(self, work: str, values: dict[str, Any]) -> None:
        """Say how far `work` is."""
        path = self.run.progress(work)
        self._written(lambda: status_files.write(path, {"work": work} | values | self.who))

    def forget_progress(self, work: str) -> None:
        """`work` is in training no more, or not by us: what another process posts meanwhile stays."""
        path = self.run.progress(work)
        note = status_files.read(path)
        if all(note.get(key) == self.who[key] for key in ("host", "pid")):
            self._written(lambda: status_files.remove(path))

    def note_failure(self, work: str, error: Exception, title: str = "") -> None:
        """Keep why `work` failed, and how often it has by now."""
        path = self.run.failure(work)
        why = str(error) if isinstance(error, SoupError) else f"{type(error).__name__}: {error}"
        values = {
            "work": work,
            "title": title,
            "why": " ".join(why.split()),
            "when": time.time(),
            "launch": self._launch,
        }
        times = {"times": int(status_files.read(path).get("times", 0)) + 1}
        self._written(lambda: status_files.write(path, values | times | self.who))

    def forget_failure(self, work: str) -> None:
        """Once the result of `work` is there, its failures are history."""
        self._written(lambda: status_files.remove(self.run.failure(work)))

    def _written(self, write: Callable[[], None]) -> None:
        """Notes are a service, no result: where they cannot be written, that is said once, and the work goes on."""
        try:
            write()
        except OSError as error:
            if not self._silent:
                self.log.say(f"train: `gnnsoup status` cannot be told how things stand: {error}")
            self._silent = True


def _is_failure(error: Exception) -> bool:
    ours = isinstance(error, SoupError | OvertakenError)
    return not ours or isinstance(error, _FAILURES)


class WatchedTask:
    """A block in which one piece of work is trained: its progress is posted, and a failure if it raises one."""

    def __init__(self, board: TaskBoard, work: str, title: str, epochs: int) -> None:
        self._board, self._work = board, work
        self._bar = PostingBar(board.log, epochs, title, self._post)
        self._posted: dict[str, Any] = {"title": title, "epochs": epochs, "since": time.time()}
        self._next, self._last = 0.0, time.monotonic()

    def __enter__(self) -> Bar:
        self._board.note_progress(self._work, self._posted)
        return self._bar

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        self._board.forget_progress(self._work)
        if isinstance(error, Exception) and _is_failure(error):
            self._board.note_failure(self._work, error, self._posted["title"])

    def _post(self, figures: dict[str, float]) -> None:
        now = time.monotonic()
        self._posted |= figures | {"epoch_seconds": now - self._last}
        self._last = now
        if now >= self._next:
            self._next = now + SECONDS_BETWEEN_POSTS
            self._board.note_progress(self._work, self._posted)


class PostingBar(Bar):
    """A bar that posts its figures too."""

    def __init__(self, log: Log, total: int, title: str, post: Callable[[dict[str, float]], None]) -> None:
        super().__init__(log, total, title)
        self._post = post

    def advance(self, text: str = "", **figures: float) -> None:
        """One step further; `figures` are posted."""
        super().advance(text)
        self._post(figures)
