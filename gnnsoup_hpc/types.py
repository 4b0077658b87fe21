"""Names of choices that jobs and records share. It imports nothing but Python's own, so reading a job stays quick."""

from __future__ import annotations

from enum import IntEnum
from typing import Literal

Precision = Literal["float32", "bfloat16"]  # of dense products while souping
Draw = Literal["order", "dropout", "edges"]  # what training draws at random
Start = Literal["shared", "own"]  # whose initial state an ingredient starts from
Align = Literal["none", "weights", "activations"]  # how ingredients' units are matched
Grouping = Literal["layer", "tensor", "model"]  # of parameters that share one alpha vector


class Role(IntEnum):
    """What a node's label may be used for."""

    NONE = 0
    TRAIN = 1
    VALIDATION = 2
    TEST = 3
