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

_Function = TypeVar("_Function", bound=Callable[..., Any])


def choose_cache(given: str, package: Path) -> tuple[str | None, str]:
    """Folder for numba to keep machine code in, and what is said of it: nothing of the usual place.

    given: NUMBA_CACHE_DIR, or empty. package: where numba would keep it by itself. "" leaves the choice to numba, which
    takes one of these; None: machine code is not kept.
    """
    if given:
        unwritable = f"{Path(given)} (NUMBA_CACHE_DIR) cannot be written"
        return ("", "") if _takes_files(Path(given)) else (None, _ANEW.format(unwritable))
    if _takes_files(package):
        return "", ""
    for folder in (_find_users_folder(), _find_temporary_folder()):
        if folder.is_absolute() and _is_ours(folder) and _takes_files(folder):
            return str(folder), f"compiled kernels are kept in {folder}, for the package's folder cannot be written"
    return None, _ANEW.format("no folder can be written")


_ANEW = "{}: kernels are compiled anew by each process; set NUMBA_CACHE_DIR to a folder that you can write to"


def _find_users_folder() -> Path:
    """The user's folder for such things; not absolute for a user without a home."""
    known: Any = AppDirs(appname="gnnsoup_hpc", appauthor=False)  # type: ignore[no-untyped-call]
    return Path(known.user_cache_dir)


def _find_temporary_folder() -> Path:
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


FOLDER, UNUSUAL = choose_cache(numba.config.CACHE_DIR, Path(__file__).parent / "__pycache__")  # type: ignore[attr-defined]
if FOLDER:
    numba.config.CACHE_DIR = FOLDER  # type: ignore[attr-defined]


def _compile(function: _Function, **options: Any) -> _Function:
    made = numba.njit(function, nogil=True, error_model="numpy", **options)
    if FOLDER is not None:
        made._cache = _Kept(function)  # type: ignore[no-untyped-call]
    kernel: _Function = made
    return kernel


def compile_kernel(function: _Function) -> _Function:
    """Compile for the types of the first call, and keep the machine code for other processes."""
    return _compile(function, fastmath={"contract", "nsz"})


def compile_reassociating(function: _Function) -> _Function:
    """The same where sums over a row's channels may run in whatever order is fastest: one order, but the compiler's."""
    return _compile(function, fastmath={"contract", "nsz", "reassoc"})
