"""Study files: one job in several settings, each with ingredients made in several ways and over several seeds."""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from gnnsoup_hpc.config import Job, Section
from gnnsoup_hpc.config.loading import bundled_jobs, explain_error, override
from gnnsoup_hpc.errors import JobError, MissingJobError
from gnnsoup_hpc.utils.paths import expand, expand_home

SEEDS = ("train.seed", "graph.split_seed", "soup.seed")  # which a study sets
Tables = Mapping[str, Any]  # of a job, as its file holds them


class StudyFile(Section):
    """A study, as its file has it."""

    name: str = Field(..., pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)
    """names the study: runs/NAME, in which all of its runs lie"""
    runs: str = Field("runs", min_length=1)
    """folder of all runs, relative to where the command is given"""
    seeds: tuple[int, ...] = Field(..., min_length=1)
    """of each setting: train.seed, graph.split_seed and soup.seed"""
    hours: float = Field(0.0, ge=0.0)
    """about what all of it takes, for whoever begins it; 0: not said"""
    job: dict[str, Any] = Field(default_factory=dict)
    """tables of a job, but its name: what all runs have"""
    across: dict[str, dict[str, dict[str, Any]]] = Field(default_factory=dict)
    """settings, an axis each: names of values, and what each sets of the job; every combination is a setting"""
    ingredients: dict[str, dict[str, Any]] = Field(..., min_length=1)
    """ways to make ingredients: names, and what each sets of the job. The first is what the others are compared with.
    One with train.labels = "all" trains for as many epochs as validation chose for the best ingredient of the first"""
    alone: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """one model in place of soups, trained for as many epochs as all ingredients together: names, and what each sets.
    With train.labels = "all" likewise for as many as validation chose"""

    @model_validator(mode="after")
    def _is_distinct(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds = {list(self.seeds)}: each once")
        if both := set(self.ingredients) & set(self.alone):
            raise ValueError(f"{both.pop()!r} is in [ingredients] and in [alone]: give one of them another name")
        if _trains_on_all(next(iter(self.ingredients.values()))):
            raise ValueError(
                "the first of [ingredients] has train.labels = 'all', and others go by the epochs that validation chose"
                " for it: name another one first"
            )
        if empty := [name for name, values in self.across.items() if not values]:
            raise ValueError(f"across.{empty[0]} has no values")
        return self


@dataclass(frozen=True)
class StudyRun:
    """One run of a study.

    way: of making ingredients, or the name of a model alone; own: what that sets; tables: of the whole job.
    """

    setting: tuple[str, ...]
    way: str
    seed: int
    alone: bool
    own: Tables
    tables: Tables

    @property
    def trains_on_all(self) -> bool:
        """Whether labels of validation nodes are trained on too, so that nothing can be chosen by them."""
        return _trains_on_all(self.own)

    @property
    def follows(self) -> bool:
        """Whether its epochs go by what came of the first way of its setting and seed."""
        return self.alone or self.trains_on_all

    @property
    def name(self) -> str:
        """Of its folder."""
        words = (re.sub(r"[^A-Za-z0-9.]+", "-", word).strip("-.") for word in (*self.setting, self.way))
        return "_".join([*words, str(self.seed)])


@dataclass(frozen=True)
class Study:
    """A study file that was read. text: what it says; runs: by setting and seed, those with ingredients first."""

    file: StudyFile
    text: str
    runs: tuple[tuple[StudyRun, ...], ...]

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of what settings consist of."""
        return tuple(self.file.across)

    @property
    def root(self) -> Path:
        """The folder that all of its runs lie in."""
        return expand(self.file.runs, "runs") / self.file.name

    @property
    def path(self) -> Path:
        """Where its results go."""
        return self.root / "study.h5"

    def note(self, run: StudyRun) -> Path:
        """Where the result of a run is kept."""
        return self.root / "results" / f"{run.name}.json"


def list_bundled_studies() -> dict[str, Path]:
    """The study files that come with the package, by their names."""
    return {path.stem: path for path in sorted((bundled_jobs()[0].parent / "studies").glob("*.toml"))}


def read_study(named: str, overrides: Sequence[str] = ()) -> Study:
    """The study in a file of TOML, or a bundled one. overrides: `a.b=value` each, of its [job].

    Raises: JobError naming the file, the key and what is allowed; MissingJobError.
    """
    bundled, place = list_bundled_studies(), expand_home(named)
    if not place.is_file():
        place = bundled.get(named, place)
    if not place.is_file():
        raise MissingJobError(f"there is no study file {named!r} here ({Path.cwd()}); bundled: {', '.join(bundled)}")
    try:
        text = place.read_text(encoding="utf-8-sig")
        file = StudyFile.model_validate(_with_tuples(tomllib.loads(text)))
        file = _override(file, overrides)
    except OSError as error:
        raise MissingJobError(f"{place}: cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise JobError(f"{place}: not valid TOML: {error}") from None
    except ValidationError as error:
        raise JobError(f"{place}: {explain_error(error, StudyFile)}") from None
    study = Study(file, text, tuple(_expand(file)))
    names = [run.name for block in study.runs for run in block]
    if len({name.lower() for name in names}) < len(names):
        raise JobError(f"{place}: two names differ in signs alone, and would be one folder: choose others")
    return study


def _override(file: StudyFile, overrides: Sequence[str]) -> StudyFile:
    """The file with fields of its [job] overridden. Raises: JobError where the study sets such a field itself."""
    job = copy.deepcopy(file.job)
    said = [tables for ways in (file.ingredients, file.alone, *file.across.values()) for tables in ways.values()]
    own = {"name", "runs", *SEEDS, *(key for tables in said for key in _list_keys(tables))}
    for text in overrides:
        override(job, text)
        if (key := text.partition("=")[0].strip()) in own:
            raise JobError(f"--set {text!r}: the study itself says what {key} is of each of its runs: change the file")
    return file.model_copy(update={"job": job})


def _list_keys(tables: Tables, above: str = "") -> Iterator[str]:
    """Dotted names of fields."""
    for key, value in tables.items():
        if isinstance(value, Mapping):
            yield from _list_keys(value, f"{above}{key}.")
        else:
            yield f"{above}{key}"


def _with_tuples(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if key == "seeds" and isinstance(value, list) else value for key, value in tree.items()}


def _expand(file: StudyFile) -> Iterator[tuple[StudyRun, ...]]:
    """The runs of each setting and seed."""
    for setting in product(*file.across.values()):
        own = [axis[name] for axis, name in zip(file.across.values(), setting, strict=True)]
        for seed in file.seeds:
            fixed = _merge([file.job, *own, _nest(dict.fromkeys(SEEDS, seed))])
            yield tuple(
                StudyRun(setting, way, seed, alone, tables, _place(file, _merge([fixed, tables])))
                for alone, ways in ((False, file.ingredients), (True, file.alone))
                for way, tables in ways.items()
            )


def _place(file: StudyFile, tables: dict[str, Any]) -> dict[str, Any]:
    return {**tables, "runs": f"{file.runs}/{file.name}"}


def follow(run: StudyRun, base: Job, chosen_epoch: int) -> dict[str, Any]:
    """Tables of a run that goes by `base`, whose best ingredient was kept after `chosen_epoch` epochs."""
    epochs = chosen_epoch if run.trains_on_all else base.train.ingredients * base.train.epochs
    fields = {"train.epochs": run.own.get("train", {}).get("epochs", epochs)}
    alone = {"train.ingredients": 1, "soup.methods": ["best"]} if run.alone else {}
    return _merge([run.tables, _nest(fields | alone)])


def _trains_on_all(own: Tables) -> bool:
    return bool(own.get("train", {}).get("labels") == "all")


def _nest(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields by their dotted names as tables."""
    found: dict[str, Any] = {}
    for key, value in fields.items():
        table, _, name = key.rpartition(".")
        found.setdefault(table, {})[name] = value
    return found


def _merge(trees: Sequence[Tables]) -> dict[str, Any]:
    """Tables of a job, each with what the later ones set in its place."""
    found: dict[str, Any] = {}
    for tree in trees:
        for key, value in tree.items():
            both = isinstance(value, Mapping) and isinstance(found.get(key), Mapping)
            found[key] = _merge([found[key], value]) if both else value
    return found
