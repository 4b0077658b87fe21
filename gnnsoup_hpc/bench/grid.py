"""The grid, and the parent that carries it out: each cell, way and pass in a fresh process, ways taking turns."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gnnsoup_hpc.bench.task import Cell, ModelKind, Order, Passing, TaskName, Way

MODELS: tuple[ModelKind, ...] = ("sage", "gcn", "gat")
TASKS: tuple[TaskName, ...] = ("evaluation", "ls_epoch", "pls_step", "gis_step")
UNIONS = (1, 4, 8)
QUICK_GRAPHS = ("pubmed",)
FULL_GRAPHS = ("pubmed", "quick-sage-computers", "quick-sage-flickr", "quick-sage-arxiv")
WAYS: tuple[Way, ...] = ("stock", "ours")
_LAST_OF_A_TRACEBACK = re.compile(r"[A-Za-z_][\w.]*(Error|Exception|Interrupt|Exit)\b")
_LONGEST = 300
# Stock PyG's threads wait as libgomp has them wait by default, not as this package does (gnnsoup_hpc/__init__.py).
_AS_STOCK = ("env", "-u", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT=300000")


@dataclass(frozen=True)
class Options:
    """How a grid is carried out. Each way gets `rounds` processes a cell, each with `repeats` timed repeats."""

    repeats: int
    threads: int
    timeout: float
    rounds: int = 2
    memory_bytes: int = 0


@dataclass
class Figures:
    """What is known of one cell by one way, whatever went wrong with the rest in `errors`."""

    seconds: list[float] = field(default_factory=list)
    prepare_seconds: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    peak_bytes: float | None = None
    prepare_peak_bytes: float | None = None
    baseline_bytes: float | None = None
    errors: list[str] = field(default_factory=list)

    def take(self, passing: Passing, result: dict[str, Any]) -> None:
        """Add what a child measured."""
        if passing == "time":
            self.seconds += result["seconds"]
            self.prepare_seconds.append(result["prepare_seconds"])
            self.values = self.values or result["values"]
        else:
            self.peak_bytes, self.baseline_bytes = result["peak_bytes"], result["baseline_bytes"]
            self.prepare_peak_bytes = result["prepare_peak_bytes"]


@dataclass(frozen=True)
class Row:
    """A cell with the figures of both ways."""

    cell: Cell
    ours: Figures
    stock: Figures


class CellFailedError(Exception):
    """A child that gave no result; the message is one line without the cell's name."""


def quick(graph: str, graph_h5: Path) -> list[Cell]:
    """Every model and task on one graph."""
    return [_cell(graph, graph_h5, model, task) for model in MODELS for task in TASKS]


def full(graph: str, graph_h5: Path) -> list[Cell]:
    """The quick grid, with all sizes of a union."""
    return [
        replace(cell, union=union)
        for cell in quick(graph, graph_h5)
        for union in (UNIONS if cell.task == "pls_step" else (cell.union,))
    ]


def carried_out(cells: Sequence[Cell], options: Options, say: Callable[[str], None]) -> list[Row]:
    """The figures of every cell; one line of `say` for each process, and for each that failed what failed."""
    rows = []
    for number, cell in enumerate(cells, 1):
        row = Row(cell, Figures(), Figures())
        for order in orders(cell, options):
            figures = row.ours if order.way == "ours" else row.stock
            if figures.errors:
                continue  # what failed once fails again, often after as long
            label = f"[{number}/{len(cells)}] {cell.name}, {order.way}, {order.passing}"
            try:
                result = run(order, options.timeout)
            except CellFailedError as error:
                figures.errors.append(f"{order.passing}: {error}")
                say(f"{label}: failed: {error}")
            else:
                figures.take(order.passing, result)
                say(f"{label}: {_told(order.passing, result)}")
        rows.append(row)
    return rows


def orders(cell: Cell, options: Options) -> Iterator[Order]:
    """Stock, ours, ours, stock, … so that both see the same machine as it warms up or gets busy; then memory."""
    for turn in range(options.rounds):
        for way in WAYS if turn % 2 == 0 else WAYS[::-1]:
            yield _order(cell, way, "time", options)
    for way in WAYS:
        yield _order(cell, way, "memory", options)


def run(order: Order, timeout: float) -> dict[str, Any]:
    """What a fresh process measures.

    Raises: CellFailedError where it gives no result in time, with its own last words or what ended it.
    """
    command = [sys.executable, "-m", "gnnsoup_hpc.bench.cell"]
    if order.way == "stock":
        command = [*_AS_STOCK, *command]
    try:
        child = subprocess.run(
            command, input=order.to_json(), capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        raise CellFailedError(f"not done after {timeout:.0f} s (--timeout)") from None
    if child.returncode < 0:
        name = signal.Signals(-child.returncode).name
        hint = ", by the kernel for want of memory as a rule" if name == "SIGKILL" else ""
        raise CellFailedError(f"ended by {name}{hint}")
    if child.returncode:
        raise CellFailedError(_last_words(child.stderr) or f"exit code {child.returncode}")
    try:
        result: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        raise CellFailedError("no result on its output") from None
    return result


def _order(cell: Cell, way: Way, passing: Passing, options: Options) -> Order:
    """Stock is float32, whatever the precision of ours."""
    cell = replace(cell, precision="float32") if way == "stock" else cell
    return Order(cell, way, passing, options.repeats, options.threads, options.memory_bytes)


def _cell(graph: str, graph_h5: Path, model: ModelKind, task: TaskName) -> Cell:
    hidden, heads = (512, 2) if model == "gat" else (256, 1)
    return Cell(graph, str(graph_h5.absolute()), model, task, hidden=hidden, heads=heads)


def _told(passing: Passing, result: dict[str, Any]) -> str:
    if passing == "time":
        return f"{min(result['seconds']):.4f} s at best"
    peak, baseline = result["peak_bytes"], result["baseline_bytes"]
    return "-" if peak is None or baseline is None else f"{(peak - baseline) / 1e6:.1f} MB above the baseline"


def _last_words(stderr: str) -> str:
    """The line that says what went wrong: of a traceback the error's, since messages may go on for many lines."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if _LAST_OF_A_TRACEBACK.match(line)]
    return (errors or lines or [""])[-1][:_LONGEST]
