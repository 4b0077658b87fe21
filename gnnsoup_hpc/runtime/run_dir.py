"""Every file name of a run, in one place."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gnnsoup_hpc.utils import paths

if TYPE_CHECKING:
    from gnnsoup_hpc.config import Job


class RunDir:
    """The folder runs/NAME of one job. A work is an ingredient, the trunk, or a trial of a sweep.

    In that of a sweep of training, grid/NAME and joint/NAME are runs again (config/grid.py).
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.job = root / "job.toml"  # the resolved job that was last used on this run
        self.graph = root / "graph.h5"  # the prepared graph, parts contiguous
        self.shared_graphs = root.parent / ".graphs"  # prepared graphs that all runs beside this one share
        self.initial = root / "initial.h5"  # the initial state that all ingredients start from
        self.trunk = root / "trunk.h5"  # the state that all ingredients branch from, with train.trunk_epochs
        self.ingredients = root / "ingredients"
        self.imported = root / "imported.h5"  # which files the ingredients were imported from, if they were
        self.gathered = root / "ingredients.h5"  # virtual dataset over all ingredients
        self.alignment = root / "alignment.h5"  # orders of the ingredients' hidden units
        self.soups = root / "soups"
        self.diagnosis = root / "diagnosis.h5"  # whether the ingredients lie in one basin
        self.report = root / "report.h5"
        self.page = root / "report.html"  # the report as pictures and tables, for a browser
        self.logs = root / "logs"  # of batch jobs
        self.failures = root / "failures"

    @property
    def trunk_starts(self) -> Path:
        """The best trunk of the starts that are over, while others are to come; gone once the trunk is there."""
        return self.checkpoint("trunk-starts")

    @classmethod
    def of(cls, job: Job) -> RunDir:
        """The run of `job`."""
        return cls(paths.expand(job.runs, "runs") / job.name)

    def has_results(self) -> bool:
        """Whether more is in the folder than the graph, the job, logs and notes of what failed: results, leases."""
        there = set(self.root.glob("[!.]*")) - {self.graph, self.job, self.logs, self.failures}
        return any(not path.is_dir() or any(path.iterdir()) for path in there)

    def first_hop(self, kind: str) -> Path:
        """The first aggregation of a kind of model on the whole graph."""
        return self.root / f"first-hop-{kind}.h5"

    def shared_graph(self, key: str) -> Path:
        """One of the graphs that runs share; `graph` is another name of the same file."""
        return self.shared_graphs / f"{key}.h5"

    def graph_lease(self, request: str) -> Path:
        """The lease on making the graph that jobs ask for in those words."""
        return self.shared_graphs / f"{request}.lease"

    def ingredient(self, index: int) -> Path:
        """File of ingredient `index`."""
        return self.ingredients / f"{index:04d}.h5"

    def teacher(self, temperature: float) -> Path:
        """Mean outputs of all ingredients at a temperature, which distil imitates."""
        return self.root / f"teacher{_describe_temperature(temperature)}.h5"

    def outputs(self, name: str, temperature: float) -> Path:
        """One ingredient's outputs, while what distil imitates is made of them."""
        return self.root / f"outputs{_describe_temperature(temperature)}" / f"{name}.h5"

    def soup(self, method: str) -> Path:
        """File of one method's soup."""
        return self.soups / f"{method}.h5"

    def cells(self, method: str) -> Path:
        """Folder of the soups that one method's sweep chooses from."""
        return self.soups / "cells" / method

    def cell(self, method: str, name: str) -> Path:
        """File of one trial of a sweep."""
        return self.cells(method) / f"{name}.h5"

    def progress(self, work: str) -> Path:
        """How far a work is that a rank trains now."""
        return self.root / "leases" / f"{work}.json"

    def failure(self, work: str) -> Path:
        """Why a work failed when it was last tried; not there once it is done."""
        return self.failures / f"{work}.json"

    def checkpoint(self, work: str) -> Path:
        """Where the training of a work stood last; not there once it is done."""
        return self.root / "checkpoints" / f"{work}.h5"

    def lease(self, work: str) -> Path:
        """The lease on a work, held while a rank does it."""
        return self.root / "leases" / f"{work}.lease"


def _describe_temperature(temperature: float) -> str:
    """In names of files; none at 1."""
    return "" if temperature == 1.0 else f"-{temperature!r}"
