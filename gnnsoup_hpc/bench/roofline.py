"""What the machine can do, what a task must do at least, and so the least time that it can take.

Flops are those of the dense products. Bytes are compulsory traffic: each input read once and each result written once,
as if caches held everything in between; a sparse product that gathers a row many times moves more. Both count only what
the validation nodes depend on, layer by layer. One hop of a constant graph and the normalisation are not counted where
they can be kept from step to step. A method that needs fewer products than the algorithm as written may beat the bound.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from math import prod

import numpy as np
import numpy.typing as npt
import torch

from gnnsoup_hpc.bench import task as tasks
from gnnsoup_hpc.bench.task import Cell
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.types import IntArray, Role

Mask = npt.NDArray[np.bool_]

COPY_BYTES = 1 << 28
GEMM_ROWS = 1 << 14
TRIALS = 5
INDEX_BYTES = 4


@dataclass(frozen=True)
class Rates:
    """What the machine does at best: bytes read plus bytes written a second, and flops of a hidden layer's product."""

    bytes_per_second: float
    flops_per_second: float


@dataclass(frozen=True)
class LayerSize:
    """What a layer computes: states of `rows` nodes from those of `columns` nodes, along `entries`."""

    rows: int
    columns: int
    entries: int


@dataclass(frozen=True)
class Work:
    """What must be done at least."""

    flops: float
    bytes: float


def bound_seconds(flops: float, bytes_moved: float, rates: Rates) -> float:
    """The least time: computing and moving at full rate, one hidden behind the other."""
    return max(flops / rates.flops_per_second, bytes_moved / rates.bytes_per_second)


def measure_rates(threads: int, width: int, kind: torch.dtype = torch.float32) -> Rates:
    """Best of some trials of a large copy and of a (rows, width) x (width, width) product."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        source = torch.zeros(COPY_BYTES // 4)
        target = torch.zeros_like(source)
        copy = _time_best(lambda: target.copy_(source))
        x, w = torch.ones(GEMM_ROWS, width, dtype=kind), torch.ones(width, width, dtype=kind)
        product = _time_best(lambda: x @ w)
    finally:
        torch.set_num_threads(before)
    return Rates(2.0 * COPY_BYTES / copy, 2.0 * GEMM_ROWS * width * width / product)


def count_receptive(row: IntArray, column: IntArray, asked: Mask, layers: int) -> list[LayerSize]:
    """Sizes of each layer, the first one first, if nothing is computed that `asked` (V,) does not depend on."""
    sizes = []
    for _ in range(layers):
        entries = asked[row]
        reached = asked.copy()
        reached[column[entries]] = True
        sizes.append(LayerSize(int(asked.sum()), int(reached.sum()), int(entries.sum())))
        asked = reached
    return sizes[::-1]


def count_layers(cell: Cell, graph: GraphFile, samples: int = 1) -> list[list[LayerSize]]:
    """Layer sizes on the whole graph; of PLS, those of each of the first `samples` unions."""
    indptr, column = tasks.read_structure(graph)
    row = np.repeat(np.arange(graph.nodes), np.diff(indptr))
    asked = graph.role(0, graph.nodes) == Role.VALIDATION
    if cell.task != "pls_step":
        return [count_receptive(row, column, asked, cell.layers)]
    found = []
    for chosen in islice(tasks.draw_unions(cell, graph), samples):
        inside = np.repeat(np.isin(np.arange(graph.parts), chosen), np.diff(graph.ptr))
        kept = inside[row] & inside[column]
        found.append(count_receptive(row[kept], column[kept], asked & inside, cell.layers))
    return found


def count_work(cell: Cell, net: Architecture, layers: list[LayerSize]) -> Work:
    """Flops and bytes of one evaluation, step or epoch, given the sizes of its layers."""
    element = 2 if cell.precision == "bfloat16" else 4
    parameters = float(sum(prod(shape) for shape in net.shapes().values())) * element
    kept_hop = cell.task != "pls_step"
    passes = [_layer(net, number, size, element, kept_hop) for number, size in enumerate(layers)]
    forward = Work(sum(p.flops for p in passes), sum(p.bytes for p in passes) + parameters)
    if cell.task == "evaluation":
        return forward
    if cell.task == "gis_step":
        mixing = 3.0 * parameters  # two read, one written
        return Work(cell.granularity * forward.flops, cell.granularity * (forward.bytes + mixing))
    # Backward: gradients of weights and of states each cost what the forward does, but none of features is needed.
    mixing = (2 * cell.ingredients + 2) * parameters
    flops = 3.0 * forward.flops - passes[0].flops
    return Work(flops, 3.0 * forward.bytes - passes[0].bytes + mixing)


def compute_bound(cell: Cell, graph: GraphFile, rates: Rates, samples: int = 1) -> float:
    """The least time of a cell's task, the mean over unions where it draws them."""
    net = tasks.make_architecture(cell, graph)
    works = [count_work(cell, net, layers) for layers in count_layers(cell, graph, samples)]
    return sum(bound_seconds(w.flops, w.bytes, rates) for w in works) / len(works)


def _layer(net: Architecture, number: int, size: LayerSize, element: int, kept_hop: bool) -> Work:
    """One layer's forward, in the cheaper order of product and aggregation."""
    into, out = net.widths(number)
    aggregation = net.aggregation
    width = net.heads * out if number == net.layers - 1 else out
    constant, matrices = number == 0 and aggregation is not None, 2 if aggregation and aggregation.beside_own else 1
    if aggregation is None:
        flops = 2.0 * size.columns * into * width
    else:
        # The hop before the first product can be kept, so that product needs the rows alone.
        fewest = size.rows if constant or out >= into else min(size.rows, size.columns)
        flops = 2.0 * fewest * into * out * matrices
    # Of each entry beside its index: GAT's attention, or GCN's weight; a mean needs none.
    value = element * net.heads if aggregation is None else element * aggregation.symmetric
    entries = 0 if constant and kept_hop else size.entries * (INDEX_BYTES + value)
    read = (size.rows * matrices if constant and kept_hop else size.columns) * into
    return Work(flops, float(entries + element * (read + size.rows * width)))


def _time_best(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(TRIALS + 1):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])
