"""Rows of a dataset of an open file, read by ranges.

A contiguous dataset lies in the file as it lies in memory, so its rows are read straight to where they are wanted, by
the file's own descriptor, without HDF5 and the lock that it holds. Any other layout is read by HDF5.
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


@dataclass(frozen=True)
class DatasetRows:
    """The rows of `dataset` in the file `path`, which stays open. `advice` ends the message of a damaged file."""

    path: Path
    dataset: h5py.Dataset
    advice: str = ""

    def read_into(self, start: int, stop: int, out: npt.NDArray[Any]) -> None:
        """Read rows start to stop - 1 into `out` (stop - start, …), contiguous and of the dataset's type.

        Raises: FileError where the file ends too early, or cannot be read, or a checksum of HDF5's is wrong.
        """
        if not out.size:
            return
        with files.explain_damage(self.path, self.advice):
            if self._place is None:
                self.dataset.read_direct(out, np.s_[start:stop])
            else:
                handle, offset = self._place
                self._read_bytes(handle, offset + start * (out.nbytes // len(out)), out.reshape(-1).view(np.uint8).data)

    def _read_bytes(self, handle: int, offset: int, view: memoryview) -> None:
        done = 0
        while done < len(view):  # a call reads 2 GiB at most
            count = os.preadv(handle, [view[done:]], offset + done)
            if count == 0:
                raise OSError(f"it ends within {self.dataset.name}")
            done += count

    @cached_property
    def _place(self) -> tuple[int, int] | None:
        """The open file's descriptor, and where its rows begin; None where HDF5 must read them."""
        of = self.dataset.id
        offset = of.get_offset()  # None unless contiguous; of what was never written it is wrong beside a user block
        if offset is None or not of.get_storage_size():
            return None
        if self.dataset.external or not self.dataset.dtype.isnative or self.dataset.file.driver != "sec2":
            return None
        return self.dataset.file.id.get_vfd_handle(), offset
