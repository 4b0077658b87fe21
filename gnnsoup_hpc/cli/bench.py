"""`gnnsoup bench`: time and memory of our path over PyG's, every cell in processes of its own."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from gnnsoup_hpc.bench import arguments as settings
from gnnsoup_hpc.bench import grid, process, roofline, table
from gnnsoup_hpc.bench import task as tasks
from gnnsoup_hpc.bench.arguments import Options
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
    options = replace(settings.read_options(arguments), memory_bytes=process.free_memory())
    if arguments.quality is None:
        results, text, failure = _measure_grid(arguments, options, here)
    else:
        results, text, failure = _measure_quality(arguments.quality, arguments.set or (), options)
    if arguments.output is not None:
        files.publish_bytes(arguments.output, json.dumps(results, indent=1, allow_nan=False).encode())
        _say(f"-> {arguments.output}")
    print(text, flush=True)
    if failure:
        raise RunError(failure)


def _measure_grid(arguments: argparse.Namespace, options: Options, here: RankInfo) -> tuple[dict[str, Any], str, str]:
    """The results as JSON has them and as text, and what of ours failed."""
    graphs = arguments.graph or (settings.FULL_GRAPHS if arguments.full else settings.QUICK_GRAPHS)
    cells = [cell for graph in graphs for cell in _list_cells(graph, arguments, options, here)]
    _say(f"{len(cells)} cells, {options.threads} threads; measuring the machine")
    kinds: dict[str, torch.dtype] = {cell.precision: getattr(torch, cell.precision) for cell in cells}
    rates = {name: roofline.measure_rates(options.threads, GEMM_WIDTH, kind) for name, kind in kinds.items()}
    rows = grid.run_orders(cells, options, _say)
    bounds = [roofline.compute_bound(cell, rates[cell.precision], options.repeats) for cell in cells]
    results = table.make_document(table.describe_machine(options.threads), rates, rows, bounds)
    failed = [row.cell.name for row in rows if row.ours.errors]
    failure = f"{len(failed)} of {len(rows)} cells of ours gave no result: {', '.join(failed)}" if failed else ""
    return results, table.show_document(results), failure


def _measure_quality(run: str, overrides: Sequence[str], options: Options) -> tuple[dict[str, Any], str, str]:
    """The same of the time to quality."""
    subject = parent.select_run(parent.find_job(run, overrides), _say)
    found = parent.run_orders(list(parent.list_orders(subject, options)), options.timeout, _say)
    results = quality_results.make_document(subject.about, table.describe_machine(options.threads), found)
    failed = [what for what, figures in found.items() if figures.errors and what != PLAIN]
    failure = f"{len(failed)} of our methods gave no result: {', '.join(failed)}" if failed else ""
    return results, quality_results.show_document(results), failure


def _list_cells(graph: str, arguments: argparse.Namespace, options: Options, here: RankInfo) -> list[Cell]:
    """A graph's cells, once it is prepared."""
    job = load_job(graph)
    _say(f"preparing the graph of {graph}")
    prepare.prepare(job, here, Log(quiet=True), offline=arguments.offline)
    cells = grid.list_cells(job.name, RunDir.of(job).graph, options)
    with tasks.open_graph(cells[0]) as file:
        drawn = [cell for cell in cells if not cell.draws_unions or cell.union <= file.parts]
        if arguments.unions and len(drawn) < len(cells):
            raise RunError(
                f"--unions {max(arguments.unions)}: {graph} has {file.parts} parts, so choose at most as many"
            )
    return drawn


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
