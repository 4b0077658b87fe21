"""prepare: source -> Graph -> METIS -> graph.h5, by whichever rank takes the lease; the others wait for the file.

A prepared graph is kept once in `.graphs/` beside the runs, under the hash of all that it is a function of
(graph/identity.py). The graph.h5 of a run is another name (a hard link) of the same file, so jobs that want the same
graph share its making and its disk space, and removing a run removes nothing of the others. A graph.h5 that a
mistaken job left behind, and that nothing was computed on, gives way to the job's own.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from gnnsoup_hpc.config import Job
from gnnsoup_hpc.config.task import resolve_task
from gnnsoup_hpc.data import sources
from gnnsoup_hpc.data.partition import cut_in_process, cut_with_metis, partition_graph
from gnnsoup_hpc.data.sources.raw import NO_LABELS, SourceContext, list_few
from gnnsoup_hpc.data.transforms import PreparedRows, prepare_features
from gnnsoup_hpc.errors import FileError, GraphError, RunError
from gnnsoup_hpc.graph import identity
from gnnsoup_hpc.graph.graph import Graph, Partition
from gnnsoup_hpc.io import files
from gnnsoup_hpc.io import graph as graph_store
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.runtime import leases, processes
from gnnsoup_hpc.runtime.launch import RankInfo, describe
from gnnsoup_hpc.runtime.leases import LeaseMonitor
from gnnsoup_hpc.runtime.profiling import Meter
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.types import Role

POLL_SECONDS = 0.5
ENTRIES_TO_CUT_APART = 5_000_000  # METIS takes some seconds for as many


def prepare(job: Job, here: RankInfo, log: Log, again: bool = False, offline: bool = False) -> None:
    """Make the run's graph.h5 if it is missing (or `again`, by rank 0), and see that it is the job's.

    Every rank sees that the whole file is as it was written: what it computes on carries no other checksums.

    Raises: RunError where it was made from another source, [graph] or [partition], and the run has results; GraphError
    for a source that cannot be used; JobError for a task that means nothing on it.
    """
    run = RunDir.of(job)
    if again and here.rank > 0:
        return
    _obtain(job, run, here, log, again, offline)
    if here.rank == 0:
        leases.clear(run.graph_lease(identity.request_key(job)))
        # What killed processes have left of a graph that is made: features may be as large as the graph.
        processes.remove_leftovers(run.shared_graphs)
    with graph_store.open_graph(run.graph, job, verify=True) as graph:
        if here.rank == 0:
            check_source(job, graph, log)
            _say_what_was_read(job, graph, log)
        elif graph.facts is not None:
            identity.check_asked(graph.facts, job.graph, job.graph.source)


def check_source(job: Job, graph: GraphFile, log: Log) -> None:
    """See that what the job names as its source is what the graph was read from; say where that cannot be seen.

    Raises: RunError where other content lies there; GraphError where it holds what the job refuses.
    """
    if graph.facts is not None:
        identity.check_asked(graph.facts, job.graph, job.graph.source)
    found = identity.find(job.graph, graph.source_files, graph.source_sha256)
    known = {Path(file.path).name for file in graph.source_files}
    if found.gone and known and job.graph.source.startswith(("npz:", "pt:")) and found.gone.name not in known:
        raise RunError(
            f"there is no file {found.gone}, and {graph.path} was made from {list_few(sorted(known))}: correct"
            " graph.source, or give the job a name of its own (--set name=…)"
        )
    if found.gone:
        log.say(f"prepare: {found.gone} is not there; {graph.path}, which was made from it, is used as it is")
    if graph.facts is None and job.graph.source.startswith(("npz:", "pt:")):
        log.say(
            f"prepare: {graph.path} was made by an earlier version, which passed over edge weights and some names of"
            " masks and ids without a word; a job of another name (--set name=…) reads the source anew"
        )
    if not found.changed:
        return
    if all(file.path != str(found.changed) for file in graph.source_files):
        raise RunError(
            f"{graph.path} was not made from {found.changed}, which holds other content than its source: name the one"
            " that it was made from (--set graph.source=… or graph.root=…), or give the job a name of its own"
            " (--set name=…)"
        )
    raise RunError(
        f"{found.changed} has changed since {graph.path} was made from it: give the job a name of its own"
        f" (--set name=…), or run `gnnsoup prepare JOB --again`, and move {graph.path.parent / 'ingredients'} away"
    )


def is_made(job: Job) -> bool:
    """Whether the job's graph is there, in its run or among those that runs share, so that preparing is but a link."""
    run = RunDir.of(job)
    return _is_settled(job, run) or graph_store.find_graph(job, run.shared_graphs) is not None


