"""A metric of which a low value is good."""

from __future__ import annotations

from dataclasses import dataclass

from gnnsoup_hpc.evaluation.tasks import Multiclass
from gnnsoup_hpc.types import IntArray


@dataclass(frozen=True)
class ErrorRate(Multiclass):
    """1 - accuracy."""

    higher_is_better: bool = False

    def metric(self, predicted: IntArray, targets: IntArray, recorded: bool = False) -> float:
        return 1.0 - super().metric(predicted, targets, recorded)
