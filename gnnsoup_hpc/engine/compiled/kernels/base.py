"""How kernels are compiled, and where the machine code is kept: the only room that imports numba.

A kernel lets go of Python's lock, so threads of `team` run it side by side. A row is one thread's alone and its entries
are summed in their order, so no result depends on the number of threads. numba's own thread pool is not used.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba.core.caching import FunctionCache
from numba.misc.appdirs import AppDirs

_CONFIG: Any = numba.config
_Function = TypeVar("_Function", bound=Callable[..., Any])


def _cache() -> tuple[str | None, str]:
    """Folder for numba to keep machine code in, and what is said of it: nothing of the usual place.

    "" leaves the choice to numba: NUMBA_CACHE_DIR, or the package's own folder; None: machine code is not kept.
    """
    if _CONFIG.CACHE_DIR:
        given = Path(_CONFIG.CACHE_DIR)
        return ("", "") if _takes_files(given) else (None, _ANEW.format(f"{given} (NUMBA_CACHE_DIR) cannot be written"))
    if _takes_files(Path(__file__).parent / "__pycache__"):
        return "", ""
    for folder in (_of_user(), _of_machine()):
        if folder.is_absolute() and _is_ours(folder) and _takes_files(folder):
            return str(folder), f"compiled kernels are kept in {folder}, for the package's folder cannot be written"
    return None, _ANEW.format("no folder can be written")


_ANEW = "{}: kernels are compiled anew by each process; set NUMBA_CACHE_DIR to a folder that you can write to"


def _of_user() -> Path:
    """The user's folder for such things; not absolute for a user without a home."""
    known: Any = AppDirs(appname="gnnsoup_hpc", appauthor=False)  # type: ignore[no-untyped-call]
    return Path(known.user_cache_dir)


def _of_machine() -> Path:
    """A folder of ours among temporary ones; not absolute where there is no place for those."""
    try:
        return Path(tempfile.gettempdir()) / f"gnnsoup_hpc-{os.getuid()}"
    except FileNotFoundError:
        return Path()


def _is_ours(folder: Path) -> bool:
    """Make the folder if it is not there; whether nobody else can have put code into it, for what it holds is run."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return False
    return folder.is_dir() and not folder.is_symlink() and found.st_uid == os.getuid() and not found.st_mode & 0o022


def _takes_files(folder: Path) -> bool:
    """Whether a file can be made there, found by making one."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


class _Kept(FunctionCache):
    """numba's cache on disk; code that cannot be saved, for want of room as a rule, is used all the same."""

    def save_overload(self, sig: Any, data: Any) -> None:
        with suppress(OSError):
            super().save_overload(sig, data)  # type: ignore[no-untyped-call]


_FOLDER, UNUSUAL = _cache()
if _FOLDER:
    _CONFIG.CACHE_DIR = _FOLDER


def _compiled(function: _Function, **options: Any) -> _Function:
    made = numba.njit(function, nogil=True, error_model="numpy", **options)
    if _FOLDER is not None:
        made._cache = _Kept(function)  # type: ignore[no-untyped-call]
    kernel: _Function = made
    return kernel


def compile_kernel(function: _Function) -> _Function:
    """Compile for the types of the first call, and keep the machine code for other processes."""
    return _compiled(function, fastmath={"contract", "nsz"})


def compile_reassociating(function: _Function) -> _Function:
    """The same where sums over a row's channels may run in whatever order is fastest: one order, but the compiler's."""
    return _compiled(function, fastmath={"contract", "nsz", "reassoc"})
