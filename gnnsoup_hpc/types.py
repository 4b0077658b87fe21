"""Aliases and enums that everyone shares. It loads neither torch nor numpy, so that a job is read at once."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    FloatArray = npt.NDArray[np.float32]
    IntArray = npt.NDArray[np.int64]
    ByteArray = npt.NDArray[np.uint8]
    BoolArray = npt.NDArray[np.bool_]
    IndexArray = npt.NDArray[np.int32] | npt.NDArray[np.int64]  # int32 where it holds, for half the memory
    Dense = npt.NDArray[Any]  # a matrix of float32 or float64
    Doubles = npt.NDArray[np.float64]
    Targets = npt.NDArray[Any]  # of nodes: classes (n,) int64, or (n, T) floating, NaN where one is missing
    State = dict[str, Tensor]
else:
    FloatArray = IntArray = ByteArray = BoolArray = IndexArray = Dense = Doubles = Targets = State = Any

Permutation = Mapping[str, IntArray]  # of a model's units: an index array a set of them (models/base.py)

Precision = Literal["float32", "bfloat16"]  # of dense products
Draw = Literal["order", "dropout", "edges", "nodes", "features"]  # what training draws at random
Labels = Literal["training", "all"]  # labels that models are trained on
Start = Literal["shared", "own", "snapshots"]  # what an ingredient starts from
TrainOptimiser = Literal["adam", "adamw"]
Schedule = Literal["constant", "cosine"]  # of the learning rate over epochs
Average = Literal["none", "ema", "swa"]  # of weights over steps, or over epochs
Align = Literal["none", "weights", "activations"]  # how ingredients' units are matched
Recompute = Literal[
    "each", "end", "none"
]  # whose running statistics are recomputed: each candidate's, a soup's, none's
Statistics = Literal["mixed", "own", "anew"]  # a mixture's: as weights are; recomputed but of an ingredient; always
Mode = Literal["train", "fit", "evaluate"]  # how an engine computes logits
TaskKind = Literal["multiclass", "binary", "multilabel", "regression"]
TargetKind = Literal["classes", "multilabel", "regression"]  # what a graph has of its nodes
MetricName = Literal["accuracy", "roc_auc", "average_precision", "f1_micro", "f1_macro", "mae", "r2"]
Grouping = Literal["layer", "tensor", "model"]  # of parameters that share one alpha vector


class Role(IntEnum):
    """What a node's label may be used for."""

    NONE = 0
    TRAIN = 1
    VALIDATION = 2
    TEST = 3


TRAINED_ROLES: Mapping[Labels, tuple[Role, ...]] = {"training": (Role.TRAIN,), "all": (Role.TRAIN, Role.VALIDATION)}
