"""Torch modules with another state, and running statistics of batch norm, which are recomputed after mixing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

_ENTRIES = {"running_mean": 0, "running_var": 1, "num_batches_tracked": 0}  # and what each begins with


def find_ties(module: nn.Module) -> dict[str, str]:
    """Entries of a module's state that are others by another name, with the others' names.

    Of a parameter that several parts share, and of all that a part has which is registered twice.
    """
    first: dict[int, str] = {}
    ties = {}
    for name, tensor in _list_entries(module):
        if id(tensor) in first:
            ties[name] = first[id(tensor)]
        else:
            first[id(tensor)] = name
    return ties


def call_with(
    module: nn.Module, state: Mapping[str, Tensor], given: tuple[Any, ...], named: Mapping[str, Any] | None = None
) -> Any:
    """What a module computes with a state, whose entries stand by any of their names; it is left as it was.

    Each attribute of a part is replaced once: torch's own way of tying entries replaces those of a part that is
    registered twice a second time, and does not find back.
    """
    entries, places, seen = dict(state), {}, set()
    ties = find_ties(module)
    for name, _ in _list_entries(module):
        tensor = entries.get(ties.get(name, name), entries.get(name))
        owner, _, attribute = name.rpartition(".")
        place = id(module.get_submodule(owner)), attribute
        if tensor is not None and place not in seen:
            places[name] = tensor
            seen.add(place)
    return functional_call(module, places, given, dict(named or {}), tie_weights=False)


def _list_entries(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)


def list_statistics(module: nn.Module) -> dict[str, int]:
    """Names of all entries of a state that are running statistics, and what each begins with."""
    return {
        f"{name}.{entry}".removeprefix("."): value
        for name, part in _find_norms(module).items()
        for entry, value in _ENTRIES.items()
    }


def recompute_statistics(
    module: nn.Module, state: Mapping[str, Tensor], batches: Iterable[Any], run: Callable[[nn.Module, Any], object]
) -> dict[str, Tensor]:
    """The state with running statistics of batch norm recomputed: the mean over all batches of what `run` shows it.

    run: calls the module with a batch; what it returns is not used. The module is left as it is. A mixture needs it:
    its statistics are not the mean of those of the states. As torch.optim.swa_utils.update_bn, for any kind of batch.
    """
    norms = _find_norms(module)
    found = {name: tensor.detach().clone() for name, tensor in state.items()}
    if not norms:
        return found
    for name, value in list_statistics(module).items():
        if name in found:
            found[name].fill_(value)
    momenta = {name: part.momentum for name, part in norms.items()}
    places, calling = {f"module.{name}": tensor for name, tensor in found.items()}, Calling(module, run)
    try:
        for part in norms.values():
            part.momentum = None  # a plain mean
        with fitting(module), torch.no_grad():
            for batch in batches:
                call_with(calling, places, (batch,))
    finally:
        for name, part in norms.items():
            part.momentum = momenta[name]
    return found | {name: found[other] for name, other in find_ties(module).items() if name in found}


class Calling(nn.Module):
    """Calls `run` with a module whose parameters are replaced meanwhile."""

    def __init__(self, module: nn.Module, run: Callable[[nn.Module, Any], Any]) -> None:
        super().__init__()
        self.module, self._run = module, run

    def forward(self, batch: Any) -> Any:
        """What `run` makes of a batch."""
        return self._run(self.module, batch)


@contextmanager
def fitting(module: nn.Module) -> Iterator[None]:
    """Without dropout, of parts or of functions, and with batch norm as in training; each part's mode is given back."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        for part, _ in modes:
            part.training = isinstance(part, _BatchNorm)
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def _find_norms(module: nn.Module) -> dict[str, _BatchNorm]:
    parts = module.named_modules()
    return {name: part for name, part in parts if isinstance(part, _BatchNorm) and part.track_running_stats}
