"""Matrices too large for memory: read and written a block of rows at a time.

`Rows` is what they have in common with a NumPy array: a shape, and rows by slice or by ids.
"""

from __future__ import annotations

import errno
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from gnnsoup_hpc.errors import RunError
from gnnsoup_hpc.types import IntArray

# ---- buffers
# Large arrays that are used again, for fresh memory is paid for page by page at its first touch.

_OURS = 3  # references to a buffer that is held here alone: the list's, the local name's and the argument's


class BufferPool:
    """Memory by purpose. A buffer is given out again only once nothing refers to it any more.

    So what was taken may be kept as long as one likes, and views, tensors and slices of it count; keeping it costs that
    a second buffer is made. Matrices get room for `rows` rows at once, the most that will be asked for. One thread at a
    time takes arrays of one purpose.
    """

    def __init__(self, rows: int = 0) -> None:
        self._rows = rows
        self._held: dict[str, list[npt.NDArray[np.uint8]]] = {}

    def array(self, purpose: str, shape: tuple[int, ...], kind: npt.DTypeLike) -> npt.NDArray[Any]:
        """An array of that shape whose values are undefined."""
        held = self._held.setdefault(purpose, [])
        size = math.prod(shape) * np.dtype(kind).itemsize
        most = size if len(shape) == 1 else max(size, self._rows * math.prod(shape[1:]) * np.dtype(kind).itemsize)
        number = next((number for number in range(len(held)) if _is_idle(held, number)), len(held))
        if number == len(held):
            held.append(np.empty(most, dtype=np.uint8))
        elif held[number].nbytes < size:
            held[number] = np.empty(0, dtype=np.uint8)  # gone before the larger one is made
            held[number] = np.empty(most, dtype=np.uint8)
        return held[number][:size].view(kind).reshape(shape)

    def buffers(self, purpose: str) -> int:
        """How many there are for a purpose: as many as were ever in use at once."""
        return len(self._held.get(purpose, []))


def _is_idle(held: list[npt.NDArray[np.uint8]], number: int) -> bool:
    buffer = held[number]
    return sys.getrefcount(buffer) <= _OURS


BLOCK_BYTES = 64 << 20


def index_type(bound: int) -> Any:
    """int32 for indices that stay below `bound`, where it holds them: half the memory."""
    return np.int32 if bound < 2**31 else np.int64


def blocks(count: int, row_bytes: int, block_bytes: int | None = None) -> Iterator[slice]:
    """Consecutive slices of `count` rows, of about `block_bytes` each (BLOCK_BYTES)."""
    step = max(1, (BLOCK_BYTES if block_bytes is None else block_bytes) // max(1, row_bytes))
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


class Rows(Protocol):
    """A matrix of shape (n, width) that need not be in memory; a NumPy array is one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, width)."""

    def __getitem__(self, which: slice | IntArray, /) -> Any:
        """The rows of a slice or of ids, as an array."""


class FileRows:
    """A matrix in a file of raw numbers, row after row. It is never mapped, for a map's pages count as memory."""

    def __init__(self, path: Path, shape: tuple[int, int], kind: npt.DTypeLike) -> None:
        self.path, self.shape, self.dtype = path, shape, np.dtype(kind)

    @classmethod
    def create(cls, path: Path, shape: tuple[int, int], kind: npt.DTypeLike = np.float32) -> FileRows:
        """A new file of zeros, its disk space reserved. Raises: RunError where there is no room."""
        rows = cls(path, shape, kind)
        with explain_write(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                reserve(file.fileno(), shape[0] * shape[1] * rows.dtype.itemsize)
        return rows

    def __getitem__(self, which: slice | IntArray) -> npt.NDArray[Any]:
        if isinstance(which, slice):
            start, stop, _ = which.indices(self.shape[0])
            return self._read(start, stop)
        return read_by_ids(self._read, self.shape, self.dtype, np.asarray(which))

    def __setitem__(self, which: slice, block: npt.NDArray[Any]) -> None:
        start, _, _ = which.indices(self.shape[0])
        with explain_write(self.path), self.path.open("r+b") as file:
            file.seek(start * self._row_bytes)
            file.write(np.ascontiguousarray(block, dtype=self.dtype).data)

    @property
    def _row_bytes(self) -> int:
        return self.shape[1] * self.dtype.itemsize

    def _read(self, start: int, stop: int) -> npt.NDArray[Any]:
        out = np.empty((max(0, stop - start), self.shape[1]), dtype=self.dtype)
        with self.path.open("rb") as file:
            file.seek(start * self._row_bytes)
            if out.size and file.readinto(out.reshape(-1).view(np.uint8).data) != out.nbytes:
                raise RunError(f"{self.path} ends before row {stop}: something else has changed it")
        return out


def read_by_ids(
    read: Callable[[int, int], npt.NDArray[Any]], shape: tuple[int, int], kind: npt.DTypeLike, ids: IntArray
) -> npt.NDArray[Any]:
    """Rows by ids of a matrix that `read(start, stop)` reads: slab after slab, one in memory beside the result."""
    order = np.argsort(ids, kind="stable")
    ordered = ids[order]
    out = np.empty((len(ids), shape[1]), dtype=kind)
    for slab in blocks(shape[0], shape[1] * out.itemsize, BLOCK_BYTES // 2):
        first, last = np.searchsorted(ordered, [slab.start, slab.stop])
        if first < last:
            low, high = int(ordered[first]), int(ordered[last - 1]) + 1
            out[order[first:last]] = read(low, high)[ordered[first:last] - low]
    return out


class SparseRows:
    """A sparse matrix whose rows are made dense when they are asked for."""

    def __init__(self, matrix: sp.csr_matrix) -> None:
        self._matrix = matrix

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, width)."""
        return tuple(self._matrix.shape)

    def __getitem__(self, which: slice | IntArray) -> npt.NDArray[Any]:
        return np.asarray(self._matrix[which].toarray())


def save(path: Path, array: npt.NDArray[Any]) -> None:
    """Write an array as .npy. Raises: RunError where it cannot be written."""
    with explain_write(path):
        np.save(path, array)


def save_text(path: Path, text: str) -> None:
    """Write a text. Raises: RunError where it cannot be written."""
    with explain_write(path):
        path.write_text(text, encoding="utf-8")


@contextmanager
def explain_write(path: Path) -> Iterator[None]:
    """Around the writing of `path`. Raises: RunError, of which an OSError is the cause."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{path} cannot be written: {error.strerror or error}. Nothing finished is lost; make room or make the"
            " folder writable, then give the same command again"
        ) from error


def reserve(handle: int, size: int) -> None:
    """Reserve disk space for an open file, so that writing it cannot fail for want of room later.

    Raises: OSError where there is no room.
    """
    room = os.fstatvfs(handle)
    free = room.f_bavail * room.f_frsize
    if free < size:  # said before anything is taken, or a disk would be filled to find out
        needed = f"{size // 1024} KiB are needed, {free // 1024} KiB are left"
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {needed}")
    if size:
        os.posix_fallocate(handle, 0, size)
