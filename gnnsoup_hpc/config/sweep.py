"""Sweeps: lists of values for methods' hyperparameters and for the seed, and the grid of cells that they make."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Annotated, Any, Generic, Literal, Protocol, Self, TypeVar

from pydantic import Field, SerializerFunctionWrapHandler, ValidationError, field_validator, model_serializer

from gnnsoup_hpc.config.base import Section, Seed

SweptName = Literal["gis", "ls", "pls"]
SWEPT: tuple[SweptName, ...] = ("gis", "ls", "pls")
SEEDED: tuple[SweptName, ...] = ("ls", "pls")  # methods that draw anything
MOST_CELLS = 10_000
Values = Annotated[tuple[Any, ...], Field(strict=False, min_length=1)]


class SweepJob(Section):
    """Lists of values; a method is made with each combination of its own."""

    seed: tuple[Seed, ...] = Field(
        (), min_length=1, strict=False, description="seeds to make each combination of ls and pls with, for soup.seed"
    )
    gis: dict[str, Values] = Field(default_factory=dict, description="values for fields of soup.gis, a list each")
    ls: dict[str, Values] = Field(default_factory=dict, description="values for fields of soup.ls, a list each")
    pls: dict[str, Values] = Field(
        default_factory=dict, description="values for fields of soup.pls, a list each: learning_rate = [0.1, 0.3]"
    )

    @field_validator("seed", "gis", "ls", "pls")
    @classmethod
    def _each_once(cls, given: Any) -> Any:
        lists = given if isinstance(given, dict) else {"seed": given}
        for key, values in lists.items():
            if any(type(a) is type(b) and a == b for n, a in enumerate(values) for b in values[:n]):
                raise ValueError(f"{key} = {list(values)} lists a value twice")
        return given

    @model_serializer(mode="wrap")
    def _without_what_is_empty(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A job without a sweep is written as it was before there were any."""
        return {key: value for key, value in whole(self).items() if value}

    def __bool__(self) -> bool:
        """Whether anything is swept."""
        return bool(self.seed or self.gis or self.ls or self.pls)


class Sweepable(Protocol):
    """What a sweep asks of a job, which is a section above this one."""

    @property
    def sweep(self) -> SweepJob:
        """The lists."""

    @property
    def soup(self) -> Any:
        """The methods' own values."""

    def model_dump(self, *, exclude: set[str]) -> dict[str, Any]:
        """As tables."""

    @classmethod
    def model_validate(cls, obj: Any) -> Self:
        """From tables."""


JobType = TypeVar("JobType", bound=Sweepable)


@dataclass(frozen=True)
class Trial(Generic[JobType]):
    """One combination. job: the whole job with these values and without a sweep; values: what was swept, by its key."""

    method: SweptName
    job: JobType
    values: Mapping[str, Any]

    @property
    def text(self) -> str:
        """The combination in words."""
        return ", ".join(f"{key} = {value}" for key, value in self.values.items())


def expand_grids(job: JobType) -> dict[SweptName, tuple[Trial[JobType], ...]]:
    """The cells of each method that is swept, in the order of the lists, the last key's values changing fastest.

    Raises: ValueError where the sweep names what there is not, or a combination makes no valid job.
    """
    sweep = job.sweep
    found: dict[SweptName, tuple[Trial[JobType], ...]] = {}
    for method in SWEPT:
        lists = _lists(job, method)
        if not lists:
            continue
        if method not in job.soup.methods:
            raise ValueError(
                f"sweep.{method} is given, but soup.methods has no {method!r}: add it, or leave the lists out"
            )
        size = prod(map(len, lists.values()))
        if size > MOST_CELLS:
            raise ValueError(f"sweep.{method} has {size} combinations, more than {MOST_CELLS}: give fewer values")
        combinations = (dict(zip(lists, values, strict=True)) for values in product(*lists.values()))
        found[method] = tuple(Trial(method, _job(job, method, values), values) for values in combinations)
    if sweep.seed and not any(method in found for method in SEEDED):
        raise ValueError("sweep.seed is for ls and pls, and soup.methods has neither")
    return found


def _lists(job: Sweepable, method: SweptName) -> dict[str, tuple[Any, ...]]:
    """What is swept of a method: its seeds, then its own fields."""
    own: dict[str, tuple[Any, ...]] = getattr(job.sweep, method)
    known = type(getattr(job.soup, method)).model_fields
    for key in own:
        if key not in known:
            near = difflib.get_close_matches(key, list(known), n=1, cutoff=0.0)[0]
            raise ValueError(f"unknown key 'sweep.{method}.{key}'; the nearest known one is 'sweep.{method}.{near}'")
    if method == "pls" and 0 in own.get("union", ()):
        raise ValueError("sweep.pls.union = 0 would leave a value to the memory limit: name each")
    seeds = method in SEEDED and job.sweep.seed and method in job.soup.methods
    return ({"seed": job.sweep.seed} if seeds else {}) | own


def _job(job: JobType, method: SweptName, values: Mapping[str, Any]) -> JobType:
    """The job with a combination in place. Raises: ValueError where that is no valid job."""
    tree = job.model_dump(exclude={"sweep"})
    own = {key: value for key, value in values.items() if key != "seed"}
    tree["soup"][method] |= own
    tree["soup"]["seed"] = values.get("seed", job.soup.seed)
    try:
        return type(job).model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        message = str(first["msg"]).removeprefix("Value error, ")
        raise ValueError(f"with {_told(method, own)}: {message[0].lower()}{message[1:]}") from None


def _told(method: SweptName, values: Mapping[str, Any]) -> str:
    return ", ".join(f"sweep.{method}.{key} = {value!r}" for key, value in values.items())
