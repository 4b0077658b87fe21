"""Notes: small JSON files that tell people and programs what happens in a run; no result ever depends on one.

A note is replaced in one step, so that a reader meets the old one or the new one. It is not flushed to the disk, for it
is worth nothing after a crash.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gnnsoup_hpc.runtime import processes


def write(path: Path, values: Mapping[str, Any]) -> None:
    """Replace the note at `path`. Raises: OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    private = processes.private_name(path)
    try:
        private.write_text(json.dumps(values) + "\n", encoding="utf-8")
        os.replace(private, path)
    finally:
        private.unlink(missing_ok=True)


def read(path: Path) -> dict[str, Any]:
    """What the note at `path` says; nothing where there is none, or none that can be read."""
    try:
        return parse(path.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return {}


def parse(text: str) -> dict[str, Any]:
    """The JSON object in a text; nothing where it is none."""
    try:
        values = json.loads(text)
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


def remove(path: Path) -> None:
    """Take the note at `path` away, and what a killed process left half-written of it. Raises: OSError."""
    path.unlink(missing_ok=True)
    processes.remove_leftovers(path.parent, path.name)
