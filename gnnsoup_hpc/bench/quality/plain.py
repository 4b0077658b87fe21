"""Greedy Interpolated Souping as the published program does it: stock PyG, the whole graph for every candidate.

By falling validation accuracy, a * soup + (1 - a) * ingredient for evenly spaced a from 1 to 0, the best one kept, of
equals the largest a (Jaiswal et al., Graph Ladling, ICML 2023, arXiv 2306.10466): what methods/gis.py computes.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from statistics import median
from typing import Any

import torch

from gnnsoup_hpc.bench import stock
from gnnsoup_hpc.bench.stock import interpolate
from gnnsoup_hpc.bench.task import QualityOrder, count_evaluations, list_ratios
from gnnsoup_hpc.errors import JobError
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.models.registry import make_model_for
from gnnsoup_hpc.runtime import profiling
from gnnsoup_hpc.runtime.profiling import Measurement
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.types import State

Evaluate = Callable[[State], float]


class PlainGis:
    """Plain GIS of one order, from cold."""

    def __init__(self, order: QualityOrder, graph: GraphFile) -> None:
        self._order, self._graph = order, graph
        self._job = order.read_job()
        net = make_model_for(graph, self._job.model, graph.classes)
        if not isinstance(net, Architecture):
            raise JobError(f"model.kind = {net.kind!r} of these options: measured are gcn, sage and gat alone")
        self._net = net
        self._module = stock.make_module(self._net)

    def measure_time(self) -> dict[str, Any]:
        """Wall time of all evaluations, or of some, with what all would take."""
        granularity = self._job.soup.gis.granularity
        total = count_evaluations(len(self._order.ids), granularity)
        start = time.perf_counter()
        states, evaluate = self._prepare()
        prepared, spent = time.perf_counter() - start, list[float]()
        facts = {"prepare_seconds": prepared, "evaluation_seconds": spent, "evaluations": total}
        if 0 < self._order.sampled < total:
            spent += run_sampled(states, self._order.sampled, granularity, evaluate)
            return {"seconds": extrapolate(prepared, spent, total), "curve": [], "validation_accuracy": None, **facts}

        def time_evaluation(state: State) -> float:
            began = time.perf_counter()
            found = evaluate(state)
            spent.append(time.perf_counter() - began)
            return found

        curve = [
            [number, time.perf_counter() - start, reached]
            for number, reached in enumerate(run_in_full(states, granularity, time_evaluation), 1)
        ]
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "curve": curve, "validation_accuracy": curve[-1][2], **facts}

    def measure_memory(self) -> Measurement:
        """Peak memory of reading all and of one evaluation of a candidate; more of them take no more."""
        with profiling.Meter(torch.device("cpu")) as meter:
            states, evaluate = self._prepare()
            run_sampled(states, 1, self._job.soup.gis.granularity, evaluate)
        return meter.measurement

    def _prepare(self) -> tuple[list[State], Evaluate]:
        """Read ingredients and graph; what gives a state's validation accuracy."""
        run = RunDir.of(self._job)
        states = [ingredient_store.read(run.ingredient(index)).state for index in self._order.ids]
        held = stock.load_whole(self._graph, self._net)
        return states, lambda state: stock.evaluate(self._module, state, held)


def run_in_full(states: Sequence[State], granularity: int, evaluate: Evaluate) -> Iterator[float]:
    """The soup's accuracy with the best ingredient alone, and with each next one."""
    found = [evaluate(state) for state in states]
    first, *others = sorted(range(len(states)), key=lambda i: (-found[i], i))
    soup = states[first]
    yield found[first]
    tried = list_ratios(granularity)
    for other in others:
        accuracies = [evaluate(interpolate(soup, states[other], a)) for a in tried]
        soup = interpolate(soup, states[other], tried[accuracies.index(max(accuracies))])
        yield max(accuracies)


def run_sampled(states: Sequence[State], count: int, granularity: int, evaluate: Evaluate) -> list[float]:
    """Wall times of evaluating `count` candidates of a step, mixing included."""
    seconds = []
    for a in islice(cycle(list_ratios(granularity)), count):
        gc.collect()
        start = time.perf_counter()
        evaluate(interpolate(states[0], states[-1], a))
        seconds.append(time.perf_counter() - start)
    return seconds


def extrapolate(prepared: float, samples: Sequence[float], total: int) -> float:
    """Seconds of reading and of `total` evaluations, those not among the samples as long as the samples' median."""
    return prepared + sum(samples) + (total - len(samples)) * median(samples)
