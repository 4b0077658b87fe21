"""Large arrays that are used again, for fresh memory is paid for page by page at its first touch."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

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
