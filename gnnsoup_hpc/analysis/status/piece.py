"""A piece of work of a run, and how it stands."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gnnsoup_hpc.analysis.status.clock import Clock
from gnnsoup_hpc.errors import FileError
from gnnsoup_hpc.io import glance
from gnnsoup_hpc.runtime import leases, status_files
from gnnsoup_hpc.runtime.run_dir import RunDir

State = Literal["finished", "running", "silent", "failed", "damaged", "waiting"]


@dataclass(frozen=True)
class TaskStatus:
    """One ingredient, the trunk, or the graph; None and "" where something is not known.

    title: what a cell of a sweep is; checkpoint: there is one to go on from, and nobody does now.

    seconds: wall time of what is finished; epoch_seconds: of the last epoch; heartbeat_seconds: since its lease was
    renewed; since, failed_at: seconds since 1970.
    """

    work: str
    state: State
    host: str = ""
    rank: int | None = None
    pid: int | None = None
    epoch: int | None = None
    epochs: int | None = None
    loss: float | None = None
    validation: float | None = None
    seconds: float | None = None
    epoch_seconds: float | None = None
    heartbeat_seconds: float | None = None
    since: float | None = None
    why: str = ""
    failed_at: float | None = None
    tries: int = 0
    checkpoint: bool = False
    title: str = ""


@dataclass(frozen=True)
class TaskReader:
    """Looks at a run's pieces of work. It takes no lease, and a file may vanish between two looks."""

    run: RunDir
    clock: Clock
    leased: frozenset[str]  # names of files, listed once: a run may have a thousand ingredients
    failures: frozenset[str]
    checkpoints: frozenset[str]

    @classmethod
    def of(cls, run: RunDir) -> TaskReader:
        """Begin to look."""
        folder = run.lease("any").parent
        checkpoints = list_names(run.checkpoint("any").parent)
        return cls(run, Clock.of(folder), list_names(folder), list_names(run.failures), checkpoints)

    def ingredient(self, index: int, there: frozenset[str], epochs: int) -> TaskStatus:
        """Ingredient `index`; `there`: names of files of ingredients; `epochs`: how many it is trained for."""
        path, work = self.run.ingredient(index), f"ingredient-{index:04d}"
        return self.trained(work, path if path.name in there else None, epochs)

    def trained(self, work: str, path: Path | None, epochs: int) -> TaskStatus:
        """Something that is trained; `path`: its file, where there is one."""
        why = ""
        if path is not None:
            try:
                seen = glance.model(path, "ingredient")
            except FileError as error:
                why = str(error)
            else:
                return TaskStatus(
                    work,
                    "finished",
                    host=seen.host,
                    rank=seen.rank,
                    epochs=epochs,
                    validation=seen.validation_accuracy,
                    seconds=seen.seconds,
                )
        return self.unfinished(work, epochs, why)

    def unfinished(self, work: str, epochs: int, damage: str = "") -> TaskStatus:
        """Something that is not there, or damaged."""
        lease = self.run.lease(work)
        if lease.name in self.leased and (held := self.held(lease, work, epochs)):
            return held
        kept = self.run.checkpoint(work).name in self.checkpoints
        failure = self.run.failure(work)
        note = status_files.read(failure) if failure.name in self.failures else {}
        if damage:
            return TaskStatus(work, "damaged", epochs=epochs, why=damage, checkpoint=kept)
        if note:
            place = {key: note[key] for key in (*_PLACE, "title") if key in note}
            return TaskStatus(work, "failed", **place | _of_failure(note) | {"epochs": epochs, "checkpoint": kept})
        return TaskStatus(work, "waiting", epochs=epochs, checkpoint=kept)

    def cells(self) -> tuple[TaskStatus, ...]:
        """Cells of sweeps that somebody is at, or that failed."""
        known = {name.rpartition(".")[0] for name in (*self.leased, *self.failures) if name.startswith("cell-")}
        pieces = (self.unfinished(work, 0) for work in sorted(known))
        return tuple(piece for piece in pieces if piece.state != "waiting")

    def held(self, lease: Path, work: str, epochs: int | None = None) -> TaskStatus | None:
        """Who holds a lease, and how far the work is; None where nobody holds it any more."""
        holder, age = status_files.read(lease), self.clock.age(lease)
        if age is None:
            return None
        note = status_files.read(self.run.progress(work))
        if any(note.get(key) != holder.get(key) for key in ("host", "pid")):
            note = {}  # of a former holder
        known = {key: values[key] for key in _PROGRESS for values in (holder, note) if key in values}
        known |= _of_failure(status_files.read(self.run.failure(work)))
        state: State = "silent" if self._is_over(lease, age) else "running"
        return TaskStatus(work, state, **{"epochs": epochs, "heartbeat_seconds": age} | known)

    def _is_over(self, lease: Path, age: float) -> bool:
        """Whether a lease's holder is gone or silent; by its age alone where nothing can be written beside it."""
        try:
            return leases.is_expired(lease)
        except OSError:
            return age > leases.EXPIRE_SECONDS


_PLACE = ("host", "rank", "pid")
_PROGRESS = (*_PLACE, "title", "since", "epoch", "epochs", "loss", "validation", "epoch_seconds")


def _of_failure(note: dict[str, Any]) -> dict[str, Any]:
    return {"why": note["why"], "failed_at": note.get("when"), "tries": note.get("times", 1)} if "why" in note else {}


def list_names(folder: Path) -> frozenset[str]:
    """Names of a folder's files; none where there is no such folder."""
    try:
        return frozenset(path.name for path in folder.iterdir())
    except OSError:
        return frozenset()
