"""What a source may use while it is read."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gnnsoup_hpc.errors import GraphError


@dataclass(frozen=True)
class SourceContext:
    """A private folder for what does not fit memory, gone afterwards; whether downloads are allowed; where to talk."""

    scratch: Path
    offline: bool = False
    say: Callable[[str], None] = lambda text: None

    def announce_download(self, what: str, where: Path, size: str) -> None:
        """Say that `what` is about to be downloaded to `where`; nothing ever waits for an answer.

        Raises: GraphError where downloads are not allowed.
        """
        if self.offline:
            raise GraphError(
                f"{what} is not in {where}, and --offline forbids to download it: run `gnnsoup prepare JOB` where there"
                " is a network, or put the set there (graph.root)"
            )
        self.say(f"prepare: downloading {what} ({size}) to {where}")


@contextmanager
def stage_download(place: Path) -> Iterator[Path]:
    """A private folder beside `place`, gone afterwards: what is downloaded is whole before it is moved to `place`."""
    private = place.with_name(f".{place.name}.{os.getpid()}.part")
    try:
        private.mkdir(parents=True)
        yield private
    finally:
        shutil.rmtree(private, ignore_errors=True)
