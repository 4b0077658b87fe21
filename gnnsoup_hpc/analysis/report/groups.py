"""Which runs may be averaged: those that differ in their seeds alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from gnnsoup_hpc.analysis.report.rows import Contents
from gnnsoup_hpc.config.turns import without_effect

# Fields of a job in which runs of one average may differ: they decide what is drawn at random, and nothing else.
SEEDS = ("train.seed", "soup.seed", "graph.split_seed", "graph.split_index", "partition.seed")
# Fields that no accuracy of a method depends on. The source is told by its content, wherever it lies.
_WITHOUT_EFFECT = (
    *("name", "runs", "graph.source", "graph.root", "train.checkpoint_seconds"),
    *("soup.methods", "soup.unfit", "soup.diagnose"),
)


@dataclass(frozen=True)
class GroupKey:
    """A run with what it was made by."""

    run: Contents

    @cached_property
    def fields(self) -> Mapping[str, Any]:
        """Fields of the job that have an effect, by their dotted names; seeds too."""
        tree = self.run.job.model_dump(mode="json", exclude={"machine", "graph", "partition"})
        fields = dict(_flat(tree)) | dict(self.run.graph_made_with)
        unused = {*_WITHOUT_EFFECT, *without_effect(self.run.job)}
        return {key: value for key, value in fields.items() if key not in unused}

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """What must be equal in runs of one average."""
        job, run = self.run.job, self.run
        own = {key: value for key, value in self.fields.items() if key not in SEEDS}
        kind = job.graph.source.partition(":")[0]
        return {"graph": [kind, run.source_sha256], "ingredients": len(run.ingredients)} | own

    def repeats(self, other: GroupKey) -> bool:
        """Whether two runs of one average are one experiment: equal seeds, or one shelf souped with one seed."""
        if {key: self.fields.get(key) for key in SEEDS} == {key: other.fields.get(key) for key in SEEDS}:
            return True
        shelves = {one.run.soups[0].shelf_sha256 for one in (self, other)}
        return len(shelves) == 1 and self.run.job.soup.seed == other.run.job.soup.seed

    def shown(self, key: str) -> str:
        """A setting for people."""
        return self.run.job.graph.source if key == "graph" else str(self.settings.get(key, "-"))


def group_runs(runs: Sequence[Contents]) -> tuple[list[list[GroupKey]], list[str]]:
    """Runs that may be averaged together, in their order, and a sentence for each run that repeats another one."""
    groups: list[list[GroupKey]] = []
    repeats: list[str] = []
    for one in map(GroupKey, runs):
        group = next((group for group in groups if group[0].settings == one.settings), None)
        first = next((known for known in group or () if known.repeats(one)), None)
        if first is not None:
            repeats.append(f"{one.run.run.root} is the same experiment as {first.run.run.root}, and is counted once.")
        elif group is None:
            groups.append([one])
        else:
            group.append(one)
    return groups, repeats


def differences(groups: Sequence[Sequence[GroupKey]]) -> list[str]:
    """Settings that all groups have and in which they differ, `graph` first."""
    heads = [group[0].settings for group in groups]
    keys = [key for key in heads[0] if all(key in head for head in heads)]
    return [key for key in keys if any(head[key] != heads[0][key] for head in heads)]


def _flat(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value
