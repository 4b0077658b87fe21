"""Checkpoints of one training: which to go on from, when to write one, and when to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from gnnsoup_hpc.config import Job
from gnnsoup_hpc.errors import FileError, RunError, SoupError
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io.ingredient import Checkpoint, Origin
from gnnsoup_hpc.runtime.leases import Lease
from gnnsoup_hpc.runtime.progress import Log


class OvertakenError(SoupError):
    """Somebody else has the lease by now, and trains the same: no failure, and nothing that ends a command."""


@dataclass
class CheckpointManager:
    """Keeps the checkpoint of one piece of work at `path`. lease: the one that this process trains it under."""

    path: Path
    title: str
    origin: Origin
    job: Job
    lease: Lease
    log: Log
    provenance: Mapping[str, object]
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
            self.log.say(f"train: {error}; {self.title} begins anew")
            return None
        if checkpoint.device != device.type:
            self.log.say(
                f"train: {self.path} is of a training on {checkpoint.device}, and this is {device.type}, where dropout"
                f" draws other numbers; {self.title} begins anew"
            )
            return None
        self._kept = len(checkpoint.history)
        self.log.say(f"train: {self.title} goes on after epoch {self._kept}, from {self.path}")
        return checkpoint

    def check(self, epoch: int, last: bool, checkpoint: Callable[[], Checkpoint]) -> None:
        """After each epoch, and before the first: write what `checkpoint` gives if it is due, stop if that is asked.

        Raises: Preempted; OvertakenError.
        """
        if self.lease.lost:
            raise OvertakenError
        asked, every = self.log.stop.asked, self.job.train.checkpoint_seconds
        due = not last and every > 0 and time.monotonic() - self._written_at >= every
        if (asked or due) and epoch > self._kept:
            self._write(epoch, checkpoint())
        if asked:
            raise self.log.stop.because(self._describe_kept(epoch))

    def _write(self, epoch: int, checkpoint: Checkpoint) -> None:
        """Without a checkpoint training can still succeed, so one that cannot be written is said once."""
        try:
            ingredient_store.write_checkpoint(self.path, checkpoint, self.origin, self.job, **self.provenance)
            self._kept = epoch
        except RunError as error:
            if not self._trouble and not self.log.stop.asked:
                self.log.say(f"train: no checkpoint: {error}. Training goes on")
            self._trouble = str(error)
        self._written_at = time.monotonic()

    def _describe_kept(self, epoch: int) -> str:
        """What is saved of `epoch` epochs."""
        if self._kept == epoch:
            return f"{self.title} is kept after epoch {epoch} in {self.path}" if epoch else f"{self.title} not begun"
        kept = f"only its first {self._kept} are" if self._kept else "nothing is"
        return f"of {epoch} epochs of {self.title} {kept} kept, for {self._trouble}"
