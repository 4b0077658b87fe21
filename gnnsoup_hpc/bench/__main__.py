"""`python -m gnnsoup_hpc.bench`: time and memory of our path over PyG's, every cell in processes of its own."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from gnnsoup_hpc import cli, prepare
from gnnsoup_hpc import job as jobs
from gnnsoup_hpc.bench import grid, roofline, table
from gnnsoup_hpc.bench import task as tasks
from gnnsoup_hpc.bench.task import Cell
from gnnsoup_hpc.errors import RunError
from gnnsoup_hpc.progress import Log
from gnnsoup_hpc.ranks import Place
from gnnsoup_hpc.run_dir import RunDir
from gnnsoup_hpc.store import files

SHARE_OF_MEMORY = 0.9
GEMM_WIDTH = 256


def bench(arguments: argparse.Namespace, here: Place) -> None:
    """Measure the grid, print the table, keep all samples in a JSON file where one is asked for.

    Raises: RunError where a cell of ours gave no result; a stock cell may, and the table says so.
    """
    cells = [cell for graph in _graphs(arguments) for cell in _cells(graph, arguments, here)]
    options = grid.Options(
        repeats=arguments.repeats,
        threads=arguments.threads,
        timeout=arguments.timeout,
        rounds=arguments.rounds,
        memory_bytes=_memory(),
    )
    _say(f"{len(cells)} cells, {options.threads} threads; measuring the machine")
    kinds: dict[str, torch.dtype] = {cell.precision: getattr(torch, cell.precision) for cell in cells}
    rates = {name: roofline.measured_rates(options.threads, GEMM_WIDTH, kind) for name, kind in kinds.items()}
    rows = grid.carried_out(cells, options, _say)
    bounds = [_bound(cell, rates[cell.precision], options.repeats) for cell in cells]
    results = table.document(table.machine(options.threads), rates, rows, bounds)
    if arguments.output is not None:
        with files.published(arguments.output) as private:
            private.write_text(json.dumps(results, indent=1, allow_nan=False), encoding="utf-8")
        _say(f"-> {arguments.output}")
    print(table.markdown(results), flush=True)
    failed = [row.cell.name for row in rows if row.ours.errors]
    if failed:
        raise RunError(f"{len(failed)} of {len(rows)} cells of ours gave no result: {', '.join(failed)}")


def add_bench(parser: argparse.ArgumentParser) -> None:
    """The arguments of a benchmark."""
    parser.add_argument("--graph", nargs="+", metavar="JOB", help="jobs whose graphs are measured (default: pubmed)")
    parser.add_argument("--full", action="store_true", help="more graphs, and unions of 1, 4 and 8 parts")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="keep every sample here")
    parser.add_argument("--threads", type=_count, default=len(os.sched_getaffinity(0)), help="threads of each process")
    parser.add_argument("--repeats", type=_count, default=5, help="timed repeats a process")
    parser.add_argument("--rounds", type=_count, default=2, help="timed processes a cell and way")
    parser.add_argument(
        "--timeout", type=_count, default=1800, metavar="SECONDS", help="longest that a process may take"
    )
    cli.add_offline(parser)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m gnnsoup_hpc.bench", description=__doc__)
    add_bench(parser)
    parsed = parser.parse_args(arguments)
    return cli.guarded(lambda here: bench(parsed, here))


def _graphs(arguments: argparse.Namespace) -> Sequence[str]:
    return arguments.graph or (grid.FULL_GRAPHS if arguments.full else grid.QUICK_GRAPHS)


def _cells(graph: str, arguments: argparse.Namespace, here: Place) -> list[Cell]:
    """A graph's cells, once it is prepared."""
    job = jobs.load(graph)
    _say(f"preparing the graph of {graph}")
    prepare.prepare(job, here, Log(quiet=True), offline=arguments.offline)
    cells = (grid.full if arguments.full else grid.quick)(job.name, RunDir.of(job).graph)
    with tasks.opened(cells[0]) as file:
        return [cell for cell in cells if cell.union <= file.parts]


def _bound(cell: Cell, rates: roofline.Rates, samples: int) -> float:
    with tasks.opened(cell) as graph:
        return roofline.bound_of(cell, graph, rates, samples)


def _memory() -> int:
    """What one process may fill: most of what is available now; 0, without bound, where that is not known."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    available = next((line.split()[1] for line in lines if line.startswith("MemAvailable:")), "0")
    return int(SHARE_OF_MEMORY * 1024 * int(available))


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
