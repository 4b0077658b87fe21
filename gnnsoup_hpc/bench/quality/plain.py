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
from gnnsoup_hpc.bench.quality.order import QualityOrder, evaluations
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.models.registry import make_model
from gnnsoup_hpc.runtime import profiling
from gnnsoup_hpc.runtime.profiling import Measurement
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.types import State

Evaluate = Callable[[State], float]


class PlainGis:
    """Plain GIS of one order, from cold."""

    def __init__(self, order: QualityOrder, graph: GraphFile) -> None:
        self._order, self._graph = order, graph
        self._job = order.its_job
        self._net = make_model(self._job.model, graph.features, graph.classes)
        self._module = stock.module_of(self._net)

    def timed(self) -> dict[str, Any]:
        """Wall time of all evaluations, or of some, with what all would take."""
        granularity = self._job.soup.gis.granularity
        total = evaluations(len(self._order.ids), granularity)
        start = time.perf_counter()
        states, evaluate = self._prepared()
        prepared = time.perf_counter() - start
        if 0 < self._order.sampled < total:
            found = run_sampled(states, self._order.sampled, granularity, evaluate)
            return {
                "seconds": extrapolate(prepared, found, total),
                "prepare_seconds": prepared,
                "evaluation_seconds": found,
                "evaluations": total,
                "curve": [],
                "validation_accuracy": None,
            }
        clocked = Clocked(evaluate)
        curve = [
            [number, time.perf_counter() - start, reached]
            for number, reached in enumerate(run_in_full(states, granularity, clocked), 1)
        ]
        return {
            "seconds": time.perf_counter() - start,
            "prepare_seconds": prepared,
            "evaluation_seconds": clocked.seconds,
            "evaluations": total,
            "curve": curve,
            "validation_accuracy": curve[-1][2],
        }

    def weighed(self) -> Measurement:
        """Peak memory of reading all and of one evaluation of a candidate; more of them take no more."""
        with profiling.Meter(torch.device("cpu")) as meter:
            states, evaluate = self._prepared()
            run_sampled(states, 1, self._job.soup.gis.granularity, evaluate)
        return meter.measurement

    def _prepared(self) -> tuple[list[State], Evaluate]:
        """Read ingredients and graph; what tells a state's validation accuracy."""
        run = RunDir.of(self._job)
        states = [ingredient_store.read(run.ingredient(index)).state for index in self._order.ids]
        held = stock.whole(self._graph, self._net)
        return states, lambda state: stock.evaluation(self._module, state, held)


class Clocked:
    """An evaluation that keeps its wall times."""

    def __init__(self, evaluate: Evaluate) -> None:
        self._evaluate = evaluate
        self.seconds: list[float] = []

    def __call__(self, state: State) -> float:
        """The state's accuracy."""
        start = time.perf_counter()
        found = self._evaluate(state)
        self.seconds.append(time.perf_counter() - start)
        return found


def run_in_full(states: Sequence[State], granularity: int, evaluate: Evaluate) -> Iterator[float]:
    """The soup's accuracy with the best ingredient alone, and with each next one."""
    found = [evaluate(state) for state in states]
    first, *others = sorted(range(len(states)), key=lambda i: (-found[i], i))
    soup = states[first]
    yield found[first]
    for other in others:
        ratios = _ratios(granularity)
        tried = [evaluate(_between(soup, states[other], a)) for a in ratios]
        soup = _between(soup, states[other], ratios[tried.index(max(tried))])
        yield max(tried)


def run_sampled(states: Sequence[State], count: int, granularity: int, evaluate: Evaluate) -> list[float]:
    """Wall times of evaluating `count` candidates of a step, mixing included."""
    seconds = []
    for a in islice(cycle(_ratios(granularity)), count):
        gc.collect()
        start = time.perf_counter()
        evaluate(_between(states[0], states[-1], a))
        seconds.append(time.perf_counter() - start)
    return seconds


def extrapolate(prepared: float, samples: Sequence[float], total: int) -> float:
    """Seconds of reading and of `total` evaluations, those not among the samples as long as the samples' median."""
    return prepared + sum(samples) + (total - len(samples)) * median(samples)


def _ratios(granularity: int) -> list[float]:
    return [float(a) for a in torch.linspace(1.0, 0.0, granularity, dtype=torch.float64)]


def _between(soup: State, other: State, a: float) -> State:
    return {name: a * soup[name] + (1.0 - a) * other[name] for name in soup}
