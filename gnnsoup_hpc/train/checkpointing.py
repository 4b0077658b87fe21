"""Checkpoints of one training: which to go on from, when to write one, and when to stop; by one rank or by all."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch

from gnnsoup_hpc.config import Job
from gnnsoup_hpc.errors import FileError, RunError, SoupError
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io.ingredient import Checkpoint, Origin
from gnnsoup_hpc.runtime.comm import Comm
from gnnsoup_hpc.runtime.leases import Lease
from gnnsoup_hpc.runtime.progress import Log


class Checkpoints(Protocol):
    """What a training asks between its epochs."""

    def find(self, device: torch.device) -> Checkpoint | None:
        """What to go on from."""

    def check(self, epoch: int, last: bool, checkpoint: Callable[[], Checkpoint]) -> None:
        """After each epoch, and before the first: write what `checkpoint` gives if it is due, stop if that is asked.

        Raises: Preempted, Interrupted; OvertakenError.
        """


def remove(path: Path) -> None:
    """Remove a checkpoint of what is there by now. One that cannot be removed stays; nobody heeds it."""
    with suppress(OSError):
        path.unlink(missing_ok=True)


class OvertakenError(SoupError):
    """Somebody else has the lease by now, and trains the same: no failure, and nothing that ends a command."""


@dataclass(frozen=True)
class SharedCheckpoints:
    """Of a training that ranks do together: rank 0 keeps them, and a signal that one rank hears stops all.

    manager: None on the other ranks.
    """

    manager: CheckpointManager | None
    comm: Comm
    log: Log

    def find(self, device: torch.device) -> Checkpoint | None:
        """As `Checkpoints.find`. Rank-collective."""
        return self.comm.bcast(None if self.manager is None else self.manager.find(device))

    def check(self, epoch: int, last: bool, checkpoint: Callable[[], Checkpoint]) -> None:
        """As `Checkpoints.check`. Rank-collective."""
        asked = any(self.comm.allgather(self.log.stop.asked))
        kept = "" if self.manager is None else self.manager.keep(epoch, last, asked, checkpoint)
        if asked:
            raise self.log.stop.because(self.comm.bcast(kept))


@dataclass
class CheckpointManager:
    """Keeps the checkpoint of one piece of work at `path`. lease: the one that this process trains it under, if any.

    command: begins what it says.
    """

    path: Path
    title: str
    origin: Origin
    job: Job
    lease: Lease | None
    log: Log
    provenance: Mapping[str, object]
    command: str = "train"
    _written_at: float = field(default_factory=lambda: time.monotonic())
    _kept: int = 0
    _trouble: str = ""

    def find(self, device: torch.device) -> Checkpoint | None:
        """What to go on from; a checkpoint that is damaged, or of another recipe or kind of device, is said and left.

        The next one takes its place.
        """
        if not self.path.exists():
            return None
        try:
            checkpoint = ingredient_store.read_checkpoint(self.path, self.origin)
        except FileError as error:
            self.log.say(f"{self.command}: {error}; {self.title} begins anew")
            return None
        if checkpoint.device != device.type:
            self.log.say(
                f"{self.command}: {self.path} is of a training on {checkpoint.device}, and this is {device.type}, where"
                f" dropout draws other numbers; {self.title} begins anew"
            )
            return None
        self._kept = len(checkpoint.history)
        self.log.say(f"{self.command}: {self.title} goes on after epoch {self._kept}, from {self.path}")
        return checkpoint

    def check(self, epoch: int, last: bool, checkpoint: Callable[[], Checkpoint]) -> None:
        """As `Checkpoints.check`."""
        if self.lease is not None and self.lease.lost:
            raise OvertakenError
        asked = self.log.stop.asked
        kept = self.keep(epoch, last, asked, checkpoint)
        if asked:
            raise self.log.stop.because(kept)

    def keep(self, epoch: int, last: bool, asked: bool, checkpoint: Callable[[], Checkpoint]) -> str:
        """Write it if a stop is asked, or it is due; what is kept, in words."""
        every = self.job.train.checkpoint_seconds
        due = not last and every > 0 and time.monotonic() - self._written_at >= every
        if (asked or due) and epoch > self._kept:
            self._write(epoch, checkpoint())
        return self._describe_kept(epoch)

    def forget(self) -> None:
        """What was trained is there: its checkpoint is of no use any more, nor of harm."""
        remove(self.path)

    def _write(self, epoch: int, checkpoint: Checkpoint) -> None:
        """Without a checkpoint training can still succeed, so one that cannot be written is said once."""
        try:
            ingredient_store.write_checkpoint(self.path, checkpoint, self.origin, self.job, **self.provenance)
            self._kept = epoch
        except RunError as error:
            if not self._trouble and not self.log.stop.asked:
                self.log.say(f"{self.command}: no checkpoint: {error}. Training goes on")
            self._trouble = str(error)
        self._written_at = time.monotonic()

    def _describe_kept(self, epoch: int) -> str:
        """What is saved of `epoch` epochs."""
        if self._kept == epoch:
            return f"{self.title} is kept after epoch {epoch} in {self.path}" if epoch else f"{self.title} not begun"
        kept = f"only its first {self._kept} are" if self._kept else "nothing is"
        return f"of {epoch} epochs of {self.title} {kept} kept, for {self._trouble}"
