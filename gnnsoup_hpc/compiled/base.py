"""How kernels are compiled: the only room that imports numba.

A kernel lets go of Python's lock, so threads of `crew` run it side by side. A row is one thread's alone and its entries
are summed in their order, so no result depends on the number of threads. numba's own thread pool is not used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(function: _Function) -> _Function:
    """Compile for the types of the first call, and keep the machine code in the cache beside its file."""
    made: _Function = numba.njit(function, nogil=True, cache=True, error_model="numpy", fastmath={"contract", "nsz"})
    return made


def compiled_in_any_order(function: _Function) -> _Function:
    """The same where sums over a row's channels may run in whatever order is fastest: one order, but the compiler's."""
    made: _Function = numba.njit(
        function, nogil=True, cache=True, error_model="numpy", fastmath={"contract", "nsz", "reassoc"}
    )
    return made
