"""What a rank needs to train for a run; what costs memory is read when it is first asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from gnnsoup_hpc.config import Job
from gnnsoup_hpc.data import loader
from gnnsoup_hpc.evaluation.evaluator import EvalSettings, Evaluator
from gnnsoup_hpc.graph.sampling import resolve_sampler
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.io.ingredient import Origin
from gnnsoup_hpc.memory import estimate
from gnnsoup_hpc.memory.estimate import Sizes
from gnnsoup_hpc.memory.limits import Limit
from gnnsoup_hpc.models.base import Model
from gnnsoup_hpc.runtime.launch import RankInfo, count_threads, read_slurm_job
from gnnsoup_hpc.runtime.leases import Lease
from gnnsoup_hpc.runtime.profiling import warm_up
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.train.batches import Batches, ClusterBatches, FullBatches, NeighbourBatches
from gnnsoup_hpc.train.checkpointing import CheckpointManager
from gnnsoup_hpc.train.loop import TrainData
from gnnsoup_hpc.train.task_board import TaskBoard
from gnnsoup_hpc.types import Role


@dataclass(frozen=True)
class TrainContext:
    """A rank's place at a run."""

    job: Job
    run: RunDir
    model: Model
    graph: GraphFile
    here: RankInfo
    device: torch.device
    log: Log

    @property
    def provenance(self) -> dict[str, object]:
        """What a file that was trained here says of where that was."""
        here = {"rank": self.here.rank, "ranks": self.here.size, "threads": count_threads(), "device": str(self.device)}
        return here | read_slurm_job()

    def checkpoints(self, work: str, title: str, origin: Origin, lease: Lease) -> CheckpointManager:
        """Who keeps the checkpoint of a piece of work, which is trained under `lease`."""
        return CheckpointManager(self.run.checkpoint(work), title, origin, self.job, lease, self.log, self.provenance)

    @cached_property
    def board(self) -> TaskBoard:
        """Where this rank says what it does."""
        return TaskBoard(self.run, self.here, self.log)

    @cached_property
    def data(self) -> TrainData:
        """What the job's [train] says to train on."""
        warm_up(self.device)
        sizes = Sizes.of(self.graph, self.model, self.device)
        memory = evaluation_bytes(self.job, sizes, Limit.of(self.job, self.here))
        evaluator = Evaluator(self.graph, self.model, EvalSettings(self.device, memory, self.run.root))
        batches = self._batches()
        if isinstance(batches, FullBatches):
            evaluator.keep(batches.validate)  # it is in memory anyway
        return TrainData(self.model, batches, evaluator, self.device)

    def _batches(self) -> Batches:
        how = self.job.train
        if how.batch == "full":
            view = loader.load_whole(self.graph, Role.TRAIN).to(self.device)
            return FullBatches(view, loader.share_graph(self.graph, view, Role.VALIDATION))
        if how.batch == "cluster":
            return ClusterBatches(self.graph, how.clusters, self.device)
        return NeighbourBatches(
            graph=self.graph,
            clusters=how.clusters,
            device=self.device,
            size=how.batch_size,
            fanout=how.fanout,
            layers=self.model.hops or 1,
            sampler=resolve_sampler(how.sampler),
        )


def evaluation_bytes(job: Job, sizes: Sizes, limit: Limit) -> int:
    """What the limit leaves for exact accuracies beside what mini-batches hold."""
    return max(0, limit.room - (estimate.neighbour_store(sizes) if job.train.batch == "neighbour" else 0))
