"""What a pickle would be made of, without making it: no class that it names is looked up, and nothing of it is run."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

from gnnsoup_hpc.errors import UNREADABLE

_MAKERS = ("_reconstruct", "_reconstructor", "__newobj__")


class StandIn:
    """In place of every class and function: it keeps what it is given, and does nothing."""

    name = ""
    held: list[Any]

    def __new__(cls, *given: Any, **named: Any) -> Self:  # noqa: D102
        made = super().__new__(cls)
        made.held = [given, named]
        return made

    def __call__(self, *given: Any, **named: Any) -> StandIn:  # noqa: D102
        return self

    def __setitem__(self, key: Any, value: Any) -> None:
        self.held.append({key: value} if isinstance(key, str) else [key, value])

    def append(self, value: Any) -> None:
        """Keep a value."""
        self.held.append(value)

    __setstate__ = extend = append


class InertUnpickler(pickle.Unpickler):
    """Looks no class up: a stand-in is in each one's place."""

    def find_class(self, module: str, name: str) -> Any:
        """A class of stand-ins of that name."""
        return type("StandIn", (StandIn,), {"name": f"{module}.{name}"})


class _Inert(InertUnpickler):
    def persistent_load(self, pid: Any) -> Any:
        return pid[1] if isinstance(pid, tuple) and pid[:1] == ("module",) and len(pid) > 1 else pid  # of old files


class PickleContents(NamedTuple):
    """Class of what was saved ("" for plain containers), names of values that need what is refused, and their class."""

    root: str
    keys: tuple[str, ...]
    kind: str


def inspect(refused: str, path: Path) -> PickleContents:
    """Where in a file of torch.save the class or function `refused` is asked for; no keys where it is not found."""
    names = {refused, f"builtins.{refused}", f"__builtin__.{refused}"}  # torch leaves the module of built-ins out
    root, keys, kind = "", [], refused
    try:
        content = _root(path)
        root = type(content).name if isinstance(content, StandIn) else ""
        for key, name, made in _walk(content):
            if name in names and key and key not in keys:
                given: tuple[Any, ...] = made.held[0] if isinstance(made, StandIn) else ()
                keys.append(key)
                if given and _is_class(given[0]) and name.rpartition(".")[2] in _MAKERS:
                    kind = given[0].name  # of a function that makes a value, the class that it is given
    except (*UNREADABLE, MemoryError):  # a damaged pickle, or one that expects real classes in place of stand-ins
        pass
    return PickleContents(root, tuple(keys), kind)


def _is_class(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, StandIn)


def _root(path: Path) -> Any:
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:  # a number, a version, a system, and then what was saved
            return [_Inert(file).load() for _ in range(4)][3]
    with zipfile.ZipFile(path) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        return _Inert(io.BytesIO(archive.read(name))).load()


def _walk(root: Any) -> Iterator[tuple[str, str, Any]]:
    """(key, class, value) of every stand-in, each object once; the key is the first name that is not a private one."""
    waiting, seen = [("", root)], set()
    while waiting:
        key, value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        inner: list[tuple[str, Any]] = []
        if isinstance(value, dict):
            for name, item in value.items():
                public = isinstance(name, str) and not name.startswith("_")
                inner += [(key or (name if public else ""), item), (key, name)]
        elif isinstance(value, list | tuple | set | frozenset):
            inner += [(key, item) for item in value]
        elif isinstance(value, StandIn):
            yield key, type(value).name, value
            inner += [(key, item) for item in value.held]
        elif _is_class(value):
            yield key, value.name, value
        waiting += reversed(inner)
