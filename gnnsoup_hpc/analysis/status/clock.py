"""Ages of files on the clock of the file system that holds them, for hosts' clocks differ."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from gnnsoup_hpc.runtime import processes


@dataclass(frozen=True)
class Clock:
    """ahead: seconds that the file system's clock is ahead of ours; None where we cannot write there to find out."""

    ahead: float | None

    @classmethod
    def of(cls, folder: Path) -> Clock:
        """The clock of `folder`'s file system; what killed processes have left in `folder` is removed."""
        probe = processes.private_name(folder / "clock")
        processes.remove_leftovers(folder)
        try:
            probe.touch()
            now = probe.stat().st_mtime
            probe.unlink()
        except OSError:
            return cls(None)
        return cls(now - time.time())

    @property
    def now(self) -> float:
        """Seconds since 1970."""
        return time.time() + (self.ahead or 0.0)

    def age(self, path: Path) -> float | None:
        """Seconds since `path` was last touched, never below 0; None where it is not there any more."""
        try:
            return max(0.0, self.now - path.stat().st_mtime)
        except OSError:
            return None
