"""The grid, and the parent that carries it out: each cell, way and pass in a fresh process, ways taking turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from gnnsoup_hpc.bench import process
from gnnsoup_hpc.bench.arguments import WAYS, Options
from gnnsoup_hpc.bench.process import Figures
from gnnsoup_hpc.bench.task import Cell, Order, Passing, Way
from gnnsoup_hpc.models.convolutions import find_convolution


@dataclass(frozen=True)
class Row:
    """A cell with the figures of both ways."""

    cell: Cell
    ours: Figures
    stock: Figures


def list_cells(graph: str, graph_h5: Path, options: Options) -> list[Cell]:
    """Every chosen cell of one graph."""
    cells = []
    for model, task in product(options.models, options.tasks):
        heads = 2 if find_convolution(model).has_heads else 1
        first = Cell(graph, str(graph_h5.absolute()), model, task, hidden=heads * options.hidden, heads=heads)
        kinds = (
            [replace(first, batch=batch, norm="layer") for batch in options.batches]
            if task == "train_epoch"
            else [first]
        )
        for kind in kinds:
            unions = options.unions if kind.draws_unions else (Cell.union,)
            cells += [replace(kind, union=r, precision=p) for r, p in product(unions, options.precision)]
    return cells


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
    """Stock, ours, ours, stock, … so that both see the same machine as it warms up or gets busy; then memory.

    Stock is float32, whatever the precision of ours.
    """
    ways = [way for way in WAYS if way in options.ways]
    turns: list[tuple[Way, Passing]] = []
    for turn in range(options.rounds):
        turns += [(way, "time") for way in (ways if turn % 2 == 0 else ways[::-1])]
    turns += [(way, "memory") for way in ways]
    for way, passing in turns:
        measured = replace(cell, precision="float32") if way == "stock" else cell
        yield Order(measured, way, passing, options.repeats, options.threads, options.memory_bytes)
