"""All soups of a job: measure each method alone, then, outside of the measurement, its exact metrics.

Every rank runs the same; rank 0 alone looks at files, writes them and says what is done.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gnnsoup_hpc.config import DistilJob, Job, expand_grids, list_starts
from gnnsoup_hpc.errors import RunError, advise
from gnnsoup_hpc.evaluation.evaluator import compute_paired_error, note_judgement
from gnnsoup_hpc.io import alignment as alignment_store
from gnnsoup_hpc.io import files
from gnnsoup_hpc.io import soup as soup_store
from gnnsoup_hpc.io.records import Paired, Recomputed, Soup
from gnnsoup_hpc.io.soup import SoupFingerprint
from gnnsoup_hpc.runtime.gpu import explain_out_of_memory
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.soup.context import SoupContext
from gnnsoup_hpc.soup.methods import make_methods
from gnnsoup_hpc.soup.mixtures import Candidate, Mixtures
from gnnsoup_hpc.soup.selection import Selection
from gnnsoup_hpc.types import BoolArray, Role


@dataclass(frozen=True)
class SoupRunner:
    """One rank's side of a souping job. Its methods are rank-collective over the ranks of `mixtures`."""

    job: Job
    selection: Selection
    mixtures: Mixtures
    log: Log
    # Test nodes that the best ingredient gets right, by its name, once they are known.
    right_of_best: dict[str, BoolArray] = field(default_factory=dict, repr=False)

    def run_all(self, again: bool) -> None:
        """Make every soup of the job that is not there yet in this very configuration (or `again`, all).

        Not those of a sweep (sweep.py). Raises: RunError where distil is to begin at a soup that is not there.
        """
        swept, comm = expand_grids(self.job), self.mixtures.comm
        for start in list_starts(self.job):
            if start not in self.job.soup.methods:  # before anything is made
                self._identify_start(start)
        self.mixtures.warm_up()
        for name in self.job.soup.methods:
            if name in swept:
                continue
            path, wanted = self.mixtures.run.soup(name), self.fingerprint(name).sha256
            look = comm.rank == 0 and not again
            there = files.read_kept(path, soup_store.read_fingerprint, self.log, "soup") if look else None
            if comm.bcast(there == wanted):
                self._forget_checkpoint(name)
                self.log.say(f"soup: {name} is there already")
                continue
            if there is not None:
                self.log.say(f"soup: {name} is there, of other options or ingredients: made anew")
            with explain_out_of_memory(f"soup: {name}"):
                soup = self.make(name, path)
            self.log.say(
                f"soup: {name} done in {soup.measurement['seconds']:.2f} s, validation"
                f" {soup.validation_accuracy:.4f}, test {soup.test_accuracy:.4f}"
            )

    def make(self, name: str, path: Path, work: str = "") -> Soup:
        """Run a method, and publish its soup. work: whose checkpoint it keeps, where that is not the method's.

        Measured from cold: neither graph nor ingredients are in memory when it begins.
        """
        mixtures, fingerprint = self.mixtures, self.fingerprint(name)
        method = make_methods(self.job.soup)[name]
        self._clear()
        context = SoupContext(mixtures, self.job.soup.seed, self.log, job=self.job, work=work or name)
        with mixtures.meter as meter:
            weights = mixtures.comm.bcast(method.run(context))
            candidate = Candidate(weights.alpha, weights.by, weights.of, weights.state)
            start = time.perf_counter()
            state = mixtures.state(candidate)
            seconds = time.perf_counter() - start
        self._clear(exact=True)
        # Test labels are seen here and in _compare alone.
        validation, test = mixtures.predictions(candidate, (Role.VALIDATION, Role.TEST))
        paired, recomputed = self._compare(test.right), None
        if mixtures.evaluator.recomputes and state is not None:
            recomputed = self._compare_statistics(candidate, seconds)
        self._clear()
        soup = Soup(
            method=method.name,
            source=method.source,
            options={"seed": fingerprint.seed} | fingerprint.options,
            ingredients=tuple(fingerprint.ingredients),
            ingredients_sha256=fingerprint.ingredients_sha256,
            left_out=fingerprint.left_out,
            mixture=weights,
            state=state,
            validation_accuracy=validation.metric,
            test_accuracy=test.metric,
            measurement=context.spent or meter.measurement,
            counts=context.counts,
            alignment=mixtures.alignment,
            test_right=None if test.right is None else np.packbits(test.right),
            paired=paired,
            recomputed=recomputed,
            judged=note_judgement(mixtures.evaluator.task, validation, test),
        )
        if mixtures.comm.rank == 0:
            soup_store.write(path, soup, fingerprint, mixtures.model, mixtures.graph.preparation, self.job)
            self._forget_checkpoint(work or name)
        return soup

    def _compare_statistics(self, candidate: Candidate, seconds: float) -> Recomputed:
        """What recomputing running statistics, in so many seconds, changed. Of a mixture of weights."""
        both = Role.VALIDATION, Role.TEST
        mixed, anew = (self.mixtures.predictions(candidate, both, how) for how in ("mixed", "anew"))
        error = compute_paired_error(self.mixtures.evaluator.task, anew[0], mixed[0])
        return Recomputed(*(seconds, *(found.metric for found in (*mixed, *anew)), error))

    def _compare(self, right: BoolArray | None) -> Paired | None:
        """A soup's right test nodes against those of the best ingredient, which is the one that a report compares with.

        So the error of their difference does not depend on which other methods the job lists. None where the metric is
        no share of nodes.
        """
        if right is None:
            return None
        mixtures, index = self.mixtures, self.selection.best(self.mixtures.evaluator.task)
        name = f"{index:04d}"
        if name not in self.right_of_best:
            alone = Candidate(torch.eye(len(mixtures.ids), dtype=torch.float64)[[mixtures.ids.index(index)]])
            found = mixtures.predictions(alone, (Role.VALIDATION, Role.TEST))[1].right
            if found is not None:
                self.right_of_best[name] = found
        best = self.right_of_best[name]
        return Paired(name, int((right & ~best).sum()), int((best & ~right).sum()))

    def _forget_checkpoint(self, work: str) -> None:
        """It is of no use any more, nor of harm."""
        if self.mixtures.comm.rank > 0:
            return
        with suppress(OSError):
            self.mixtures.run.checkpoint(work).unlink(missing_ok=True)

    def _clear(self, exact: bool = False) -> None:
        """On every rank, whatever it is still at, so that no measurement holds what was before."""
        self.mixtures.clear(exact)
        self.mixtures.comm.allgather(None)

    def fingerprint(self, name: str) -> SoupFingerprint:
        """What the soup of a method, and its measurement here, are a function of."""
        mixtures, settings = self.mixtures, self.mixtures.settings
        options = getattr(make_methods(self.job.soup)[name], "options", None)
        precision = self.job.soup.precision
        also: dict[str, Any] = {} if precision == "float32" else {"precision": precision}  # older files know no other
        engine, first = mixtures.evaluator.engine.name, "compiled" if mixtures.device.type == "cpu" else "torch"
        also |= {} if engine == first else {"engine": engine}  # older files name none, and had but the first
        also |= {"groups": list(self.job.model.groups)} if self.job.model.groups else {}
        recompute = self.job.soup.recompute
        also |= {"recompute": recompute} if mixtures.model.statistics and recompute != "each" else {}
        also |= mixtures.graph.resolve_task(self.job.task).values
        if (alignment := mixtures.alignment) is not None:
            also |= {"align": alignment.by, "alignment_sha256": alignment_store.sha256(alignment)}
        if isinstance(options, DistilJob):
            also |= self._identify_start(options.start_method)
            also |= {"labels": self.job.train.labels} if self.job.train.labels != "training" else {}
        return SoupFingerprint(
            method=name,
            options=(options.model_dump(mode="json") if options is not None else {}) | also,
            seed=self.job.soup.seed,
            **self._list_inputs(),
            ranks=mixtures.comm.size,
            threads=settings.threads.most or torch.get_num_threads(),
            device=mixtures.device.type,
            left_out=tuple(self.selection.unfit.values()),
            streamed=not mixtures.evaluator.fits,
        )

    def _list_inputs(self) -> dict[str, Any]:
        """What every soup of the run is made of, as fields of its fingerprint."""
        graph = self.mixtures.graph
        return {
            "graph_sha256": graph.sha256,
            "part_sha256": str(graph.cut["part_sha256"]),
            "ingredients": {f"{index:04d}": sha256 for index, sha256 in self.selection.fit.items()},
        }

    def _identify_start(self, method: str) -> dict[str, str]:
        """As `soup_store.read_start`. Rank-collective.

        Raises: RunError where the soup is not there, or of other ingredients.
        """
        run, comm, found = self.mixtures.run, self.mixtures.comm, dict[str, str]()
        if method and comm.rank == 0:
            path = run.soup(method)
            advice = f"soup.distil.start = {method!r} begins there; list {method!r} before 'distil' in soup.methods"
            with advise(advice):
                found = soup_store.read_start(run, method)
                made_of = soup_store.read_recipe(path).ingredients_sha256
            if made_of != soup_store.hash_ingredients(**self._list_inputs()):
                raise RunError(f"{path} is of other ingredients or parts than those that are here: {advice}")
        return comm.bcast(found)
