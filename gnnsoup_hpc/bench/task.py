"""What the parent and the children of a benchmark agree on: cells, orders, and where every task starts.

Both ways get the same ingredients, raw alphas, interpolation ratios and unions of parts, so that what `once` returns
can be compared as well as what it costs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from gnnsoup_hpc.config import Job
from gnnsoup_hpc.config import loading as jobs
from gnnsoup_hpc.data import loader
from gnnsoup_hpc.io import graph as graph_store
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.soup.optim import draw_xavier
from gnnsoup_hpc.types import IntArray, Precision, State
from gnnsoup_hpc.utils.rng import numpy_generator

ModelKind = Literal["sage", "gcn", "gat"]
TaskName = Literal["evaluation", "ls_epoch", "pls_step", "gis_step", "train_epoch"]
BatchName = Literal["full", "cluster", "neighbour"]
Way = Literal["ours", "stock"]
Passing = Literal["time", "memory"]

PLAIN = "plain"  # GIS as the published program does it, by stock PyG
METHODS = ("gis", "ls", "pls")
LEARNED = ("ls", "pls")

SEED = 0
# Of SGD on raw alphas: so large that a wrong gradient shows in the loss of the next step, which ways are compared by.
LEARNING_RATE = 100.0
# Of training, by Adam.
TRAIN_RATE, DROPOUT = 0.003, 0.5
BATCH_SIZE, FANOUT = 1024, 10  # of neighbour batches
BLOCK_NODES = 1 << 16


class BenchTask(Protocol):
    """One way of doing one task."""

    def prepare(self) -> None:
        """Read what the task computes on, and all that is done once a graph."""

    def once(self) -> float:
        """Do it once; the accuracy or loss that came of it."""


@dataclass(frozen=True)
class Cell:
    """A point of the grid. `hidden` counts the channels of all heads; `batch` is train_epoch's.

    `union` is R, the parts of a union of pls_step or of cluster batches.
    """

    graph: str
    graph_h5: str
    model: ModelKind
    task: TaskName
    layers: int = 3
    hidden: int = 256
    heads: int = 1
    norm: str = "none"
    ingredients: int = 5
    union: int = 4
    granularity: int = 5
    precision: Precision = "float32"
    batch: BatchName = "full"

    @property
    def name(self) -> str:
        """What people call it."""
        return f"{self.graph}: {self.model} {self.title}"

    @property
    def draws_unions(self) -> bool:
        """Whether it computes on unions of parts."""
        return self.task == "pls_step" or (self.task == "train_epoch" and self.batch == "cluster")

    @property
    def title(self) -> str:
        """The task with what it depends on."""
        batch = f" {self.batch}" if self.task == "train_epoch" else ""
        union = f" R={self.union}" if self.draws_unions else ""
        return f"{self.task}{batch}{union}{'' if self.precision == 'float32' else f' {self.precision}'}"


@dataclass(frozen=True)
class Order:
    """What one child does. `memory_bytes` bounds its private memory; 0 = unbounded."""

    cell: Cell
    way: Way
    passing: Passing
    repeats: int
    threads: int
    memory_bytes: int = 0

    @property
    def as_stock(self) -> bool:
        """Whether stock PyG is measured."""
        return self.way == "stock"

    def describe_time(self, result: dict[str, Any]) -> str:
        """The shortest repeat."""
        return f"{min(result['seconds']):.4f} s at best"


@dataclass(frozen=True)
class QualityOrder:
    """What one child measures of the time to quality: `what` is PLAIN or a method of ours.

    `job` is the resolved job's tree and `ids` its fit ingredients. Of plain GIS, `sampled` evaluations are timed, all
    if it is 0. Of learned methods, each of the first 10 steps is judged and then each `judge_every`-th.
    `memory_bytes` bounds the child's private memory; 0 = unbounded.
    """

    job: Mapping[str, Any]
    ids: tuple[int, ...]
    what: str
    passing: Passing
    seed: int
    threads: int
    sampled: int = 0
    judge_every: int = 5
    memory_bytes: int = 0

    @property
    def as_stock(self) -> bool:
        """Whether stock PyG is measured."""
        return self.what == PLAIN

    def read_job(self) -> Job:
        """The job that it is about."""
        return jobs.validate(self.job, "the order")

    def describe_time(self, result: dict[str, Any]) -> str:
        """All of it."""
        return f"{result['seconds']:.2f} s"


def read_order(text: str) -> Order | QualityOrder:
    """The order whose fields are in a JSON text."""
    tree: dict[str, Any] = json.loads(text)
    if "cell" in tree:
        return Order(**tree | {"cell": Cell(**tree["cell"])})
    return QualityOrder(**tree | {"ids": tuple(tree["ids"])})


def keep_finite(value: float) -> float | None:
    """As JSON has it, which knows no NaN and no infinity."""
    return value if math.isfinite(value) else None


def count_evaluations(ingredients: int, granularity: int) -> int:
    """Evaluations of the whole graph that GIS makes: one an ingredient, then `granularity` for each but the first."""
    return ingredients + granularity * (ingredients - 1)


def open_graph(cell: Cell) -> AbstractContextManager[GraphFile]:
    """The cell's graph.h5; nothing of its bulk is read yet."""
    return graph_store.open_file(Path(cell.graph_h5))


def make_architecture(cell: Cell, graph: GraphFile) -> Architecture:
    """The cell's architecture for its graph."""
    return Architecture(cell.model, cell.layers, graph.features, cell.hidden, graph.classes, cell.heads, cell.norm)


def make_states(cell: Cell, net: Architecture) -> list[State]:
    """The ingredients: different random weights, for what a step costs does not depend on their values."""
    return [net.init_state(seed) for seed in range(cell.ingredients)]


def draw_start(cell: Cell) -> Tensor:
    """Raw alphas (layers, N), float64, as LS and PLS draw them."""
    return draw_xavier(SEED, cell.layers, tuple(range(cell.ingredients)))


def list_ratios(granularity: int) -> list[float]:
    """The shares of the soup that a step of GIS tries."""
    return [float(a) for a in torch.linspace(1.0, 0.0, granularity, dtype=torch.float64)]


def draw_unions(cell: Cell, graph: GraphFile) -> Iterator[list[int]]:
    """The parts of each step of PLS, endlessly."""
    return loader.draw_unions(graph.validation_counts, cell.union, numpy_generator(SEED, 1))


def read_structure(graph: GraphFile) -> tuple[IntArray, IntArray]:
    """(indptr, indices) of the whole graph, row = destination, read block by block."""
    indptr, indices = graph.bounds(0, graph.nodes), np.empty(graph.edges, dtype=np.int64)
    for first in range(0, graph.nodes, BLOCK_NODES):
        bounds = indptr[first : first + BLOCK_NODES + 1]
        indices[bounds[0] : bounds[-1]] = graph.neighbours(bounds)
    return indptr, indices