def note_job(job: Job) -> None:
    """Keep the resolved job with the run."""
    run = RunDir.of(job)
    text = job.to_toml()
    if not run.job.exists() or run.job.read_text(encoding="utf-8") != text:
        files.publish_bytes(run.job, text.encode())


def lend_graph(job: Job, jobs: Iterable[Job], log: Log) -> None:
    """Give the graph of a job's run to the runs of other jobs too, which lie inside it."""
    graph = RunDir.of(job).graph
    for other in (RunDir.of(each).graph for each in jobs):
        if not other.exists() or files.read_seal(other) != files.read_seal(graph):
            _link(graph, other, log)


@contextmanager
def open_other(
    source: str, job: Job, own: GraphFile, folder: Path, log: Log, offline: bool = False
) -> Iterator[GraphFile]:
    """Yield another graph in the form of the job's `own` one: edges as [graph] says, features by its mean and scale.

    source: as graph.source; labels and splits are not read. The file of one part is in a private folder beside those of
    `folder`, gone afterwards.
    Raises: JobError, GraphError for a source that cannot be used, or has another number of features.
    """
    asked = job.graph.model_copy(update={"source": source, "split": "random"})
    with files.scratch(folder / "other") as scratch:
        path, context = scratch / "graph.h5", SourceContext(scratch, offline, log.say, NO_LABELS)
        _make_other(path, job.model_copy(update={"graph": asked}), own, context)
        with graph_store.open_file(path) as found:
            yield found


def _make_other(path: Path, job: Job, own: GraphFile, context: SourceContext) -> None:
    """Write the graph of a job's source in the form of another one."""
    with Meter(torch.device("cpu")) as meter:
        with meter.phase("graph"):
            graph = sources.load_unlabelled(job.graph, context)
        source, width = job.graph.source, graph.x.shape[1]
        if width != own.features:
            raise GraphError(
                f"{source}: x has {width} features a node, and the run's models were trained on {own.features}: give"
                f" raw features of shape (V, {own.features})"
            )
        if graph.edge_attr is not None and graph.edge_attr.shape[1] != own.edge_features:
            raise GraphError(
                f"{source}: {graph.edge_attr.shape[1]} features an edge, and the run's models were trained on"
                f" {own.edge_features}: give features of edges of shape (E, {own.edge_features})"
            )
        context.say(f"predict: {source}: {graph.nodes} nodes, {len(graph.indices)} directed entries")
        for note in graph.notes:
            context.say(f"predict: {note}")
        prepared = replace(graph, x=PreparedRows(graph.x, own.preparation, source))
        graph_store.write(path, prepared, own.preparation, _leave_whole(graph), job, meter.read)


def _leave_whole(graph: Graph) -> Partition:
    """One part, which METIS has no part in."""
    nodes = np.arange(graph.nodes)
    ptr, edges = np.array([0, graph.nodes]), len(graph.indices) // 2
    return Partition(np.zeros_like(nodes), nodes, ptr, 0, edges, 1.0, 1.0, {"parts": 1})


def _obtain(job: Job, run: RunDir, here: RankInfo, log: Log, again: bool, offline: bool) -> None:
    """Return when graph.h5 is there, made or linked by us or by whoever was first."""
    lease = run.graph_lease(identity.request_key(job))
    monitor, said = LeaseMonitor(), False
    while again or not _is_settled(job, run):
        with leases.hold(lease, describe(here), monitor) as ours:
            if ours:
                if not again and _is_settled(job, run):  # made since we looked, before the lease was ours
                    return
                shared = None if again else graph_store.find_graph(job, run.shared_graphs)
                if shared is None or not _is_whole(shared, job, log):
                    shared = _make(job, run, log, again, offline)
                if other := _find_replaceable(job, run):
                    log.say(f"prepare: {other}; nothing was computed on it, so the job's graph takes its place")
                if again or other or not run.graph.exists():
                    _link(shared, run.graph, log)
                return
        if not said:
            log.say(f"prepare: waiting for {leases.describe_holder(lease)}, who prepares {job.graph.source}")
            said = True
        time.sleep(POLL_SECONDS)


def _is_settled(job: Job, run: RunDir) -> bool:
    """Whether the run has a graph.h5 that stays, be it the job's or one that the job is refused for."""
    return run.graph.exists() and not _find_replaceable(job, run)


