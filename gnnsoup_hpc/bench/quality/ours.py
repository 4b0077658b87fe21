"""This package's GIS, LS and PLS from cold, as soup/runner.py runs them; alphas are judged after the timed part."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gnnsoup_hpc.bench.task import LEARNED, QualityOrder
from gnnsoup_hpc.evaluation.evaluator import EvalSettings
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.io.records import MixingWeights
from gnnsoup_hpc.models.registry import make_model_for
from gnnsoup_hpc.runtime import launch
from gnnsoup_hpc.runtime.profiling import Measurement
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.soup.context import SoupContext
from gnnsoup_hpc.soup.methods import make_methods
from gnnsoup_hpc.soup.mixtures import Candidate, Mixtures

EACH_OF_THE_FIRST = 10


class OurMethod:
    """One of our methods of one order, from cold."""

    def __init__(self, order: QualityOrder, graph: GraphFile) -> None:
        self._order = order
        job = order.read_job()
        net = make_model_for(graph, job.model, graph.classes)
        memory = launch.memory_limit_bytes(job.machine, launch.read_rank_info())
        run, device = RunDir.of(job), torch.device("cpu")
        self._mixtures = Mixtures(run, net, order.ids, graph, EvalSettings(device, memory, run.root))
        self._method = make_methods(job.soup)[order.what]
        self._steps: list[tuple[int, float, Tensor]] = []  # number, seconds since the start, alpha
        self._mixtures.evaluator.engine.warm_up(net)

    def measure_time(self) -> dict[str, Any]:
        """Wall time until the soup's weights are there, and the exact validation accuracy along the way."""
        mixture, mixing = self._run()
        spent = self._mixtures.meter.measurement
        self._mixtures.clear()
        learned = self._order.what in LEARNED
        curve = self._judge(mixture, mixing) if learned else describe_step(mixture, spent["seconds"])
        seconds = {name: spent[name] for name in ("seconds", "seconds_ingredients", "seconds_graph")}
        return {**seconds, "curve": curve, "validation_accuracy": self._accuracy(mixture.alpha, mixture)}

    def measure_memory(self) -> Measurement:
        """Peak memory of all of it."""
        self._run()
        return self._mixtures.meter.measurement

    def _run(self) -> tuple[MixingWeights, float]:
        """What the method makes, and the seconds that mixing its weights took at the end, which are its own too."""

        def keep_step(number: int, alpha_GN: Tensor) -> None:
            self._steps.append((number, time.perf_counter() - began, alpha_GN.cpu()))

        context = SoupContext(self._mixtures, self._order.seed, Log(quiet=True), keep_step)
        with self._mixtures.meter:
            began = time.perf_counter()
            mixture = self._method.run(context)
            ended = time.perf_counter()
            self._mixtures.state(Candidate(mixture.alpha, mixture.by, mixture.of))
            return mixture, time.perf_counter() - ended

    def _judge(self, mixture: MixingWeights, mixing: float) -> list[list[float]]:
        """[step, seconds, accuracy] of steps, the seconds as if the soup were mixed right after them."""
        chosen = set(choose_judged_steps(len(self._steps), self._order.judge_every))
        return [
            [number, seconds + mixing, self._accuracy(alpha, mixture)]
            for number, seconds, alpha in self._steps
            if number in chosen
        ]

    def _accuracy(self, alpha_GN: Tensor, mixture: MixingWeights) -> float:
        return self._mixtures.metrics([Candidate(alpha_GN, mixture.by, mixture.of)])[0]


def describe_step(mixture: MixingWeights, seconds: float) -> list[list[float]]:
    """[step, seconds, accuracy] of GIS, which knows its accuracy itself; its end is counted as its last step's."""
    left = [step.seconds for step in mixture.history[1:]]
    return [[step.step, seconds - sum(left[number:]), step.accuracy] for number, step in enumerate(mixture.history)]


def choose_judged_steps(steps: int, every: int) -> Sequence[int]:
    """Of steps 1 to `steps`, each of the first 10, then each `every`-th, and the last."""
    return [n for n in range(1, steps + 1) if n <= EACH_OF_THE_FIRST or n % every == 0 or n == steps]
