"""The grid, and the parent that carries it out: each cell, way and pass in a fresh process, ways taking turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gnnsoup_hpc.bench import process
from gnnsoup_hpc.bench.task import Cell, ModelKind, Order, Passing, TaskName, Way
from gnnsoup_hpc.models.convolutions import find_convolution
from gnnsoup_hpc.types import Precision

MODELS: tuple[ModelKind, ...] = ("sage", "gcn", "gat")
TASKS: tuple[TaskName, ...] = ("evaluation", "ls_epoch", "pls_step", "gis_step")
UNIONS = (1, 4, 8)
QUICK_GRAPHS = ("pubmed",)
FULL_GRAPHS = ("pubmed", "quick-sage-computers", "quick-sage-flickr", "quick-sage-arxiv")
WAYS: tuple[Way, ...] = ("stock", "ours")
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")


@dataclass(frozen=True)
class Choice:
    """Which cells of a graph are measured. `unions` are the R of pls_step; `hidden` counts the channels of a head."""

    models: tuple[ModelKind, ...] = MODELS
    tasks: tuple[TaskName, ...] = TASKS
    unions: tuple[int, ...] = (4,)
    hidden: int = 256
    precisions: tuple[Precision, ...] = ("float32",)


@dataclass(frozen=True)
class Options:
    """How a grid is carried out. Each way gets `rounds` processes a cell, each with `repeats` timed repeats."""

    repeats: int
    threads: int
    timeout: float
    rounds: int = 2
    memory_bytes: int = 0
    ways: tuple[Way, ...] = WAYS


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


def list_cells(graph: str, graph_h5: Path, choice: Choice) -> list[Cell]:
    """Every chosen cell of one graph."""
    return [
        _make_cell(graph, graph_h5, model, task, union, choice.hidden, precision)
        for model in choice.models
        for task in choice.tasks
        for union in (choice.unions if task == "pls_step" else (Cell.union,))
        for precision in choice.precisions
    ]


def run_orders(cells: Sequence[Cell], options: Options, say: Callable[[str], None]) -> list[Row]:
    """The figures of every cell; one line of `say` for each process, and for each that failed what failed."""
    rows = []
    for number, cell in enumerate(cells, 1):
        row = Row(cell, Figures(), Figures())
        for order in list_orders(cell, options):
            figures = row.ours if order.way == "ours" else row.stock
            process.measure(order, figures, f"[{number}/{len(cells)}] {cell.name}, {order.way}", options.timeout, say)
        rows.append(row)
    return rows


def list_orders(cell: Cell, options: Options) -> Iterator[Order]:
    """Stock, ours, ours, stock, … so that both see the same machine as it warms up or gets busy; then memory."""
    for turn in range(options.rounds):
        for way in options.ways if turn % 2 == 0 else options.ways[::-1]:
            yield _make_order(cell, way, "time", options)
    for way in options.ways:
        yield _make_order(cell, way, "memory", options)


def _make_order(cell: Cell, way: Way, passing: Passing, options: Options) -> Order:
    """Stock is float32, whatever the precision of ours."""
    cell = replace(cell, precision="float32") if way == "stock" else cell
    return Order(cell, way, passing, options.repeats, options.threads, options.memory_bytes)


def _make_cell(
    graph: str, graph_h5: Path, model: ModelKind, task: TaskName, union: int, channels: int, precision: Precision
) -> Cell:
    heads = 2 if find_convolution(model).has_heads else 1
    shape: dict[str, Any] = {"hidden": heads * channels, "heads": heads, "union": union, "precision": precision}
    return Cell(graph, str(graph_h5.absolute()), model, task, **shape)