def _find_replaceable(job: Job, run: RunDir) -> str:
    """How the run's graph.h5 differs from the job's, if nothing is lost without it; else "".

    Nothing is where the run has no results, and the file has another name among the graphs that runs share.
    """
    if not run.graph.exists() or run.has_results():
        return ""
    if not any(path.samefile(run.graph) for path in run.shared_graphs.glob("*.h5")):
        return ""
    try:
        with graph_store.open_file(run.graph) as graph:
            if (difference := graph_store.find_difference(graph, job)) is not None:
                key, made, wanted = difference
                return f"{run.graph} was made with {key} = {made!r}, the job says {wanted!r}"
            changed = identity.find(job.graph, graph.source_files, graph.source_sha256).changed
            return f"{run.graph} was made from other content than {changed} holds now" if changed else ""
    except FileError:  # whoever opens it says what is wrong with it
        return ""


def _is_whole(shared: Path, job: Job, log: Log) -> bool:
    """Whether a shared graph that is there is whole."""
    try:
        with graph_store.open_graph(shared, job, verify=True):
            log.say(f"prepare: {shared} is there already")
            return True
    except RunError as error:
        log.say(f"prepare: {error}; made again")
        return False


def _link(shared: Path, graph: Path, log: Log) -> None:
    """Give the shared file the run's name too; a copy where the file system knows no hard links."""
    with files.publish(graph) as private:
        try:
            os.link(shared, private)
        except OSError as error:
            log.say(f"prepare: {graph} is a copy of {shared}, since it cannot be a link: {error.strerror}")
            shutil.copyfile(shared, private)


def _make(job: Job, run: RunDir, log: Log, again: bool, offline: bool) -> Path:
    """Read the source, and make the graph among those that runs share, unless it turns out to be there; its path."""
    log.say(f"prepare: reading {job.graph.source}")
    place = run.shared_graph(identity.request_key(job))
    with files.scratch(place) as folder, Meter(torch.device("cpu")) as meter:
        with meter.phase("graph"):
            raw = sources.load(job.graph, SourceContext(folder, offline, log.say, job.task.kind))
        shared = run.shared_graph(identity.graph_key(job, raw.facts, raw.source_sha256))
        if shared.exists() and not again and _is_whole(shared, job, log):
            return shared
        resolve_task(job.task, raw.targets, raw.classes, raw.source)  # refused before anything is made for it
        graph, preparation = prepare_features(raw, job.graph.features)
        apart = len(graph.indices) > ENTRIES_TO_CUT_APART
        cut = partial(cut_in_process, folder, meter, log) if apart else cut_with_metis
        partition = partition_graph(graph, job.partition, cut)
        _describe_graph(job, graph, partition, log)
        graph_store.write(shared, graph, preparation, partition, job, meter.read)
    spent = meter.measurement
    log.say(f"prepare: {spent['seconds']:.1f} s, peak memory {spent['peak_host_bytes'] / 2**20:.0f} MiB -> {shared}")
    return shared


def _describe_graph(job: Job, graph: Graph, partition: Partition, log: Log) -> None:
    kept = ", kept sparse" if identity.keeps_sparse(job.graph, graph.facts) else ""
    labels = "classes" if graph.targets == "classes" else f"target{'s' if graph.classes > 1 else ''} a node"
    log.say(
        f"prepare: {graph.nodes} nodes, {graph.source_edges} edges in the source, {len(graph.indices)} directed"
        f" entries, {graph.x.shape[1]} features ({job.graph.features}{kept}), {graph.classes} {labels}"
    )
    log.say(
        f"prepare: {partition.parts} parts, {partition.edge_cut} of {partition.edges} edges cut"
        f" ({partition.edge_cut / max(1, partition.edges):.1%}), largest part {partition.balance:.2f} times the mean,"
        f" {partition.validation_balance:.2f} by validation nodes"
    )


def _say_what_was_read(job: Job, graph: GraphFile, log: Log) -> None:
    """Which split was taken, what preparing had to say of the source, and what the job sets in vain."""
    counts = np.bincount(graph.role(0, graph.nodes), minlength=len(Role))
    log.say(
        f"prepare: {counts[Role.TRAIN]} nodes to train, {counts[Role.VALIDATION]} to validate, {counts[Role.TEST]} to"
        f" test; split: {graph.split or job.graph.split}"
    )
    log.say(f"prepare: task: {graph.resolve_task(job.task).words}")
    for note in graph.notes:
        log.say(f"prepare: {note}")
    if graph.facts is not None and (names := ", ".join(identity.without_effect(job, graph.facts))):
        log.say(f"prepare: without effect on this graph: {names}")
