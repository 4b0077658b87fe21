"""Memory of the GPU: it is given back, its peaks are reported, and too little of it is one line and exit code 3."""

from __future__ import annotations

from pathlib import Path

import h5py
import torch

from gnnsoup_hpc.engine.triton.engine import TritonEngine
from gnnsoup_hpc.models.gnn import Architecture
from tests.gpu.kernels import batch_of, in_float
from tests.gpu.pipeline import SETS
from tests.gpu.tools import GPU, attempt, gnnsoup, record


def check_release() -> None:
    """After a plan and its passes nothing is held; a second round has the peak of the first."""
    peaks = []
    torch.ones(8, 8, device=GPU) @ torch.ones(8, 8, device=GPU)  # cuBLAS takes memory of its own, once
    for kind in ("sage", "gat") * 2:
        net = Architecture(kind, 3, 50, 64, 19, 4 if kind == "gat" else 1)
        batch = in_float(batch_of(net))
        state = {name: tensor.to(GPU) for name, tensor in net.init_state(0).items()}
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        plan = TritonEngine().plan(net, batch, device=GPU)
        logits, vjp = TritonEngine().vjp(plan, state)
        grads = vjp(torch.ones_like(logits))
        peaks.append(torch.cuda.max_memory_allocated() - before)
        del plan, logits, vjp, grads
        left = torch.cuda.memory_allocated() - before
        record(f"{kind}: left on the GPU after a plan and a pass", left / 2**20, "MiB", left <= 2**20)
        del state
    record("peaks return", peaks[0] == peaks[2] and peaks[1] == peaks[3], "", peaks[:2] == peaks[2:])


def check_limit() -> None:
    """Souping beyond machine.device_memory_limit."""
    words = [*SETS, "--set", "name=limits", "--set", "machine.device=cuda", "--set", "soup.methods=['ls']"]
    gnnsoup("run", *words)
    with h5py.File(next(Path("runs/limits/soups").glob("ls.h5"))) as file:
        found = {}
        file.visititems(lambda name, item: found.update({name: item}) if "peak_device_bytes" in name else None)
        names = list(found)
        value = float(found[names[0]][()]) if names and hasattr(found[names[0]], "shape") else float("nan")
        record("ls: peak on the GPU in its file", value / 2**20, "MiB", value > 0, ", ".join(names))
    said = gnnsoup("soup", *words, "--again", "--set", "machine.device_memory_limit=40 MiB", code=3)
    line = [each for each in said.splitlines() if "error" in each]
    record(
        "too little memory: lines of error",
        len(line),
        "",
        len(line) == 1 and "Traceback" not in said,
        line[0][:150] if line else "",
    )
    said = gnnsoup("train", *words, "--set", "runs=other", "--set", "machine.device_memory_limit=24 MiB", code=3)
    line = [each for each in said.splitlines() if "error" in each]
    record(
        "training with too little: lines of error",
        len(line),
        "",
        len(line) == 1 and "Traceback" not in said,
        line[0][:150] if line else "",
    )


if __name__ == "__main__":
    attempt("memory is given back", check_release)
    attempt("limit", check_limit)
