"""What a rank needs to train for a run; what costs memory is read when it is first asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from gnnsoup_hpc import budget, stream
from gnnsoup_hpc.budget import Sizes
from gnnsoup_hpc.evaluate import Evaluator
from gnnsoup_hpc.job import Job
from gnnsoup_hpc.leases import Lease
from gnnsoup_hpc.limits import Limit
from gnnsoup_hpc.measure import warm_up
from gnnsoup_hpc.models import Architecture
from gnnsoup_hpc.progress import Log
from gnnsoup_hpc.ranks import Place, slurm_job, threads
from gnnsoup_hpc.records import Role
from gnnsoup_hpc.run_dir import RunDir
from gnnsoup_hpc.sampling import resolved
from gnnsoup_hpc.store.checkpoint import Made
from gnnsoup_hpc.store.graph import GraphFile
from gnnsoup_hpc.train.batches import Batches, ClusterBatches, FullBatches, NeighbourBatches
from gnnsoup_hpc.train.keeper import Keeper
from gnnsoup_hpc.train.loop import Course
from gnnsoup_hpc.train.noticeboard import Board


@dataclass(frozen=True)
class Bench:
    """A rank's place at a run."""

    job: Job
    run: RunDir
    architecture: Architecture
    graph: GraphFile
    here: Place
    device: torch.device
    log: Log

    @property
    def provenance(self) -> dict[str, object]:
        """What a file that was trained here says of where that was."""
        here = {"rank": self.here.rank, "ranks": self.here.size, "threads": threads(), "device": str(self.device)}
        return here | slurm_job()

    def keeper(self, work: str, title: str, origin: Made, lease: Lease) -> Keeper:
        """Who keeps the checkpoint of a piece of work, which is trained under `lease`."""
        return Keeper(self.run.checkpoint(work), title, origin, self.job, lease, self.log, self.provenance)

    @cached_property
    def board(self) -> Board:
        """Where this rank says what it does."""
        return Board(self.run, self.here, self.log)

    @cached_property
    def course(self) -> Course:
        """What the job's [train] says to train on."""
        warm_up(self.device)
        sizes = Sizes.of(self.graph, self.architecture, self.device.type == "cuda")
        memory = evaluation_bytes(self.job, sizes, Limit.of(self.job, self.here))
        evaluator = Evaluator(self.graph, self.architecture, memory, self.run.root, self.device)
        batches = self._batches()
        if isinstance(batches, FullBatches):
            evaluator.keep(batches.validation)  # it is in memory anyway
        return Course(self.architecture, batches, evaluator, self.device)

    def _batches(self) -> Batches:
        how = self.job.train
        if how.batch == "full":
            view = stream.whole(self.graph, Role.TRAIN).to(self.device)
            return FullBatches(view, stream.same_graph(self.graph, view, Role.VALIDATION))
        if how.batch == "cluster":
            return ClusterBatches(self.graph, how.clusters, self.device)
        return NeighbourBatches(
            graph=self.graph,
            clusters=how.clusters,
            device=self.device,
            size=how.batch_size,
            fanout=how.fanout,
            layers=self.architecture.layers,
            sampler=resolved(how.sampler),
        )


def evaluation_bytes(job: Job, sizes: Sizes, limit: Limit) -> int:
    """What the limit leaves for exact accuracies beside what mini-batches hold."""
    return max(0, limit.room - (budget.neighbour_store(sizes) if job.train.batch == "neighbour" else 0))
