"""Souping methods by name, in one explicit table: a file of soup/methods/ and a line each (docs/methods.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

METHODS = {  # name in soup.methods and in file names: module and class in soup/methods/
    "best": "baselines.BestIngredient",
    "uniform": "baselines.Uniform",
    "greedy": "greedy.Greedy",
    "gis": "gis.Gis",
    "ls": "learned.Learned",
    "pls": "learned.PartitionLearned",
    "ensemble": "baselines.Ensemble",
    "distil": "distil.Distil",
}
METHOD_NAMES: tuple[str, ...] = tuple(METHODS)
DEFAULT_METHODS = tuple(
    name for name in METHODS if name != "distil"
)  # which trains, and so takes as long as an ingredient

BLIND = ("uniform", "ensemble")  # methods that look at no label


if TYPE_CHECKING:
    MethodName = str
else:
    MethodName = Literal[METHOD_NAMES]
