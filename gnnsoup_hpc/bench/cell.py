"""`python -m gnnsoup_hpc.bench.cell`: the child. One order as JSON comes in on stdin, figures as JSON go out."""

from __future__ import annotations

import gc
import math
import sys
import time
from typing import Any

import torch

from gnnsoup_hpc.bench import process
from gnnsoup_hpc.bench import task as tasks
from gnnsoup_hpc.bench.task import BenchTask, Cell, Order, Way
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.runtime import profiling

_CPU = torch.device("cpu")


def make_task(cell: Cell, way: Way, graph: GraphFile) -> BenchTask:
    """One way of a cell's task; only that way's modules are imported."""
    if way == "stock":
        from gnnsoup_hpc.bench import stock

        return stock.make(cell, graph)
    from gnnsoup_hpc.bench import ours

    ours.warm_up(cell)
    return ours.make(cell, graph)


def time_steps(task: BenchTask, repeats: int) -> dict[str, Any]:
    """Wall time of preparing and of each repeat; the first is not counted, but its value is kept with the others."""
    baseline = profiling.host_bytes("VmRSS")
    start = time.perf_counter()
    task.prepare()
    prepared = time.perf_counter() - start
    values, seconds = [task.once()], []
    for _ in range(repeats):
        gc.collect()  # or one repeat pays for what others left
        start = time.perf_counter()
        values.append(task.once())
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds, "prepare_seconds": prepared, "values": values, "baseline_bytes": _known(baseline)}


def measure_memory(task: BenchTask) -> dict[str, Any]:
    """Peak memory of preparing and one repeat together, and of preparing alone; both include the baseline."""
    with profiling.Meter(_CPU) as meter:
        task.prepare()
        prepared = meter.read()["peak_host_bytes"]
        value = task.once()
    spent = meter.measurement
    return {
        "peak_bytes": _known(spent["peak_host_bytes"]),
        "prepare_peak_bytes": _known(prepared),
        "baseline_bytes": _known(spent["baseline_host_bytes"]),
        "values": [value],
    }


def run_order(order: Order) -> dict[str, Any]:
    """What one order measures. The baseline is taken when all is imported and warm, before the graph is read."""
    process.bound_memory(order.memory_bytes)
    torch.set_num_threads(order.threads)
    profiling.warm_up(_CPU)
    with tasks.open_graph(order.cell) as graph:
        task = make_task(order.cell, order.way, graph)
        result = time_steps(task, order.repeats) if order.passing == "time" else measure_memory(task)
        del task  # it may read ahead: its thread ends before the file is closed
        return result


def main() -> int:
    """Entry point."""
    return process.serve(lambda text: run_order(Order.from_json(text)))


def _known(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None


if __name__ == "__main__":
    sys.exit(main())
