"""Scores of every node of a run's graph, or of another one, by a soup of the run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gnnsoup_hpc.analysis.report.contents import Contents
from gnnsoup_hpc.config import Job
from gnnsoup_hpc.data.prepare import open_other
from gnnsoup_hpc.errors import RunError
from gnnsoup_hpc.evaluation.evaluator import EvalSettings, Evaluator, Members
from gnnsoup_hpc.io import files
from gnnsoup_hpc.io import graph as graph_store
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io.records import Soup
from gnnsoup_hpc.memory import estimate, limits
from gnnsoup_hpc.memory.estimate import Sizes
from gnnsoup_hpc.memory.limits import Demand, Limit
from gnnsoup_hpc.models.registry import make_model_for
from gnnsoup_hpc.runtime import launch
from gnnsoup_hpc.runtime.launch import RankInfo
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.types import FloatArray
from gnnsoup_hpc.utils.out_of_core import reserve

Allocate = Callable[[tuple[int, int]], FloatArray]


def allocate_in_memory(shape: tuple[int, int]) -> FloatArray:
    """Room for scores."""
    return np.empty(shape, dtype=np.float32)


@dataclass(frozen=True)
class Asked:
    """Whose scores, of which nodes. job: the run's, with [machine] as the command has it; source: as graph.source.

    None: of the run's own graph.
    """

    run: Contents
    soup: Soup
    job: Job
    source: str | None = None
    offline: bool = False

    @property
    def members(self) -> Members:
        """The states of the soup: one, or of an ensemble its ingredients'."""
        if self.soup.state is not None:
            return [self.soup.state]
        return [ingredient.state for ingredient in self.run.ingredients]


def predict(asked: Asked, here: RankInfo, log: Log, allocate: Allocate = allocate_in_memory) -> FloatArray:
    """Scores of every node, (V, C), nodes in the source's order; of a regression in its units.

    allocate: what makes room for them.
    Raises: MemoryLimitError; RunError and FileError where the run's graph is not as it must be, GraphError where the
    other one is not.
    """
    job, soup, place, members = asked.job, asked.soup, asked.run.run, asked.members
    device = launch.claim_machine(job.machine, here)
    with ExitStack() as opened:
        graph = own = opened.enter_context(graph_store.open_graph(place.graph, job, verify=True))
        model = make_model_for(own, job.model, own.resolve_task(job.task).outputs)
        for ingredient in asked.run.ingredients:
            ingredient_store.check_code(place.ingredient(ingredient.index), model)
        if asked.source is not None:
            graph = opened.enter_context(open_other(asked.source, job, own, place.root, log, asked.offline))
        sizes, limit = Sizes.of(graph, model, device), Limit.of(job, here, device)
        way, least = estimate.least_inference(sizes)
        held = estimate.mixing(model, len(members))
        limits.refuse(limit, [Demand(way, least + held)])
        settings = EvalSettings(device, max(0, limit.room - held), place.root, gpu=limit.gpu, task=job.task)
        evaluator = Evaluator(graph, model, settings, asked.run.task)
        scores = allocate((graph.nodes, model.outputs))
        for nodes, found in evaluator.scores(members):
            scores[nodes] = soup.judged.unscale(found.numpy())
    return scores


def write_scores(to: Path, asked: Asked, here: RankInfo, log: Log) -> int:
    """The same in a file of NumPy, which may be larger than memory; how many nodes there are.

    Raises: as `predict`; RunError where the file's name does not end in .npy, or it cannot be written.
    """
    if to.suffix != ".npy":
        raise RunError(f"{to}: scores are a file of .npy")
    files.check_writable(to)
    with files.publish(to) as private:
        scores: Any = predict(asked, here, log, partial(_map_file, private))
        scores.flush()
    return len(scores)


def _map_file(path: Path, shape: tuple[int, int]) -> FloatArray:
    """A new file of NumPy, mapped. Its space is reserved: who writes to a map on a full disk is killed."""
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        reserve(file.fileno(), file.tell() + 4 * shape[0] * shape[1])
    mapped: FloatArray = np.load(path, mmap_mode="r+")
    return mapped
