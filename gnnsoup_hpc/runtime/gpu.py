"""This rank's GPU: how much of its memory the rank may use, and what is said where that is too little."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gnnsoup_hpc.errors import DeviceMemoryError

if TYPE_CHECKING:
    import torch

    from gnnsoup_hpc.config import MachineJob

_ASKED = re.compile(r"Tried to allocate ([0-9.]+ \w+)")


def limit_bytes(job: MachineJob, total: int, sharing: int) -> int:
    """Bytes that the rank may allocate of a GPU that has so many: what the job says, or an equal share."""
    from gnnsoup_hpc.config import parse_bytes

    return min(total, parse_bytes(job.device_memory_limit) or total // sharing)


def claim_gpu(job: MachineJob, number: int, sharing: int) -> torch.device:
    """Take the GPU of that number, which so many ranks use, and bound what this one may allocate there."""
    import torch

    device = torch.device("cuda", number)
    torch.cuda.set_device(device)
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(limit_bytes(job, total, sharing) / total, device)
    return device


def allowed_bytes(device: torch.device) -> int:
    """Bytes that this process may allocate on its GPU."""
    import torch

    total = torch.cuda.get_device_properties(device).total_memory
    return int(total * torch.cuda.get_per_process_memory_fraction(device))


@contextmanager
def explain_out_of_memory(what: str) -> Iterator[None]:
    """Around a block that does `what`. Raises: DeviceMemoryError where the GPU's memory is too little for it."""
    try:
        yield
    except RuntimeError as error:
        torch = sys.modules.get("torch")
        if torch is None or not isinstance(error, torch.OutOfMemoryError):
            raise
        from gnnsoup_hpc.config import format_bytes

        asked = _ASKED.search(str(error))
        more = f"{asked[1]} more" if asked else "more"
        device = torch.cuda.current_device()
        held = format_bytes(torch.cuda.memory_allocated(device))
        allowed = format_bytes(allowed_bytes(torch.device("cuda", device)))
        raise DeviceMemoryError(
            f"{what}: GPU {device} has too little memory: {more} would be needed beside the {held} in use, and this"
            f" rank may use {allowed} (machine.device_memory_limit, or its share of the GPU). Use smaller unions"
            " (soup.pls.union, train.clusters), soup.precision = 'bfloat16', fewer ranks a GPU, soup.methods without"
            " 'ls', or machine.device = 'cpu'"
        ) from None
