"""Ways to align ingredients with one another before they are mixed, as a diagnosis compares them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gnnsoup_hpc.alignment import align_states
from gnnsoup_hpc.models.base import Model
from gnnsoup_hpc.types import State

AS_TRAINED = "as trained"


@dataclass(frozen=True)
class AlignmentVariant:
    """`align(model, states)` gives states that compute the same, aligned with the first; None: as they are.

    `setting` is the field of a job that aligns a run's ingredients in this way; empty for none.
    """

    name: str
    setting: str
    align: Callable[[Model, Sequence[State]], Sequence[State]] | None


# The first is what the others are compared with; they are measured where it shows that something is wrong.
VARIANTS = (
    AlignmentVariant(AS_TRAINED, "", None),
    AlignmentVariant("units matched by weights", 'soup.align = "weights"', align_states),
)


def find_variant(name: str) -> AlignmentVariant:
    """The variant of that name."""
    return next(variant for variant in VARIANTS if variant.name == name)
