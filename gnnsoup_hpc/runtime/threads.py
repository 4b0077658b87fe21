"""How many threads this process computes with: the only place where that is set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Threads:
    """shared: while all ranks of the node compute; most: while the others wait. 0 leaves the number as it is."""

    shared: int = 0
    most: int = 0

    @contextmanager
    def alone(self) -> Iterator[None]:
        """A block in which other ranks wait for this one."""
        import torch

        before = torch.get_num_threads()
        if self.most:
            torch.set_num_threads(self.most)
        try:
            yield
        finally:
            if self.most:
                torch.set_num_threads(before)
