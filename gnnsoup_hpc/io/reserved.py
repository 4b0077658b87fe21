"""A file whose disk space is reserved before HDF5 writes it.

HDF5 crashes on a disk that fills up while it writes. Space that is reserved cannot be taken by anybody else, so a disk
that is too full says so before the first byte. What else may go wrong while it writes (a disk that breaks, or becomes
read-only) is kept from HDF5, and said when it is done.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

from gnnsoup_hpc.utils.out_of_core import reserve

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

_OVERHEAD = 1.05  # of HDF5's own structures and half-filled chunks
_LEAST = 1 << 16


class ReservedFile(io.FileIO):
    """A new file of `size` bytes and a little more, reserved; `settle` cuts it to what HDF5 used."""

    def __init__(self, path: Path, size: int) -> None:
        super().__init__(path, "w+b")
        self._used = 0
        self._trouble: OSError | None = None
        try:
            reserve(self.fileno(), round(size * _OVERHEAD) + _LEAST)
        except OSError:
            self.close()
            raise

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move; the end of the file is where HDF5 has written to, for it takes a longer file for one that is there."""
        return super().seek(self._used + offset) if whence == os.SEEK_END else super().seek(offset, whence)

    def write(self, content: Buffer, /) -> int:
        """Write all of `content`, or else note what went wrong, for the end."""
        view, start = memoryview(content).cast("B"), self.tell()
        done = 0
        while done < len(view) and self._trouble is None:
            try:
                done += super().write(view[done:])
            except OSError as error:
                self._trouble = error
        super().seek(start + len(view))
        self._used = max(self._used, self.tell())
        return len(view)

    def truncate(self, size: int | None = None, /) -> int:
        """Note where HDF5 ends its file, and keep what is reserved."""
        self._used = self.tell() if size is None else size
        return self._used

    def __exit__(self, *raised: object) -> None:
        """Close it. Raises: OSError where something could not be written, whatever came of that in HDF5."""
        self.close()
        if self._trouble is not None:
            raise self._trouble

    def settle(self) -> None:
        """Give back what HDF5 did not use. Raises: OSError where something could not be written."""
        if self._trouble is not None:
            raise self._trouble
        super().truncate(self._used)
