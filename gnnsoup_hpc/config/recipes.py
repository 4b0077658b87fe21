"""Recipes: names for fields of [train] that make ingredients differ. What a job names itself comes before them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

_DECAY = 5e-4  # beside none


class Named(Protocol):
    """Fields of [train] that recipes depend on."""

    @property
    def epochs(self) -> int:
        """Of an ingredient."""

    @property
    def learning_rate(self) -> float:
        """Adam's."""

    @property
    def weight_decay(self) -> float:
        """Adam's."""


@dataclass(frozen=True)
class Recipe:
    """fields: values by their names in [train], which may depend on the job's others; about: what they do."""

    about: str
    fields: Callable[[Named], dict[str, Any]]


RECIPES = {
    "shared": Recipe("all start from one initial state, and differ in what they draw", lambda how: {}),
    "trunk": Recipe(
        "all branch from a trunk of half as many epochs as each is trained for after it",
        lambda how: {"trunk_epochs": max(1, how.epochs // 2)},
    ),
    "own": Recipe("each starts from an initial state of its own", lambda how: {"start": "own"}),
    "varied": Recipe(
        "learning rates of once, half and twice the job's, and weight decay or none, are taken in turn",
        lambda how: {
            "vary": {
                "learning_rate": (how.learning_rate, how.learning_rate / 2.0, how.learning_rate * 2.0),
                "weight_decay": (how.weight_decay, 0.0 if how.weight_decay else _DECAY),
            }
        },
    ),
    "dropped": Recipe(
        "each step leaves out a fifth of the edges and a fifth of the input features",
        lambda how: {"drop_edges": 0.2, "drop_features": 0.2},
    ),
    "snapshots": Recipe(
        "each goes on from the one before, the learning rate falling along a cosine anew: snapshots of one training",
        lambda how: {"start": "snapshots", "schedule": "cosine"},
    ),
    "tournament": Recipe(
        "all branch from the best of four trunks of a quarter as many epochs as each is trained for after it",
        lambda how: {"trunk_epochs": max(1, how.epochs // 4), "trunk_starts": 4},
    ),
    "bagged": Recipe("each is trained on four fifths of the training nodes", lambda how: {"bag": 0.8}),
}
RECIPE_NAMES = ("", *RECIPES)


def make_fields(recipe: str, named: Named) -> dict[str, Any]:
    """What a recipe, or "", which is none, says of [train] beside what the job names."""
    return RECIPES[recipe].fields(named) if recipe else {}


if TYPE_CHECKING:
    RecipeName = str
else:
    RecipeName = Literal[RECIPE_NAMES]
