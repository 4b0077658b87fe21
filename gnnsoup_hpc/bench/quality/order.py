"""What the parent and the children of the time to quality agree on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from gnnsoup_hpc import config as jobs
from gnnsoup_hpc.config import Job

PLAIN = "plain"  # GIS as the published program does it, by stock PyG
METHODS = ("gis", "ls", "pls")
LEARNED = ("ls", "pls")


@dataclass(frozen=True)
class QualityOrder:
    """What one child measures: `what` is PLAIN or a method of ours, `passing` "time" or "memory".

    `job` is the resolved job's tree and `ids` its fit ingredients. Of plain GIS, `sampled` evaluations are timed, all
    if it is 0. Of learned methods, each of the first 10 steps is judged and then each `judge_every`-th.
    `memory_bytes` bounds the child's private memory; 0 = unbounded.
    """

    job: Mapping[str, Any]
    ids: tuple[int, ...]
    what: str
    passing: str
    seed: int
    threads: int
    sampled: int = 0
    judge_every: int = 5
    memory_bytes: int = 0

    @property
    def its_job(self) -> Job:
        """The job that it is about."""
        return jobs.validate(self.job, "the order")

    def to_json(self) -> str:
        """As a child reads it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> QualityOrder:
        """What `to_json` wrote."""
        tree: dict[str, Any] = json.loads(text)
        return cls(ids=tuple(tree.pop("ids")), **tree)


def evaluations(ingredients: int, granularity: int) -> int:
    """Evaluations of the whole graph that GIS makes: one an ingredient, then `granularity` for each but the first."""
    return ingredients + granularity * (ingredients - 1)
