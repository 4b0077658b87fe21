"""Memory of the GPU: it is given back, its peaks are reported, and too little of it is one line and exit code 3."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import h5py
import torch

from gnnsoup_hpc.engine.memory import Extent
from gnnsoup_hpc.engine.triton.engine import TritonEngine
from gnnsoup_hpc.errors import DeviceMemoryError
from gnnsoup_hpc.graph.sparse import Adjacency
from gnnsoup_hpc.graph.subgraph import Batch, Subgraph
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.runtime.gpu import explain_out_of_memory
from gnnsoup_hpc.types import Mode, Precision
from tests.gpu.kernels import batch_of, in_float
from tests.gpu.pipeline import SETS
from tests.gpu.tools import GPU, attempt, gnnsoup, make_graph, record

MIB = 2**20


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


def check_formula() -> None:
    """What is counted beforehand beside what PyTorch's allocator had, at three sizes."""
    torch.ones(8, 8, device=GPU) @ torch.ones(8, 8, device=GPU)
    engine, modes = TritonEngine(), list[Mode](["fit", "evaluate"])
    precisions: tuple[Precision, ...] = ("float32", "bfloat16")
    for nodes, pairs in ((20_000, 100_000), (169_343, 1_190_000), (600_000, 6_000_000)):
        indptr, indices = make_graph(nodes, pairs, 32)
        seeds = torch.arange(0, nodes, 10, device=GPU)
        graph = Subgraph(torch.randn(nodes, 100, device=GPU), Adjacency(indptr, indices))
        batch = Batch(graph, seeds, torch.zeros_like(seeds))
        extent = Extent(nodes, len(indices), len(indices), len(seeds))
        for kind, precision, mode in product(("sage", "gcn", "gat"), precisions, modes):
            net = Architecture(kind, 3, 100, 128, 40, 2 if kind == "gat" else 1, "layer")
            state = {name: tensor.to(GPU) for name, tensor in net.init_state(0).items()}
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            plan = engine.plan(net, batch, device=GPU, precision=precision)
            making = torch.cuda.max_memory_allocated() - before
            if mode == "fit":
                logits, vjp = engine.vjp(plan, state)
                vjp(torch.ones_like(logits))
                del logits, vjp
            else:
                engine.logits(plan, state)
            taken = torch.cuda.max_memory_allocated() - before
            del plan
            needed = engine.memory(net, extent, mode=mode, precision=precision)
            counted = needed.total - needed.plan["structure"]  # which was there before
            close = 0.85 <= counted / taken <= 1.15
            what = f"counted / taken: {kind}, {nodes} nodes, {precision}, {mode}"
            record(what, counted / taken, "", close, f"taken {taken / MIB:.0f} MiB, making the plan {making / MIB:.0f}")
        del graph, batch, indptr, indices
        torch.cuda.empty_cache()


def check_out_of_memory() -> None:
    """What was not counted beforehand ends in a line, too."""
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.001)
    try:
        with explain_out_of_memory("soup: ls"):
            torch.empty(2**30, device=GPU)
        record("out of memory", "no error", "", False)
    except DeviceMemoryError as error:
        record("out of memory: its line", 1, "", "\n" not in str(error), str(error)[:150])
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


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
    attempt("formula", check_formula)
    attempt("out of memory", check_out_of_memory)
    attempt("limit", check_limit)
