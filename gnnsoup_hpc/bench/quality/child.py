"""`python -m gnnsoup_hpc.bench.quality.child`: one order as JSON comes in on stdin, figures as JSON go out."""

from __future__ import annotations

import math
import sys
from typing import Any

import torch

from gnnsoup_hpc.bench import process
from gnnsoup_hpc.bench.quality.order import PLAIN, QualityOrder
from gnnsoup_hpc.io import graph as graph_store
from gnnsoup_hpc.runtime import profiling
from gnnsoup_hpc.runtime.profiling import Measurement
from gnnsoup_hpc.runtime.run_dir import RunDir


def run_order(order: QualityOrder) -> dict[str, Any]:
    """What one order measures, when all is imported and warm and before anything of the run is read."""
    process.bound_memory(order.memory_bytes)
    torch.set_num_threads(order.threads)
    profiling.warm_up(torch.device("cpu"))
    job = order.its_job
    with graph_store.open_graph(RunDir.of(job).graph, job) as graph:
        if order.what == PLAIN:  # only that way's modules are imported
            from gnnsoup_hpc.bench.quality.plain import PlainGis

            plain = PlainGis(order, graph)
            return plain.timed() if order.passing == "time" else measure_memory(plain.weighed())
        from gnnsoup_hpc.bench.quality.ours import OurMethod

        ours = OurMethod(order, graph)
        return ours.timed() if order.passing == "time" else measure_memory(ours.weighed())


def measure_memory(spent: Measurement) -> dict[str, Any]:
    """Peak and baseline as JSON has them: null where they are not known."""
    named = {"peak_bytes": spent["peak_host_bytes"], "baseline_bytes": spent["baseline_host_bytes"]}
    return {name: value if math.isfinite(value) else None for name, value in named.items()}


def main() -> int:
    """Entry point."""
    return process.serve(lambda text: run_order(QualityOrder.from_json(text)))


if __name__ == "__main__":
    sys.exit(main())
