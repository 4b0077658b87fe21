"""prepare: source -> Graph -> METIS -> graph.h5, by whichever rank takes the lease; the others wait for the file."""

from __future__ import annotations

import time

import torch

from gnnsoup_hpc import graphs, leases
from gnnsoup_hpc.errors import RunError
from gnnsoup_hpc.job import Job
from gnnsoup_hpc.measure import Meter
from gnnsoup_hpc.partition import partitioned
from gnnsoup_hpc.preparation import prepared
from gnnsoup_hpc.progress import Log
from gnnsoup_hpc.ranks import Place
from gnnsoup_hpc.run_dir import RunDir
from gnnsoup_hpc.store import files
from gnnsoup_hpc.store import graph as graph_store

POLL_SECONDS = 0.5


def prepare(job: Job, here: Place, log: Log, again: bool = False) -> None:
    """Make the run's graph.h5 if it is missing (or `again`, by rank 0), and see that it is the job's.

    Rank 0 also checks that the whole file is as it was written; the others rely on the checksums of what they read.

    Raises: RunError where it was made from another [graph] or [partition]; GraphError for a source that cannot be used.
    """
    run = RunDir.of(job)
    if again and here.rank > 0:
        return
    while again or not run.graph.exists():
        with leases.held(run.lease("graph")) as ours:
            if ours:
                if again or not run.graph.exists():
                    _make(job, run, log)
                again = False
        if not ours:
            time.sleep(POLL_SECONDS)
    with graph_store.opened(run.graph, job, verify=here.rank == 0) as graph:
        if here.rank == 0 and graphs.source_sha256(job.graph.source) not in (None, graph.source_sha256):
            raise RunError(
                f"{job.graph.source} has changed since {run.graph} was made from it: give the job a name of its own"
                f" (--set name=…), or run `gnnsoup prepare JOB --again`, and move {run.ingredients} away"
            )


def note_job(job: Job) -> None:
    """Keep the resolved job with the run."""
    run = RunDir.of(job)
    text = job.to_toml()
    if not run.job.exists() or run.job.read_text(encoding="utf-8") != text:
        with files.published(run.job) as private:
            private.write_text(text, encoding="utf-8")


def _make(job: Job, run: RunDir, log: Log) -> None:
    log.say(f"prepare: reading {job.graph.source}")
    meter = Meter(torch.device("cpu"))
    with meter:
        with meter.phase("graph"):
            raw = graphs.load(job.graph)
        graph, preparation = prepared(raw, job.graph.features)
        partition = partitioned(graph, job.partition)
    graph_store.write(run.graph, graph, preparation, partition, job, meter.measurement)
    roles = {name: int((graph.role == value).sum()) for name, value in (("train", 1), ("validation", 2), ("test", 3))}
    log.say(
        f"prepare: {graph.nodes} nodes, {len(graph.indices)} directed entries, {graph.x.shape[1]} features"
        f" ({job.graph.features}), {graph.classes} classes, split {job.graph.split}:"
        f" {roles['train']} train, {roles['validation']} validation, {roles['test']} test"
    )
    log.say(
        f"prepare: {partition.parts} parts, {partition.edge_cut} of {partition.edges} edges cut"
        f" ({partition.edge_cut / max(1, partition.edges):.1%}), largest part {partition.balance:.2f} times the mean,"
        f" {partition.validation_balance:.2f} by validation nodes -> {run.graph}"
    )
