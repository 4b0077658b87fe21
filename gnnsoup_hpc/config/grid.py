"""Sweeps of training: each combination of values is an ordinary job, whose run lies inside the run of the sweep."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

from gnnsoup_hpc.config import MOST_CELLS, Job, TrainJob, check_keys, put_values
from gnnsoup_hpc.errors import RunError
from gnnsoup_hpc.utils.hashing import fingerprint

ALL = "all"  # the joint run of a grid of one model
_PLAIN = re.compile(r"[A-Za-z0-9.+-]{1,32}")
_LONGEST = 120  # of a name made of values
_NOT_SWEPT = {
    "train.ingredients": "each combination trains as many",
    "train.checkpoint_seconds": "no result depends on it",
    "train.recipe": "it is a name for other fields, which can be listed",
    "train.labels": "ingredients that were trained on validation labels are not souped with others",
    "train.vary": "it varies values among the ingredients of one run; list values of the field itself here",
    "model.folder": "it says where a module's code is",
    "model.revision": "it names a module's code",
    "model.groups": "no training depends on it",
}


@dataclass(frozen=True)
class GridRun:
    """One combination of a sweep of training.

    job: the whole job with these values, without the sweep of training; values: what was swept, by its dotted names.
    """

    job: Job
    values: Mapping[str, Any]

    @property
    def text(self) -> str:
        """The combination in words."""
        return ", ".join(f"{key} = {value}" for key, value in self.values.items())


@dataclass(frozen=True)
class JointRun:
    """The run in which the ingredients of all runs of a grid with equal models are souped together.

    [train] of its job has no effect.
    """

    job: Job
    runs: tuple[GridRun, ...]

    def count_ingredients(self) -> Job:
        """The job with as many ingredients as all of its runs together, if none is left out."""
        count = sum(run.job.train.ingredients for run in self.runs)
        train = self.job.train.model_copy(update={"ingredients": count})
        return self.job.model_copy(update={"train": train})


def expand_grid(job: Job, kinds: Sequence[str] = ()) -> tuple[GridRun, ...]:
    """All combinations of what [sweep] lists of train and model, the last key's values changing fastest.

    None without such a sweep. kinds: those that model.kind may be, where they are given.
    Raises: ValueError where the sweep names what there is not, or a combination makes no valid job.
    """
    if not job.sweep.trains:
        return ()
    for table in ("train", "model"):
        check_keys(table, getattr(job.sweep, table), getattr(job, table))
    lists = {f"{table}.{key}": of for table in ("model", "train") for key, of in getattr(job.sweep, table).items()}
    for name, why in _NOT_SWEPT.items():
        if name in lists:
            raise ValueError(f"sweep.{name} has no meaning: {why}")
    if 0 in lists.get("train.clusters", ()):
        raise ValueError("sweep.train.clusters = 0 would leave a value to the memory limit: name each")
    if (size := prod(map(len, lists.values()))) > MOST_CELLS:
        raise ValueError(f"the sweep of training has {size} combinations, more than {MOST_CELLS}: give fewer values")
    found = tuple(_make_run(job, dict(zip(lists, values, strict=True)), kinds) for values in product(*lists.values()))
    if len({run.job.name for run in found}) < size:  # 1 and 1.0
        raise ValueError("the sweep of training lists a value twice")
    return found


def list_joint_runs(job: Job) -> tuple[JointRun, ...]:
    """The joint runs of a grid, in the order of the models in its lists; none without a sweep of training."""
    found: dict[str, list[GridRun]] = {}
    for run in expand_grid(job):
        name = _name({key: value for key, value in run.values.items() if key.startswith("model.")})
        found.setdefault(name, []).append(run)
    return tuple(
        JointRun(_place(runs[0].job.model_copy(update={"train": TrainJob()}), job, "joint", name), tuple(runs))
        for name, runs in found.items()
    )


def list_jobs(job: Job) -> tuple[Job, ...]:
    """The jobs that train: those of the grid's runs, or the job itself."""
    return tuple(run.job for run in expand_grid(job)) or (job,)


def choose_joint_run(job: Job) -> Job:
    """The job whose ingredients are souped: of a sweep of training that of its one joint run; else the job itself.

    Raises: RunError where there are several.
    """
    joint_runs = list_joint_runs(job)
    if len(joint_runs) > 1:
        folders = ", ".join(f"{joint.job.runs}/{joint.job.name}" for joint in joint_runs)
        raise RunError(f"the models of {job.name}'s sweep are souped apart: name the folder of one of them, {folders}")
    return joint_runs[0].job if joint_runs else job


def _make_run(job: Job, values: Mapping[str, Any], kinds: Sequence[str]) -> GridRun:
    made = put_values(job, values, kinds)
    tree = made.model_dump(mode="json")
    read = {name: tree[table][key] for name in values for table, key in [name.split(".")]}
    return GridRun(_place(made, job, "grid", _name(read)), read)


def _place(made: Job, job: Job, folder: str, name: str) -> Job:
    """A job made of the sweep's, with its run inside that of the sweep, and what is swept of methods."""
    sweep = job.sweep.model_copy(update={"train": {}, "model": {}})
    return made.model_copy(update={"runs": f"{job.runs}/{job.name}/{folder}", "name": name, "sweep": sweep})


def _name(values: Mapping[str, Any]) -> str:
    """A folder's name made of values: they themselves where they are short and plain, else hashes of them."""
    words = (f"{value}" if _PLAIN.fullmatch(f"{value}") else fingerprint(value)[:16] for value in values.values())
    name = "_".join(f"{key.partition('.')[2]}-{word}" for key, word in zip(values, words, strict=True))
    if len(name) > _LONGEST:
        return fingerprint(name)[:16]
    return name or ALL
