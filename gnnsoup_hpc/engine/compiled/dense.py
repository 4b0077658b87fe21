"""Dense products of the compiled passes, in the precision that a job asks for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from gnnsoup_hpc.types import Dense, Precision

Product = Callable[[Dense, Dense, Dense], object]  # a (n, k), b (k, m), out (n, m) = a @ b


def choose_product(precision: Precision) -> Product:
    """The product that a precision stands for: as the arrays are, or of factors rounded to bfloat16.

    bfloat16's sums run in float32 inside the processor, and the result is rounded once more.
    """
    return _of_bfloat16 if precision == "bfloat16" else _as_it_is


def _as_it_is(a: Dense, b: Dense, out: Dense) -> None:
    np.matmul(a, b, out=out)


def _of_bfloat16(a: Dense, b: Dense, out: Dense) -> None:
    torch.from_numpy(out).copy_(torch.mm(_rounded(a), _rounded(b)))


def _rounded(x: Dense) -> torch.Tensor:
    """In bfloat16, laid out as it is: a transpose is rounded as what it is the transpose of, which is much faster."""
    if x.flags.c_contiguous:
        return torch.from_numpy(x).bfloat16()
    return torch.from_numpy(x.T).bfloat16().T
