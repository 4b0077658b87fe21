"""`gnnsoup bench`: time and memory of our path over PyG's, every cell in processes of its own."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gnnsoup_hpc.bench import arguments as settings
from gnnsoup_hpc.bench import grid, process, roofline, table
from gnnsoup_hpc.bench import task as tasks
from gnnsoup_hpc.bench.quality import parent
from gnnsoup_hpc.bench.quality import results as quality_results
from gnnsoup_hpc.bench.task import PLAIN, Cell
from gnnsoup_hpc.data import prepare
from gnnsoup_hpc.errors import RunError
from gnnsoup_hpc.io import files
from gnnsoup_hpc.models.jobs import load_job
from gnnsoup_hpc.runtime.launch import RankInfo
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.runtime.run_dir import RunDir

GEMM_WIDTH = 256


def run(arguments: argparse.Namespace, here: RankInfo) -> None:
    """Measure the grid, or a run's time to quality; print the table, keep all samples where a file is asked for.

    Raises: RunError where one of ours gave no result; a stock cell may, and the table says so.
    """
    settings.check(arguments)
    if arguments.output is not None:
        files.check_writable(arguments.output)
    if arguments.quality is None:
        _measure_grid(arguments, here)
    else:
        _measure_quality(arguments)


def _measure_grid(arguments: argparse.Namespace, here: RankInfo) -> None:
    graphs = arguments.graph or (settings.FULL_GRAPHS if arguments.full else settings.QUICK_GRAPHS)
    cells = [cell for graph in graphs for cell in _list_cells(graph, arguments, here)]
    options = replace(settings.read_options(arguments), memory_bytes=process.free_memory())
    _say(f"{len(cells)} cells, {options.threads} threads; measuring the machine")
    kinds: dict[str, torch.dtype] = {cell.precision: getattr(torch, cell.precision) for cell in cells}
    rates = {name: roofline.measure_rates(options.threads, GEMM_WIDTH, kind) for name, kind in kinds.items()}
    rows = grid.run_orders(cells, options, _say)
    bounds = [_compute_bound(cell, rates[cell.precision], options.repeats) for cell in cells]
    results = table.make_document(table.describe_machine(options.threads), rates, rows, bounds)
    _write(results, arguments.output)
    print(table.show_document(results), flush=True)
    failed = [row.cell.name for row in rows if row.ours.errors]
    if failed:
        raise RunError(f"{len(failed)} of {len(rows)} cells of ours gave no result: {', '.join(failed)}")


def _measure_quality(arguments: argparse.Namespace) -> None:
    options = replace(settings.read_options(arguments), memory_bytes=process.free_memory())
    subject = parent.select_run(parent.find_job(arguments.quality), _say)
    found = parent.run_orders(list(parent.list_orders(subject, options)), options.timeout, _say)
    results = quality_results.make_document(subject.about, table.describe_machine(options.threads), found)
    _write(results, arguments.output)
    print(quality_results.show_document(results), flush=True)
    failed = [what for what, figures in found.items() if figures.errors and what != PLAIN]
    if failed:
        raise RunError(f"{len(failed)} of our methods gave no result: {', '.join(failed)}")


def _write(results: Mapping[str, Any], output: Path | None) -> None:
    if output is not None:
        with files.publish(output) as private:
            private.write_text(json.dumps(results, indent=1, allow_nan=False), encoding="utf-8")
        _say(f"-> {output}")


def _list_cells(graph: str, arguments: argparse.Namespace, here: RankInfo) -> list[Cell]:
    """A graph's cells, once it is prepared."""
    job = load_job(graph)
    _say(f"preparing the graph of {graph}")
    prepare.prepare(job, here, Log(quiet=True), offline=arguments.offline)
    cells = grid.list_cells(job.name, RunDir.of(job).graph, settings.read_options(arguments))
    with tasks.open_graph(cells[0]) as file:
        drawn = [cell for cell in cells if cell.task != "pls_step" or cell.union <= file.parts]
        if arguments.unions and len(drawn) < len(cells):
            raise RunError(
                f"--unions {max(arguments.unions)}: {graph} has {file.parts} parts, so choose at most as many"
            )
    return drawn


def _compute_bound(cell: Cell, rates: roofline.Rates, samples: int) -> float:
    with tasks.open_graph(cell) as graph:
        return roofline.compute_bound(cell, graph, rates, samples)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
