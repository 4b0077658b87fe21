"""All soups of a job: measure each method alone, then, outside of the measurement, its exact accuracies."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from gnnsoup_hpc.config import Job, expand_grids
from gnnsoup_hpc.errors import FileError
from gnnsoup_hpc.io import alignment as alignment_store
from gnnsoup_hpc.io import glance
from gnnsoup_hpc.io import soup as soup_store
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.io.records import Paired, Soup
from gnnsoup_hpc.io.soup import SoupFingerprint
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.soup.context import SoupContext
from gnnsoup_hpc.soup.methods import make_methods
from gnnsoup_hpc.soup.protocol import SoupMethod
from gnnsoup_hpc.soup.ranking import rank_by_accuracy
from gnnsoup_hpc.soup.selection import Selection
from gnnsoup_hpc.soup.station import Candidate, MixtureEvaluator
from gnnsoup_hpc.soup.team import Team
from gnnsoup_hpc.types import BoolArray, Role


@dataclass(frozen=True)
class SoupRunner:
    """Rank 0's side of a souping job."""

    job: Job
    run: RunDir
    architecture: Architecture
    graph: GraphFile
    selection: Selection
    station: MixtureEvaluator
    team: Team
    log: Log
    # Test nodes that the best ingredient gets right, by its name, once they are known.
    right_of_best: dict[str, BoolArray] = field(default_factory=dict, repr=False)

    def cook_all(self, again: bool) -> None:
        """Make every soup of the job that is not there yet in this very configuration (or `again`, all).

        Not those of a sweep (sweep.py).
        """
        methods, swept = make_methods(self.job.soup), expand_grids(self.job)
        self.team.tell("warm")
        self.station.warm_up()
        for name in self.job.soup.methods:
            if name in swept:
                continue
            recipe = self.recipe(methods[name])
            if not again and self._is_there(recipe):
                self.log.say(f"soup: {name} is there already")
                continue
            soup = self.cook(methods[name], recipe)
            path = self.run.soup(name)
            soup_store.write(path, soup, recipe, self.architecture, self.graph.preparation, self.job)
            self.log.say(
                f"soup: {name} done in {soup.measurement['seconds']:.2f} s, validation"
                f" {soup.validation_accuracy:.4f}, test {soup.test_accuracy:.4f}"
            )

    def cook(self, method: SoupMethod, recipe: SoupFingerprint) -> Soup:
        """One method, measured from cold: neither graph nor ingredients are in memory when it begins."""
        self._clear()
        kitchen = SoupContext(self.station, self.team, self.job.soup.seed, self.log)
        with self.station.meter as meter:
            mixture = method.cook(kitchen)
            taste = Candidate(mixture.alpha, mixture.by, mixture.of)
            state = self.station.state(taste)
        self._clear(exact=True)
        roles = Role.VALIDATION, Role.TEST
        validation, test = self.team.marks(self.station, taste, roles)  # test labels are seen here and in _paired alone
        paired = self._paired(test.right)
        self._clear()
        return Soup(
            method=method.name,
            source=method.source,
            options={"seed": recipe.seed} | recipe.options,
            ingredients=tuple(recipe.ingredients),
            shelf_sha256=recipe.shelf_sha256,
            left_out=recipe.left_out,
            mixture=mixture,
            state=state,
            validation_accuracy=validation.accuracy,
            test_accuracy=test.accuracy,
            measurement=meter.measurement,
            counts=kitchen.counts,
            alignment=self.station.alignment,
            test_right=np.packbits(test.right),
            paired=paired,
        )

    def _paired(self, right: BoolArray) -> Paired:
        """A soup's right test nodes against those of the best ingredient, which is the one that a report compares with.

        So the error of their difference does not depend on which other methods the job lists.
        """
        ids = list(self.selection.fit)
        told = [glance.model(self.run.ingredient(index), "ingredient").validation_accuracy for index in ids]
        place = rank_by_accuracy(told, ids)[0]
        name = f"{ids[place]:04d}"
        if name not in self.right_of_best:
            alone = Candidate(torch.eye(len(ids), dtype=torch.float64)[place : place + 1])
            self.right_of_best[name] = self.team.marks(self.station, alone, (Role.VALIDATION, Role.TEST))[1].right
        best = self.right_of_best[name]
        return Paired(name, int((right & ~best).sum()), int((best & ~right).sum()))

    def _clear(self, exact: bool = False) -> None:
        """On every rank, whatever it is still at."""
        self.team.tell("clear", exact)
        self.team.meet()
        self.station.clear(exact)

    def _is_there(self, recipe: SoupFingerprint) -> bool:
        path = self.run.soup(recipe.method)
        if not path.exists():
            return False
        try:
            return soup_store.read_fingerprint(path) == recipe.sha256
        except FileError as error:
            self.log.say(f"soup: {error}; made again")
            return False

    def recipe(self, method: SoupMethod) -> SoupFingerprint:
        """What the soup of a method, and its measurement here, are a function of."""
        options = getattr(method, "options", None)
        precision = self.job.soup.precision
        also: dict[str, str] = {} if precision == "float32" else {"precision": precision}  # older files know no other
        if (alignment := self.station.alignment) is not None:
            also |= {"align": alignment.by, "alignment_sha256": alignment_store.sha256(alignment)}
        return SoupFingerprint(
            method=method.name,
            options=(options.model_dump(mode="json") if options is not None else {}) | also,
            seed=self.job.soup.seed,
            graph_sha256=self.graph.sha256,
            part_sha256=str(self.graph.cut["part_sha256"]),
            ingredients={f"{index:04d}": sha256 for index, sha256 in self.selection.fit.items()},
            ranks=self.team.size,
            threads=torch.get_num_threads(),
            device=self.station.device.type,
            left_out=tuple(self.selection.unfit.values()),
            streamed=self.station.streams,
        )
