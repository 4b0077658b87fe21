"""Paths as people give them."""

from __future__ import annotations

from pathlib import Path

from gnnsoup_hpc.errors import FileError


def expanded(text: str) -> Path:
    """The path, with ~ replaced by a home. Raises: FileError where none is known."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise FileError(f"{text}: no home folder is known for {Path(text).parts[0]}; write the whole path") from None
