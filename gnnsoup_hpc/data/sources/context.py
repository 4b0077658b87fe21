"""What a source may use while it is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gnnsoup_hpc.errors import GraphError


def _quiet(text: str) -> None:
    """Say nothing."""


@dataclass(frozen=True)
class SourceContext:
    """A private folder for what does not fit memory, gone afterwards; whether downloads are allowed; where to talk."""

    scratch: Path
    offline: bool = False
    say: Callable[[str], None] = _quiet

    def ask_to_download(self, what: str, where: Path, size: str) -> None:
        """Say that `what` is about to be downloaded to `where`; nothing ever waits for an answer.

        Raises: GraphError where downloads are not allowed.
        """
        if self.offline:
            raise GraphError(
                f"{what} is not in {where}, and --offline forbids to download it: run `gnnsoup prepare JOB` where there"
                " is a network, or put the set there (graph.root)"
            )
        self.say(f"prepare: downloading {what} ({size}) to {where}")
