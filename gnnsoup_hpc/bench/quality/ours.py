"""This package's GIS, LS and PLS from cold, as soup/work.py cooks; alphas are judged when the clock has stopped."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gnnsoup_hpc import engine, ranks
from gnnsoup_hpc.bench.quality.order import LEARNED, QualityOrder
from gnnsoup_hpc.models import Architecture
from gnnsoup_hpc.progress import Log
from gnnsoup_hpc.records import Measurement, Mixture
from gnnsoup_hpc.run_dir import RunDir
from gnnsoup_hpc.soup.kitchen import Kitchen
from gnnsoup_hpc.soup.methods import configured
from gnnsoup_hpc.soup.station import Station, Taste
from gnnsoup_hpc.soup.team import Team
from gnnsoup_hpc.store.graph import GraphFile

EACH_OF_THE_FIRST = 10


@dataclass
class Trace:
    """Alpha of every step, with the seconds since `start`."""

    start: float = 0.0
    steps: list[tuple[int, float, Tensor]] = field(default_factory=list)

    def __call__(self, number: int, alpha_GN: Tensor) -> None:
        """Keep a step."""
        self.steps.append((number, time.perf_counter() - self.start, alpha_GN.cpu()))


class OurMethod:
    """One of our methods of one order, from cold."""

    def __init__(self, order: QualityOrder, graph: GraphFile) -> None:
        self._order = order
        job = order.its_job
        net = Architecture.of(job.model, graph.features, graph.classes)
        memory = ranks.memory_bytes(job.machine, ranks.place())
        self._station = Station(RunDir.of(job), net, order.ids, graph, torch.device("cpu"), memory)
        self._method = next(method for name, method in configured(job.soup).items() if name == order.what)
        self._trace = Trace()
        engine.warm_up(job.model.kind)

    def timed(self) -> dict[str, Any]:
        """Wall time until the soup's weights are there, and the exact validation accuracy along the way."""
        mixture, mixing = self._cooked()
        spent = self._station.meter.measurement
        self._station.clear()
        learned = self._order.what in LEARNED
        curve = self._judged(mixture, mixing) if learned else told(mixture, spent["seconds"])
        return {
            "seconds": spent["seconds"],
            "seconds_ingredients": spent["seconds_ingredients"],
            "seconds_graph": spent["seconds_graph"],
            "curve": curve,
            "validation_accuracy": self._accuracy(mixture.alpha, mixture),
        }

    def weighed(self) -> Measurement:
        """Peak memory of all of it."""
        self._cooked()
        return self._station.meter.measurement

    def _cooked(self) -> tuple[Mixture, float]:
        """What the method makes, and the seconds that mixing its weights took at the end, which are its own too."""
        kitchen = Kitchen(
            self._station, Team(None, self._order.threads), self._order.seed, Log(quiet=True), self._trace
        )
        with self._station.meter:
            self._trace.start = time.perf_counter()
            mixture = self._method.cook(kitchen)
            cooked = time.perf_counter()
            self._station.state(Taste(mixture.alpha, mixture.by, mixture.of))
            return mixture, time.perf_counter() - cooked

    def _judged(self, mixture: Mixture, mixing: float) -> list[list[float]]:
        """[step, seconds, accuracy] of steps, the seconds as if the soup were mixed right after them."""
        chosen = set(judged_steps(len(self._trace.steps), self._order.judge_every))
        return [
            [number, seconds + mixing, self._accuracy(alpha, mixture)]
            for number, seconds, alpha in self._trace.steps
            if number in chosen
        ]

    def _accuracy(self, alpha_GN: Tensor, mixture: Mixture) -> float:
        return self._station.accuracy(Taste(alpha_GN, mixture.by, mixture.of))


def told(mixture: Mixture, seconds: float) -> list[list[float]]:
    """[step, seconds, accuracy] of GIS, which knows its accuracy itself; its end is counted as its last step's."""
    left = [step.seconds for step in mixture.history[1:]]
    return [[step.step, seconds - sum(left[number:]), step.accuracy] for number, step in enumerate(mixture.history)]


def judged_steps(steps: int, every: int) -> Sequence[int]:
    """Of steps 1 to `steps`, each of the first 10, then each `every`-th, and the last."""
    return [n for n in range(1, steps + 1) if n <= EACH_OF_THE_FIRST or n % every == 0 or n == steps]
