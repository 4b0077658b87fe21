"""Rows of a large dataset, read past HDF5 where its layout allows it.

HDF5 reads a chunk into its cache, sums it up, copies it out, and holds Python's lock meanwhile. Chunks of whole rows
with no filter but Fletcher-32, as `files.space` makes them, lie in the file as they lie in memory: they are read
straight to where they are wanted, and their checksums are taken while they are in the core's cache.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from gnnsoup_hpc.io import files
from gnnsoup_hpc.types import IntArray, WordArray

_TAIL = 4  # bytes of Fletcher-32 at the end of a chunk


@dataclass(frozen=True)
class BulkRows:
    """A dataset of an open file, read by ranges of rows. `advice` ends the message of a file that is damaged."""

    path: Path
    dataset: h5py.Dataset
    advice: str = ""

    def into(self, start: int, stop: int, out: npt.NDArray[Any]) -> None:
        """Read rows start to stop - 1 into `out`, contiguous and of the dataset's type.

        Raises: FileError where the file ends too early or a checksum is wrong.
        """
        if start == stop:
            return
        with files.open_file(self.path, self.advice):
            if self.chunks is None:
                self.dataset.read_direct(out, np.s_[start:stop])
            else:
                self.chunks.into(start, stop, out)

    @cached_property
    def chunks(self) -> Chunks | None:
        """Where rows lie in the file; None where HDF5 must read them."""
        return _chunks(self.dataset)


@dataclass(frozen=True)
class Chunks:
    """Chunks of `rows` whole rows each, at `offsets` of the file open as `handle`; `summed`: Fletcher-32 behind."""

    name: str
    handle: int
    offsets: IntArray
    rows: int
    summed: bool

    def into(self, start: int, stop: int, out: npt.NDArray[Any]) -> None:
        """Read rows start to stop - 1 into `out`. Raises: OSError for a chunk that is cut off or altered."""
        spare = None
        for chunk in range(start // self.rows, -(-stop // self.rows)):
            low = chunk * self.rows
            first, last = max(start, low), min(stop, low + self.rows)
            mine = out[first - start : last - start]
            if last - first == self.rows:
                self._chunk(chunk, mine)
                continue
            if spare is None:
                spare = np.empty((self.rows, *out.shape[1:]), dtype=out.dtype)
            self._chunk(chunk, spare)
            mine[...] = spare[first - low : last - low]

    def _chunk(self, chunk: int, out: npt.NDArray[Any]) -> None:
        tail = bytearray(_TAIL if self.summed else 0)
        place: list[Any] = [out.reshape(-1).view(np.uint8).data, tail]
        if os.preadv(self.handle, place, int(self.offsets[chunk])) != out.nbytes + len(tail):
            raise OSError(f"it ends within {self.name}")
        if self.summed and not _is_sum(tail, _sum(out.reshape(-1).view(np.uint32))):
            raise OSError(f"rows {chunk * self.rows} to {(chunk + 1) * self.rows - 1} of {self.name} were altered")

    def holds(self, dataset: h5py.Dataset) -> bool:
        """Whether the first chunk is where HDF5 says: releases differ in whether they count the user block."""
        try:
            self._chunk(0, np.empty(dataset.chunks, dtype=dataset.dtype))
        except OSError:
            return False
        return True


def _sum(words: WordArray) -> int:
    """Fletcher-32; numba is loaded by whoever reads rows, not by whoever looks at a file's head."""
    from gnnsoup_hpc.engine.compiled.kernels.checksum import fletcher32

    return int(fletcher32(words))


def _is_sum(tail: bytearray, found: int) -> bool:
    """Whether a chunk's tail is that sum; HDF5 also takes one whose two bytes are swapped in each half."""
    swapped = (found & 0x00FF00FF) << 8 | (found & 0xFF00FF00) >> 8
    return int.from_bytes(tail, "little") in (found, swapped)


def _chunks(dataset: h5py.Dataset) -> Chunks | None:
    shape, kind = dataset.chunks, dataset.dtype
    filters = dataset.id.get_create_plist().get_nfilters()
    plain = shape is not None and shape[1:] == dataset.shape[1:] and filters == bool(dataset.fletcher32)
    plain = plain and hasattr(dataset.id, "chunk_iter")  # HDF5 1.12.3 and later
    if not plain or not kind.isnative or kind.itemsize % 4 or dataset.file.driver != "sec2":
        return None
    offsets = np.full(-(-dataset.shape[0] // shape[0]), -1, dtype=np.int64)

    def note(info: Any) -> None:
        if info.filter_mask == 0:
            offsets[info.chunk_offset[0] // shape[0]] = info.byte_offset

    dataset.id.chunk_iter(note)
    if not len(offsets) or (offsets < 0).any():
        return None
    chunks = Chunks(dataset.name, dataset.file.id.get_vfd_handle(), offsets, shape[0], bool(dataset.fletcher32))
    return chunks if chunks.holds(dataset) else None
