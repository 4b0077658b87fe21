"""`python -m gnnsoup_hpc.bench.child`: one order as JSON comes in on stdin, figures as JSON go out."""

from __future__ import annotations

import gc
import json
import resource
import sys
import time
from typing import Any

import torch

from gnnsoup_hpc.bench import task as tasks
from gnnsoup_hpc.bench.task import PLAIN, BenchTask, Cell, Order, QualityOrder, Way, keep_finite, read_order
from gnnsoup_hpc.errors import SoupError
from gnnsoup_hpc.io import graph as graph_store
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.runtime import profiling
from gnnsoup_hpc.runtime.profiling import Measurement
from gnnsoup_hpc.runtime.run_dir import RunDir

_CPU = torch.device("cpu")


def make_task(cell: Cell, way: Way, graph: GraphFile) -> BenchTask:
    """One way of a cell's task; only that way's modules are imported."""
    trains = cell.task == "train_epoch"
    if way == "stock":
        from gnnsoup_hpc.bench.stock import StockTask, StockTraining

        return StockTraining(cell, graph) if trains else StockTask(cell, graph)
    from gnnsoup_hpc.bench.ours import Ours, OurTraining

    return OurTraining(cell, graph) if trains else Ours(cell, graph)


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
    return {"seconds": seconds, "prepare_seconds": prepared, "values": values, "baseline_bytes": keep_finite(baseline)}


def measure_memory(task: BenchTask) -> dict[str, Any]:
    """Peak memory of preparing and one repeat together, and of preparing alone; both include the baseline."""
    with profiling.Meter(_CPU) as meter:
        task.prepare()
        prepared = meter.read()["peak_host_bytes"]
        value = task.once()
    return describe_peak(meter.measurement) | {"prepare_peak_bytes": keep_finite(prepared), "values": [value]}


def describe_peak(spent: Measurement) -> dict[str, Any]:
    """Peak and baseline as JSON has them: null where they are not known."""
    return {f"{name}_bytes": keep_finite(spent[f"{name}_host_bytes"]) for name in ("peak", "baseline")}


def run_order(order: Order) -> dict[str, Any]:
    """What one order of the grid measures. The baseline is taken when all is warm, before the graph is read."""
    _set_up(order)
    with tasks.open_graph(order.cell) as graph:
        task = make_task(order.cell, order.way, graph)
        result = time_steps(task, order.repeats) if order.passing == "time" else measure_memory(task)
        del task  # it may read ahead: its thread ends before the file is closed
        return result


def run_quality_order(order: QualityOrder) -> dict[str, Any]:
    """What one order measures, when all is imported and warm and before anything of the run is read."""
    _set_up(order)
    job = order.read_job()
    with graph_store.open_graph(RunDir.of(job).graph, job) as graph:
        method: PlainGis | OurMethod
        if order.what == PLAIN:  # only that way's modules are imported
            from gnnsoup_hpc.bench.quality.plain import PlainGis

            method = PlainGis(order, graph)
        else:
            from gnnsoup_hpc.bench.quality.ours import OurMethod

            method = OurMethod(order, graph)
        if order.passing == "memory":
            return describe_peak(method.measure_memory())
        return {"seed": order.seed} | method.measure_time()


def main() -> int:
    """Entry point."""
    try:
        order = read_order(sys.stdin.read())
        result = run_order(order) if isinstance(order, Order) else run_quality_order(order)
    except SoupError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(json.dumps(result))
    return 0


def _set_up(order: Order | QualityOrder) -> None:
    """Set threads, and bound memory: the allocator fails where the kernel would kill this process or another."""
    if order.memory_bytes:
        resource.setrlimit(resource.RLIMIT_DATA, (order.memory_bytes, order.memory_bytes))
    torch.set_num_threads(order.threads)
    profiling.warm_up(_CPU)


if __name__ == "__main__":
    sys.exit(main())
