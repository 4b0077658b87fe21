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
        with use_threads(self.most):
            yield


@contextmanager
def use_threads(count: int) -> Iterator[None]:
    """A block that computes with so many threads; 0 changes nothing."""
    import torch

    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        if count:
            torch.set_num_threads(before)
