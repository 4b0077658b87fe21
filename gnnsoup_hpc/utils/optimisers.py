"""torch's Adam, AdamW and SGD without the import of torch's compiler, which we do not use.

Methods of `torch.optim.Optimizer` are wrapped so that torch.compile leaves them alone, and the first call of one
imports `torch._dynamo`, SymPy and 900 modules in all: 1.3 s and 140 MB of each process. These classes have the methods
below the wrappers, so their arithmetic is torch's own.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import unwrap
from typing import Any, TypeVar

import torch
from torch.optim import Optimizer

Kind = TypeVar("Kind", bound=type[Optimizer])

_WRAPPED = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")


def _unwrap_methods(kind: Kind) -> Kind:
    """A subclass of `kind` whose methods are those below torch's wrappers."""
    step: Callable[..., Any] = torch.no_grad()(unwrap(kind.step))  # as its own wrapper has it, but for differentiable
    methods = {name: unwrap(getattr(kind, name)) for name in _WRAPPED}
    return type(kind.__name__, (kind,), {"__module__": __name__, "step": step, **methods})  # type: ignore[return-value]


Adam = _unwrap_methods(torch.optim.Adam)
AdamW = _unwrap_methods(torch.optim.AdamW)
SGD = _unwrap_methods(torch.optim.SGD)
