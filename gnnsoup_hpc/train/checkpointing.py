"""Checkpoints of one training: which to go on from, when to write one, and when to stop."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from gnnsoup_hpc.config import Job
from gnnsoup_hpc.errors import FileError, RunError, SoupError
from gnnsoup_hpc.io import checkpoint as checkpoint_store
from gnnsoup_hpc.io.checkpoint import Checkpoint
from gnnsoup_hpc.io.ingredient import Origin
from gnnsoup_hpc.runtime.leases import Lease
from gnnsoup_hpc.runtime.progress import Log


class OvertakenError(SoupError):
    """Somebody else has the lease by now, and trains the same: no failure, and nothing that ends a command."""


class CheckpointManager:
    """Keeps the checkpoint of one piece of work at `path`. lease: the one that this process trains it under."""

    def __init__(
        self,
        path: Path,
        title: str,
        origin: Origin,
        job: Job,
        lease: Lease,
        log: Log,
        provenance: dict[str, object],
    ) -> None:
        self._path, self._title, self._origin, self._job = path, title, origin, job
        self._lease, self._log, self._provenance = lease, log, provenance
        self._written_at = time.monotonic()
        self._kept, self._trouble = 0, ""

    def found(self, device: torch.device) -> Checkpoint | None:
        """What to go on from; a checkpoint that is damaged, or of another recipe or kind of device, is said and left.

        The next one takes its place.
        """
        if not self._path.exists():
            return None
        try:
            checkpoint = checkpoint_store.read(self._path, self._origin)
        except FileError as error:
            self._log.say(f"train: {error}; {self._title} begins anew")
            return None
        if checkpoint.device != device.type:
            self._log.say(
                f"train: {self._path} is of a training on {checkpoint.device}, and this is {device.type}, where dropout"
                f" draws other numbers; {self._title} begins anew"
            )
            return None
        self._kept = len(checkpoint.history)
        self._log.say(f"train: {self._title} goes on after epoch {self._kept}, from {self._path}")
        return checkpoint

    def between(self, epoch: int, last: bool, checkpoint: Callable[[], Checkpoint]) -> None:
        """After each epoch, and before the first: write what `checkpoint` gives if it is due, stop if that is asked.

        Raises: Preempted; OvertakenError.
        """
        if self._lease.lost:
            raise OvertakenError
        asked, every = self._log.stop.asked, self._job.train.checkpoint_seconds
        due = not last and every > 0 and time.monotonic() - self._written_at >= every
        if (asked or due) and epoch > self._kept:
            self._write(epoch, checkpoint())
        if asked:
            raise self._log.stop.because(self._told(epoch))

    def done(self) -> None:
        """What came of the training is published: the checkpoint is of no use any more."""
        with suppress(OSError):  # nor of harm
            self._path.unlink(missing_ok=True)

    def _write(self, epoch: int, checkpoint: Checkpoint) -> None:
        """Without a checkpoint training can still succeed, so one that cannot be written is said once."""
        try:
            checkpoint_store.write(self._path, checkpoint, self._origin, self._job, **self._provenance)
            self._kept = epoch
        except RunError as error:
            if not self._trouble and not self._log.stop.asked:
                self._log.say(f"train: no checkpoint: {error}. Training goes on")
            self._trouble = str(error)
        self._written_at = time.monotonic()

    def _told(self, epoch: int) -> str:
        """What is saved of `epoch` epochs."""
        if self._kept == epoch:
            return f"{self._title} is kept after epoch {epoch} in {self._path}" if epoch else f"{self._title} not begun"
        kept = f"only its first {self._kept} are" if self._kept else "nothing is"
        return f"of {epoch} epochs of {self._title} {kept} kept, for {self._trouble}"
