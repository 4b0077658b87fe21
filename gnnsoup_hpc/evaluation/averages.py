"""Means of ingredients, read from their files, few at a time, and what they are worth on validation nodes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from gnnsoup_hpc.alignment.matching import align_states
from gnnsoup_hpc.evaluation.evaluator import Evaluator, Members
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io.records import EvalResult
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.types import Role, State

# Ways that ingredients are aligned before they are mixed, with the field of a job that does so; "" as they are. The
# first is what the others are compared with; they are measured where it shows that something is wrong.
VARIANTS = {"as trained": "", "units matched by weights": 'soup.align = "weights"'}


def evaluate_averages(
    run: RunDir,
    evaluator: Evaluator,
    groups: Sequence[tuple[int, ...]],
    align: bool = False,
    statistics: Literal["mixed", "anew"] = "anew",
) -> list[EvalResult]:
    """Metric and loss of the mean of each group of ingredients, with `align` matched by weights with its first one.

    statistics: of batch norm; recomputed of all alike, of one ingredient too, unless soup.recompute = "none"; or mixed,
    so that one ingredient has exactly its own.
    Rank-collective: each is one rank's work. Of ingredients as trained at most three states are in memory; to align
    them takes all that are to be mixed.
    """
    make = partial(_average, run, evaluator, align=align, statistics=statistics)
    return evaluator.results([partial(make, group) for group in groups], Role.VALIDATION)


@torch.no_grad()
def _average(
    run: RunDir, evaluator: Evaluator, group: tuple[int, ...], align: bool, statistics: Literal["mixed", "anew"]
) -> Members:
    states: Iterable[State] = (ingredient_store.read(run.ingredient(index)).state for index in group)
    if align:
        states = align_states(evaluator.model, list(states))
    total: dict[str, Tensor] = {}
    kinds: dict[str, torch.dtype] = {}
    for state in states:
        for name, tensor in state.items():
            kinds[name] = tensor.dtype
            total[name] = total[name] + tensor.double() if name in total else tensor.double()
    mean = {name: (tensor / len(group)).to(kinds[name]).to(evaluator.device) for name, tensor in total.items()}
    return [mean if statistics == "mixed" else evaluator.recompute(mean)]
