"""What a layer has made of its nodes: a matrix in memory, or in a file of the run when it is too large for that."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from gnnsoup_hpc.types import FloatArray, IntArray
from gnnsoup_hpc.utils.out_of_core import FileRows, blocks

Slab = tuple[int, int, FloatArray]  # first row, row after the last, the rows


class StoredRows(Protocol):
    """A matrix (rows, width)."""

    def take(self, ids: IntArray) -> FloatArray:
        """Rows by ids."""

    def write(self, start: int, block: FloatArray) -> None:
        """Put rows from `start` on."""

    def slabs(self, slab_bytes: int) -> Iterator[Slab]:
        """All rows in order, about so many bytes at a time."""


@dataclass(frozen=True)
class MemoryRows:
    """A matrix in memory."""

    rows: FloatArray

    def take(self, ids: IntArray) -> FloatArray:
        """Rows by ids."""
        return self.rows[ids]

    def write(self, start: int, block: FloatArray) -> None:
        """Put rows from `start` on."""
        self.rows[start : start + len(block)] = block

    def slabs(self, slab_bytes: int) -> Iterator[Slab]:
        """All rows at once, for they are there."""
        yield 0, len(self.rows), self.rows


@dataclass(frozen=True)
class SpilledRows:
    """A matrix in a file."""

    rows: FileRows

    def take(self, ids: IntArray) -> FloatArray:
        """Rows by ids."""
        return self.rows[ids]

    def write(self, start: int, block: FloatArray) -> None:
        """Put rows from `start` on."""
        self.rows.write(start, block)

    def slabs(self, slab_bytes: int) -> Iterator[Slab]:
        """One slab at a time in memory."""
        count, width = self.rows.shape
        for slab in blocks(count, 4 * width, slab_bytes):
            yield slab.start, slab.stop, self.rows[slab]


def allocate(folder: Path, name: str, rows: int, width: int, in_memory: bool) -> StoredRows:
    """Room for a matrix; in a file it replaces an older one of that name. Raises: RunError where there is no room."""
    if in_memory:
        return MemoryRows(np.empty((rows, width), dtype=np.float32))
    return SpilledRows(FileRows.create(folder / name, (rows, width)))
