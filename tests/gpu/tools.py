"""What stages share: recording a result, timing on the GPU, a generated graph, running commands."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from tests.gpu import check

OUT = Path(os.environ.get("GPU_CHECK_OUT", "."))
GPU = torch.device("cuda", 0)
STAGE = Path(sys.argv[0]).stem


def record(what: str, value: object, unit: str = "", good: bool | None = None, note: str = "") -> None:
    """Add a result of this stage."""
    check.record(OUT, STAGE, what, value, unit, good, note)
    print(STAGE, what, value, unit, good, note, flush=True)


def attempt(what: str, do: Callable[[], None]) -> None:
    """Do a piece of a stage; where it fails, that is its result, and the stage goes on."""
    try:
        do()
    except Exception as error:  # noqa: BLE001 - each piece is to be tried, whatever became of the one before
        traceback.print_exc()
        record(
            what,
            "failed",
            good=False,
            note=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:200],
        )
    torch.cuda.synchronize()
    torch.cuda.empty_cache()


def measure(do: Callable[[], object], most: int = 7, seconds: float = 3.0) -> float:
    """Median milliseconds of several runs, by CUDA's events, after one that warms up, or five where they are short."""
    for _ in range(5):
        started = time.perf_counter()
        do()
        torch.cuda.synchronize()
        if time.perf_counter() - started > 0.05:
            break
    times: list[float] = []
    while len(times) < most and (len(times) < 3 or sum(times) < 1000 * seconds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        do()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return median(times)


def command(*words: str, code: int = 0, timeout: float = 120) -> str:
    """Run one; what it printed. Raises: AssertionError for another exit code."""
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=timeout)
    said = done.stdout + done.stderr
    print("$", " ".join(words), f"-> {done.returncode}\n", said[-6000:], flush=True)
    assert done.returncode == code, f"exit code {done.returncode}: {said.strip().splitlines()[-1:]}"
    return said


def gnnsoup(*words: str, code: int = 0) -> str:
    """Run a command of ours."""
    return command(sys.executable, "-m", "gnnsoup_hpc", *words, code=code)


def make_graph(nodes: int, pairs: int, blocks: int, seed: int = 0, inside: float = 0.85) -> tuple[Tensor, Tensor]:
    """CSR of an undirected graph on the GPU, int32: heavy-tailed degrees, most edges within blocks of nodes."""
    generator = torch.Generator(GPU).manual_seed(seed)
    weight = torch.rand(nodes, device=GPU, generator=generator).clamp_(min=1e-6).pow_(-0.55)
    ends = weight.double().cumsum(0)
    size = -(-nodes // blocks)
    keys = []
    for _ in range(4):
        count = pairs // 4
        u, v, where = (torch.rand(count, device=GPU, dtype=torch.float64, generator=generator) for _ in range(3))
        one = torch.searchsorted(ends, u * ends[-1]).clamp_(max=nodes - 1)
        block = one // size
        low = torch.where(block > 0, ends[(block * size - 1).clamp(min=0)], 0.0)
        high = ends[((block + 1) * size - 1).clamp(max=nodes - 1)]
        local = where < inside
        target = torch.where(local, low + v * (high - low), v * ends[-1])
        two = torch.searchsorted(ends, target).clamp_(max=nodes - 1)
        keys += [one * nodes + two, two * nodes + one]
        del u, v, where, one, two, target, low, high, local, block
    key = torch.cat(keys)
    del keys
    key = key.unique()
    row = key // nodes
    column = (key - row * nodes).to(torch.int32)
    counts = torch.bincount(row, minlength=nodes)
    indptr = torch.zeros(nodes + 1, dtype=torch.int64, device=GPU)
    torch.cumsum(counts, 0, out=indptr[1:])
    return indptr.to(torch.int32), column
