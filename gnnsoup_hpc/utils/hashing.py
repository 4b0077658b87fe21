"""Hashes that say whether two things are the same: of values, and of arrays."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


def canonical(value: object) -> str:
    """JSON text that is the same for equal values: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def fingerprint(value: object) -> str:
    """SHA-256 of `canonical(value)`, in hexadecimal."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def file_sha256(path: Path, start: int = 0) -> str:
    """SHA-256 of a file's bytes from `start` on, in hexadecimal."""
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_sha256(arrays: Mapping[str, Any]) -> str:
    """SHA-256 over names, types, shapes and bytes of arrays, in the order of their names."""
    content = Content()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        content.add(name, array.dtype, array.shape, [array])
    return content.sha256


class Content:
    """The same hash, of arrays that come in blocks. They MUST be added in the order of their names."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, name: str, kind: npt.DTypeLike, shape: tuple[int, ...], blocks: Iterable[npt.NDArray[Any]]) -> None:
        """Add an array of that type and shape, whose blocks are cast to the type."""
        self._digest.update(f"{name}\0{np.dtype(kind).str}\0{shape}\0".encode())
        for block in blocks:
            array = np.ascontiguousarray(block, dtype=kind)
            self._digest.update(array.reshape(-1).view(np.uint8).data)

    @property
    def sha256(self) -> str:
        """The hash of what was added so far."""
        return self._digest.hexdigest()
