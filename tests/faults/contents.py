"""What the files of a run hold, but for what differs between any two runs; and whether all of them are whole."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from gnnsoup_hpc.config import loading as jobs
from gnnsoup_hpc.errors import SoupError
from gnnsoup_hpc.io import files
from gnnsoup_hpc.utils.hashing import content_sha256, fingerprint
from tests.faults import kit

# Dates, times, memory, where and when a source was written: of these alone may two runs of one job differ.
REFERENCES = {"DIMENSION_LIST", "REFERENCE_LIST"}  # places in the file, of what its dimensions are
VOLATILE = re.compile(
    r"(^|/)cost/|@created$|source_files$|/ingredients/file$|seconds|time|peak|baseline|memory|speed|bytes"
)
Held = Mapping[str, str]  # name of a dataset or an attribute, hash of its value
PASSING = frozenset({"leases", "checkpoints", "outputs"})  # folders of what is gone once the work is done
NEWEST = 1 << 30  # no version is too new where only wholeness is asked


def published(root: Path) -> dict[str, Path]:
    """Every file below `root` that is to be taken for a finished one, by its path: all but temporaries and leases."""
    return {
        str(name): path
        for path in sorted(root.rglob("*"))
        if path.is_file() and not hidden(name := path.relative_to(root)) and name.suffix != ".lease"
    }


def leftovers(root: Path) -> list[str]:
    """Temporaries, leases and checkpoints: what nobody needs once the commands are done."""
    found = [path.relative_to(root) for path in sorted(root.rglob("*"))]
    return [
        str(name)
        for name in found
        if name.name not in {".graphs", *PASSING}  # the folders themselves
        if hidden(name) or name.suffix == ".lease" or PASSING & set(name.parts)
    ]


def hidden(name: Path) -> bool:
    """Whether a path is that of something private, or in something private."""
    return any(part.startswith(".") and part != ".graphs" for part in name.parts)


def held(path: Path) -> Held:
    """What a file holds, item by item. Raises: SoupError, or what h5py raises, for a file that is not whole."""
    if path.suffix == ".toml":
        jobs.load(str(path))
        return {"text": path.read_text()}
    if path.suffix == ".json":
        json.loads(path.read_text())
        return {}
    if path.suffix in (".pt", ".npy", ".md", ".py", ".csv"):  # of exports, the same byte for byte
        return {"bytes": kit.digest(path)}
    if path.suffix == ".damaged":  # set aside as it was, not to be used
        return {}
    with h5py.File(path, "r", locking=False) as file:
        kind = str(file.attrs["format"]).partition("/")[2]
    with files.open_file(path, kind, NEWEST, verify=True) as file:
        return {name: value for name, value in _items(file) if not VOLATILE.search(name)}


def _items(file: h5py.File) -> Iterator[tuple[str, str]]:
    nodes: list[Any] = [file]
    while nodes:
        node = nodes.pop()
        attributes = {name: value for name, value in node.attrs.items() if name not in REFERENCES}
        yield from ((f"{node.name}@{name}", fingerprint(_plain(value))) for name, value in attributes.items())
        if isinstance(node, h5py.Dataset):
            yield f"{node.name}@dims", fingerprint([[scale.name for scale in each.values()] for each in node.dims])
        if isinstance(node, h5py.Group):
            nodes += node.values()
        elif node.dtype.kind == "O":
            yield node.name, fingerprint(node.asstr()[()].tolist() if node.shape else node.asstr()[()])
        else:
            yield node.name, content_sha256({"": np.asarray(node[()])})


def _plain(value: Any) -> Any:
    value = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    return value.decode() if isinstance(value, bytes) else value  # of dimensions, whose names HDF5 itself writes


def all_held(root: Path) -> dict[str, Held]:
    """What each finished file holds."""
    return {name: held(path) for name, path in published(root).items()}


class Inspector:
    """Says which files of a run are neither as they were before a command nor as they are to be after it."""

    def __init__(self, before: Path, after: Mapping[str, Held]) -> None:
        self._after = after
        self._before = {kit.digest(path) for path in published(before).values()}
        self._known: dict[str, tuple[int, int, int]] = {}

    def problems(self, root: Path) -> list[str]:
        """What is wrong, a line a file."""
        found = []
        for name, path in published(root).items():
            about = path.stat()
            stamp = about.st_ino, about.st_mtime_ns, about.st_size
            if self._known.get(name) == stamp or kit.digest(path) in self._before:
                continue
            wrong = self._wrong(name, path)
            if wrong:
                found.append(wrong)
            else:
                self._known[name] = stamp
        return found

    def _wrong(self, name: str, path: Path) -> str:
        try:
            now = held(path)
        except (SoupError, OSError, KeyError, ValueError) as error:
            return f"{name} looks finished and is not: {error}"
        if PASSING & set(Path(name).parts):
            return ""
        if name not in self._after:
            return f"{name} is no file of an undisturbed run"
        wanted = self._after[name]
        other = [item for item in sorted(now.keys() | wanted.keys()) if now.get(item) != wanted.get(item)]
        return f"{name} is not that of an undisturbed run in {', '.join(other[:5])}" if other else ""
