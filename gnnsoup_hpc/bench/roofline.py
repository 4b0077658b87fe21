"""What the machine can do, what a task must do at least, and so the least time that it can take.

Flops are those of the dense products. Bytes are compulsory traffic: each input read once and each result written once,
as if caches held everything in between; a sparse product that gathers a row many times moves more. Both count only what
the validation nodes depend on, layer by layer. One hop of a constant graph and the normalisation are not counted where
they can be kept from step to step. A method that needs fewer products than the algorithm as written may beat the bound.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from math import prod
from statistics import fmean
from timeit import repeat
from typing import Any

import numpy as np
import torch

from gnnsoup_hpc.bench import task as tasks
from gnnsoup_hpc.bench.ours import make_batches
from gnnsoup_hpc.bench.task import Cell
from gnnsoup_hpc.graph.subgraph import Batch
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.types import BoolArray, Doubles, IntArray, Role
from gnnsoup_hpc.utils.rng import numpy_generator

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


def bound_seconds(work: Doubles, rates: Rates) -> float:
    """The least time of (flops, bytes): computing and moving at full rate, one hidden behind the other."""
    return max(float(work[0]) / rates.flops_per_second, float(work[1]) / rates.bytes_per_second)


def measure_rates(threads: int, width: int, kind: torch.dtype = torch.float32) -> Rates:
    """Best of some trials of a large copy and of a (rows, width) x (width, width) product."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        source = torch.zeros(COPY_BYTES // 4)
        target = torch.zeros_like(source)
        copy = min(repeat(lambda: target.copy_(source), number=1, repeat=TRIALS + 1)[1:])
        x, w = torch.ones(GEMM_ROWS, width, dtype=kind), torch.ones(width, width, dtype=kind)
        product = min(repeat(lambda: x @ w, number=1, repeat=TRIALS + 1)[1:])
    finally:
        torch.set_num_threads(before)
    return Rates(2.0 * COPY_BYTES / copy, 2.0 * GEMM_ROWS * width * width / product)


def count_receptive(row: IntArray, column: IntArray, asked: BoolArray, layers: int) -> list[LayerSize]:
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
    """Layer sizes on the whole graph; of PLS of each of the first `samples` unions, of training of each step."""
    if cell.task == "train_epoch":
        return [_count_batch(batch, cell.layers) for batch in _draw_batches(cell, graph)]
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


def _draw_batches(cell: Cell, graph: GraphFile) -> Iterator[Batch]:
    """The batches of an epoch's steps."""

    def as_is(batch: Batch) -> Any:
        return batch

    batches: Iterator[Any] = make_batches(cell, graph, as_is).epoch(numpy_generator(tasks.SEED))
    return batches


def _count_batch(batch: Batch, layers: int) -> list[LayerSize]:
    asked = np.zeros(batch.size, dtype=np.bool_)
    asked[batch.seeds.numpy()] = True
    adjacency = batch.graph.adjacency
    return count_receptive(adjacency.row.numpy(), adjacency.indices.numpy(), asked, layers)


def count_work(cell: Cell, net: Architecture, layers: list[LayerSize]) -> Doubles:
    """(flops, bytes) of one evaluation, step or epoch at least, given the sizes of its layers."""
    element = 2 if cell.precision == "bfloat16" else 4
    parameters = np.array([0.0, element * sum(prod(shape) for shape in net.shapes().values())])
    kept_hop = cell.task != "pls_step" and cell.batch == "full"
    passes = [_layer(net, number, size, element, kept_hop) for number, size in enumerate(layers)]
    work: Doubles = np.sum(passes, axis=0) + parameters
    if cell.task == "gis_step":
        work = cell.granularity * (work + 3.0 * parameters)  # mixing: two read, one written
    elif cell.task != "evaluation":
        # Backward: gradients of weights and of states each cost what the forward does, but none of features is needed.
        # Then mixing, with its gradient, or Adam: three read and written, and the gradient is read.
        of_parameters = 7 if cell.task == "train_epoch" else 2 * cell.ingredients + 2
        work = 3.0 * work - passes[0] + of_parameters * parameters
    return work


def compute_bound(cell: Cell, rates: Rates, samples: int) -> float:
    """The least time of a cell's task: of PLS the mean over the first `samples` unions, of training all its steps."""
    with tasks.open_graph(cell) as graph:
        net, sizes = tasks.make_architecture(cell, graph), count_layers(cell, graph, samples)
    bounds = [bound_seconds(count_work(cell, net, layers), rates) for layers in sizes]
    return sum(bounds) if cell.task == "train_epoch" else fmean(bounds)


def _layer(net: Architecture, number: int, size: LayerSize, element: int, kept_hop: bool) -> Doubles:
    """(flops, bytes) of one layer's forward, in the cheaper order of product and aggregation."""
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
    return np.array([flops, entries + element * (read + size.rows * width)])
