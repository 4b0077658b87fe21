"""Time and peak memory of a phase or a method, and the closed table of what is ever reported.

Peak host memory is the process's resident high-water mark (`VmHWM`), reset by writing 5 to /proc/self/clear_refs at the
start, so that no phase is blamed for an earlier one's peak; `ru_maxrss` cannot do that. Freed memory is first handed
back to the system, or a phase could hide its peak in what an earlier one left behind. See docs/measuring.md.
"""

from __future__ import annotations

import ctypes
import gc
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import torch

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")


Measurement = dict[str, float]  # time and memory of one phase or method, by names of QUANTITIES; NaN: not measurable


QUANTITIES: dict[str, tuple[str, str]] = {  # unit and meaning
    "seconds": ("s", "wall time, reading included"),
    "seconds_ingredients": ("s", "wall time of reading ingredients"),
    "seconds_graph": ("s", "wall time of reading the graph or its parts"),
    "seconds_compute": ("s", "wall time of the rest: forward, backward, mixing"),
    "peak_host_bytes": ("B", "peak resident host memory (VmHWM, reset at the start)"),
    "baseline_host_bytes": ("B", "resident host memory at the start"),
    "peak_device_bytes": ("B", "peak device memory allocated"),
    "baseline_device_bytes": ("B", "device memory allocated at the start"),
    "peak_device_reserved_bytes": ("B", "peak device memory reserved by the caching allocator"),
}

COUNTS: dict[str, str] = {
    "forward_whole": "forward passes over the whole graph",
    "forward_union": "forward passes over unions of parts",
    "backward_whole": "backward passes over the whole graph",
    "backward_union": "backward passes over unions of parts",
}


class Meter:
    """Measures one `with` block; `phase(name)` inside books wall time on `seconds_<name>`, the rest is compute."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._phases = {"ingredients": 0.0, "graph": 0.0}
        self._start = self._with_child = 0.0
        self.measurement: Measurement = dict.fromkeys(QUANTITIES, math.nan)  # known once the block has ended

    def __enter__(self) -> Self:
        release_freed_memory()
        with suppress(OSError):  # outside Linux, and in some containers, the high-water mark cannot be reset
            CLEAR_REFS.write_text("5")
            self.measurement["baseline_host_bytes"] = host_bytes("VmRSS")
        if self._device.type == "cuda":
            import torch

            torch.cuda.synchronize(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
            self.measurement["baseline_device_bytes"] = float(torch.cuda.memory_allocated(self._device))
        self._start = time.perf_counter()
        return self

    def __exit__(self, *raised: object) -> None:
        self.read()

    def book_child(self, peak_bytes: float) -> None:
        """Count the peak memory of a process that this one started, beside what this one holds now."""
        self._with_child = max(self._with_child, host_bytes("VmRSS") + peak_bytes)

    def read(self) -> Measurement:
        """Everything so far, within the block or at its end."""
        found = dict(self.measurement)
        if self._device.type == "cuda":
            import torch

            torch.cuda.synchronize(self._device)
            found["peak_device_bytes"] = float(torch.cuda.max_memory_allocated(self._device))
            found["peak_device_reserved_bytes"] = float(torch.cuda.max_memory_reserved(self._device))
        seconds = time.perf_counter() - self._start
        if math.isfinite(found["baseline_host_bytes"]):
            found["peak_host_bytes"] = max(host_bytes("VmHWM"), self._with_child)
        found |= {f"seconds_{name}": spent for name, spent in self._phases.items()}
        found |= {"seconds": seconds, "seconds_compute": seconds - sum(self._phases.values())}
        self.measurement = found
        return found

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Book the block's wall time on the phase `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._phases[name] += time.perf_counter() - start


def warm_up(device: torch.device) -> None:
    """Pay what a process pays once before anything is measured, or the first to need it would be blamed for it.

    The first step of an optimiser and its schedule imports modules; the first products start threads and buffers.
    """
    import torch

    from gnnsoup_hpc.utils.optimisers import SGD, Adam

    x = torch.ones(512, 512, device=device, requires_grad=True)
    rows = torch.arange(513, device=device, dtype=torch.int32)
    sparse = torch.sparse_csr_tensor(
        rows, rows[:-1], torch.ones(512, device=device), (512, 512), check_invariants=False
    )
    for optimiser in (SGD([x], lr=0.1), Adam([x], lr=0.1)):
        schedule = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimiser, 1)
        (x @ x + sparse @ x.detach()).log_softmax(1).sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()


def combine(before: Measurement, now: Measurement) -> Measurement:
    """Of work that was done in two goes: seconds add up; of peaks the higher one counts, with its own baseline."""
    host, device = (before if before[name] > now[name] else now for name in ("peak_host_bytes", "peak_device_bytes"))
    of = {"host": host, "device": device}
    return {
        name: before[name] + now[name] if unit == "s" else of[name.split("_")[1]][name]
        for name, (unit, _) in QUANTITIES.items()
    }


def subtract_baseline(spent: Measurement) -> float:
    """Peak host memory above where the phase began, in bytes; NaN where it could not be measured."""
    return spent["peak_host_bytes"] - spent["baseline_host_bytes"]


def host_bytes(field: str) -> float:
    """A memory figure of this process from /proc/self/status, in bytes; NaN where there is no such file."""
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        return math.nan
    return next((float(line.split()[1]) * 1024.0 for line in lines if line.startswith(f"{field}:")), math.nan)


def release_freed_memory() -> None:
    """Give memory that is free, but kept by Python or the C library, back to the system."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
