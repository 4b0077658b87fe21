"""Means of ingredients, read from their files, few at a time, and what they are worth on validation nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from gnnsoup_hpc.alignment.matching import align_states
from gnnsoup_hpc.evaluation.evaluator import Evaluator, Members
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io.records import EvalResult
from gnnsoup_hpc.models.base import Model
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.types import Role, State


@dataclass(frozen=True)
class AlignmentVariant:
    """A way to align ingredients with one another before they are mixed, as a diagnosis compares them.

    `align(model, states)` gives states that compute the same, aligned with the first; None: as they are.
    `setting` is the field of a job that aligns a run's ingredients in this way; empty for none.
    """

    name: str
    setting: str
    align: Callable[[Model, Sequence[State]], Sequence[State]] | None


# The first is what the others are compared with; they are measured where it shows that something is wrong.
VARIANTS = (
    AlignmentVariant("as trained", "", None),
    AlignmentVariant("units matched by weights", 'soup.align = "weights"', align_states),
)


def evaluate_averages(
    run: RunDir, evaluator: Evaluator, groups: Sequence[tuple[int, ...]], variant: AlignmentVariant = VARIANTS[0]
) -> list[EvalResult]:
    """Metric and loss of the mean of each group of ingredients, aligned with its first one as `variant` says.

    Of one ingredient, exactly its own. Rank-collective: each is one rank's work. Of ingredients as trained at most
    three states are in memory; to align them takes all that are to be mixed.
    """
    return evaluator.results([partial(_average, run, evaluator, group, variant) for group in groups], Role.VALIDATION)


@torch.no_grad()
def _average(run: RunDir, evaluator: Evaluator, group: tuple[int, ...], variant: AlignmentVariant) -> Members:
    states: Iterable[State] = (ingredient_store.read(run.ingredient(index)).state for index in group)
    if variant.align is not None:
        states = variant.align(evaluator.model, list(states))
    total: dict[str, Tensor] = {}
    for state in states:
        for name, tensor in state.items():
            total[name] = total[name] + tensor.double() if name in total else tensor.double()
    return [{name: (tensor / len(group)).float().to(evaluator.device) for name, tensor in total.items()}]
