"""Every file name of a run, in one place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gnnsoup_hpc.utils import paths

if TYPE_CHECKING:
    from gnnsoup_hpc.config import Job


@dataclass(frozen=True)
class RunDir:
    """The folder runs/NAME of one job."""

    root: Path

    @classmethod
    def of(cls, job: Job) -> RunDir:
        """The run of `job`."""
        return cls(paths.expand(job.runs, "runs") / job.name)

    @property
    def job(self) -> Path:
        """The resolved job that was last used on this run."""
        return self.root / "job.toml"

    @property
    def graph(self) -> Path:
        """The prepared graph, parts contiguous."""
        return self.root / "graph.h5"

    def first_hop(self, kind: str) -> Path:
        """The first hop of a kind of model on the whole graph."""
        return self.root / f"first-hop-{kind}.h5"

    @property
    def shared_graphs(self) -> Path:
        """Folder of the prepared graphs that all runs beside this one share."""
        return self.root.parent / ".graphs"

    def shared_graph(self, key: str) -> Path:
        """One of them; `graph` is another name of the same file."""
        return self.shared_graphs / f"{key}.h5"

    def graph_lease(self, request: str) -> Path:
        """The lease on making the graph that jobs ask for in those words."""
        return self.shared_graphs / f"{request}.lease"

    @property
    def initial(self) -> Path:
        """The initial state that all ingredients start from."""
        return self.root / "initial.h5"

    @property
    def trunk(self) -> Path:
        """The state that all ingredients branch from, with train.trunk_epochs."""
        return self.root / "trunk.h5"

    @property
    def ingredients(self) -> Path:
        """Folder of the ingredients."""
        return self.root / "ingredients"

    def ingredient(self, index: int) -> Path:
        """File of ingredient `index`."""
        return self.ingredients / f"{index:04d}.h5"

    @property
    def gathered(self) -> Path:
        """Virtual dataset over all ingredients."""
        return self.root / "ingredients.h5"

    @property
    def alignment(self) -> Path:
        """Orders of the ingredients' hidden units."""
        return self.root / "alignment.h5"

    @property
    def soups(self) -> Path:
        """Folder of the soups."""
        return self.root / "soups"

    def soup(self, method: str) -> Path:
        """File of one method's soup."""
        return self.soups / f"{method}.h5"

    def cells(self, method: str) -> Path:
        """Folder of the soups that one method's sweep chooses from."""
        return self.soups / "cells" / method

    def cell(self, method: str, name: str) -> Path:
        """File of one cell of a sweep."""
        return self.cells(method) / f"{name}.h5"

    @property
    def diagnosis(self) -> Path:
        """The diagnosis: whether the ingredients lie in one basin."""
        return self.root / "diagnosis.h5"

    @property
    def report(self) -> Path:
        """The report."""
        return self.root / "report.h5"

    @property
    def logs(self) -> Path:
        """Folder of the logs of batch jobs."""
        return self.root / "logs"

    def progress(self, work: str) -> Path:
        """How far a piece of work is that a rank trains now."""
        return self.root / "leases" / f"{work}.json"

    @property
    def failures(self) -> Path:
        """Folder of what failed."""
        return self.root / "failures"

    def failure(self, work: str) -> Path:
        """Why a piece of work failed when it was last tried; not there once it is done."""
        return self.failures / f"{work}.json"

    def checkpoint(self, work: str) -> Path:
        """Where the training of an ingredient or of the trunk stood last; not there once it is done."""
        return self.root / "checkpoints" / f"{work}.h5"

    def lease(self, work: str) -> Path:
        """The lease on a piece of work, held while a rank does it."""
        return self.root / "leases" / f"{work}.lease"
