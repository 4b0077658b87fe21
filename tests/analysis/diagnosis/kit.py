"""Runs whose ingredients are made by hand: copies of one model, or that model with its hidden units permuted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from gnnsoup_hpc.config import Job
from gnnsoup_hpc.evaluation.tasks import Multiclass
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io import states
from gnnsoup_hpc.io.ingredient import Origin
from gnnsoup_hpc.io.records import Diagnosed, Diagnosis, EvalResult, Midpoints
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.types import State
from tests import runs

TASK = Multiclass(3)


def permute(state: State, seed: int) -> State:
    """A two-layer GraphSAGE with its hidden units in another order, and so with the same outputs."""
    order = torch.randperm(len(state["convs.0.lin_l.bias"]), generator=torch.Generator().manual_seed(seed))
    first = {name: tensor[order] for name, tensor in state.items() if name.startswith("convs.0.")}
    second = {name: state[name][:, order] for name in ("convs.1.lin_l.weight", "convs.1.lin_r.weight")}
    return {name: (first | second).get(name, tensor) for name, tensor in state.items()}


def remade(job: Job, make: Callable[[State, int], State], own_starts: bool = False) -> Job:
    """The job with each ingredient made from ingredient 0's weights and its own number."""
    run = RunDir.of(job)
    first = ingredient_store.read(run.ingredient(0))
    with runs.open_mixtures(job) as mixtures:
        start = states.sha256(ingredient_store.read_initial(run.initial, mixtures.model, job.train.seed))
        for index in range(job.train.ingredients):
            origin = Origin.of(job, mixtures.model, mixtures.graph, start, index)
            if own_starts and index:
                origin = replace(origin, initial_sha256=f"{index}" * 64)
            made = replace(first, index=index, state=make(first.state, index))
            ingredient_store.write(run.ingredient(index), made, origin, job)
    return job


def diagnosis(*halfway: float, mean: float = 0.9, alone: float = 0.9, nodes: int = 10_000) -> Diagnosis:
    """Ingredients of one accuracy, the first of them the best, and the accuracies of its midpoints with the others."""
    ingredients = tuple(
        Diagnosed(f"{index:04d}", alone, 0.5, f"{index}" * 64, "s" * 64, 0.005, 60) for index in range(1 + len(halfway))
    )
    named = {f"{1 + number:04d}": EvalResult(accuracy, 0.75) for number, accuracy in enumerate(halfway)}
    variants = (Midpoints("as trained", "", named, EvalResult(mean, 0.75)),)
    return Diagnosis("g" * 64, nodes, "0000", ingredients, (), variants, 1.0)
