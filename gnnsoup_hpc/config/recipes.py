"""Recipes: names for fields of [train] that make ingredients differ. What a job names itself comes before them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from gnnsoup_hpc.config import TrainJob

_DECAY = 5e-4  # beside none


@dataclass(frozen=True)
class Recipe:
    """fields: values by their names in [train], which may depend on the job's others; about: what they do."""

    about: str
    fields: Callable[[TrainJob], dict[str, Any]]


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
    "bagged": Recipe("each is trained on four fifths of the training nodes", lambda how: {"bag": 0.8}),
}
RECIPE_NAMES = ("", *RECIPES)

if TYPE_CHECKING:
    RecipeName = str
else:
    RecipeName = Literal[RECIPE_NAMES]


def follow_recipe(job: TrainJob) -> dict[str, Any]:
    """The fields that a job names, and those of its recipe that it does not."""
    named = job.model_dump(exclude_unset=True)
    fields = RECIPES[job.recipe].fields(job) if job.recipe else {}
    for name, value in fields.items():
        named[name] = value | named.get(name, {}) if isinstance(value, dict) else named.get(name, value)
    return named


def list_overruled(job: TrainJob) -> list[str]:
    """Names of what a job's recipe says otherwise than the job."""
    fields = RECIPES[job.recipe].fields(job) if job.recipe else {}
    flat = {name: (value, getattr(job, name)) for name, value in fields.items() if name != "vary"}
    flat |= {f"vary.{name}": (value, getattr(job.vary, name)) for name, value in fields.get("vary", {}).items()}
    return [name for name, (said, value) in flat.items() if said != value]
