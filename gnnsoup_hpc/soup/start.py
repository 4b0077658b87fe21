"""What souping and diagnosis begin with: the graph, the memory limit, fit ingredients, all ranks in step.

What depends on files, memory or the machine is decided by rank 0 and broadcast. The others touch no file before rank 0
has found the run to be right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from gnnsoup_hpc.config import Job, expand_grids
from gnnsoup_hpc.config.task import TaskSpec
from gnnsoup_hpc.data.prepare import check_source
from gnnsoup_hpc.engine import choose_engine
from gnnsoup_hpc.errors import JobError
from gnnsoup_hpc.evaluation.evaluator import EvalSettings
from gnnsoup_hpc.io import graph as graph_store
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.memory import estimate, gpu, limits
from gnnsoup_hpc.memory.estimate import Sizes
from gnnsoup_hpc.memory.limits import Limit
from gnnsoup_hpc.models.base import Model, show_kind
from gnnsoup_hpc.models.registry import make_model_for
from gnnsoup_hpc.runtime import launch
from gnnsoup_hpc.runtime.comm import Comm
from gnnsoup_hpc.runtime.launch import RankInfo
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.soup.mixtures import Mixtures
from gnnsoup_hpc.soup.selection import Selection

Select = Callable[[Job, Model, GraphFile, Log], Selection]


@contextmanager
def open_mixtures(
    job: Job, here: RankInfo, comm: Comm, device: torch.device, log: Log, select: Select
) -> Iterator[tuple[Job, Selection, Mixtures]]:
    """Yield the job with what it left open, its fit ingredients and their mixtures. Rank-collective.

    select: rank 0's choice of ingredients, which raises RunError where none is fit.
    Raises: MemoryLimitError where one of the job's methods does not fit; RunError; FileError.
    """
    run, rank0 = RunDir.of(job), comm.rank == 0
    if not rank0:
        comm.bcast(None)
    with graph_store.open_graph(run.graph, job, verify=True) as graph:
        task = graph.resolve_task(job.task)
        model = make_model_for(graph, job.model, task.outputs)
        _check_meaning(job, task, model, device)
        selection = Selection({}, {})
        if rank0:
            check_source(job, graph, log)
            job = ingredient_store.resolve_job(job, run)
            selection = select(job, model, graph, log)
            comm.bcast(None)
        job, selection = comm.bcast((job, selection))
        sizes, limit = Sizes.of(graph, model, device), Limit.of(job, here, device)
        job = comm.bcast(limits.plan_souping(job, sizes, limit, comm.size)[0])  # has soup.pls.union
        _, demands = limits.plan_souping(job, sizes, limit, comm.size)
        limits.refuse(limit, demands)
        # Bytes that metrics may fill beside the ingredients, on every rank.
        memory = min(comm.allgather(max(0, limit.room - estimate.mixing(model, job.train.ingredients))))
        there = None if limit.gpu is None else max(0, limit.gpu - gpu.mixed(model, job.train.ingredients))
        if names := task.list_unused(job.soup):
            log.say(f"soup: without effect on a regression, whose outputs have no temperature: {', '.join(names)}")
        way = limits.describe_evaluation(sizes, memory, comm.size, there)
        log.say(f"soup: {limits.describe(limit, demands, way)}; {sizes.engine.name} engine on {device}")
        threads = launch.plan_threads(job.machine, here)
        settings = EvalSettings(
            device,
            memory,
            run.root,
            job.soup.precision,
            comm,
            threads,
            gpu=there,
            recompute=job.soup.recompute,
            task=job.task,
        )
        yield job, selection, Mixtures(run, model, list(selection.fit), graph, settings)


def _check_meaning(job: Job, task: TaskSpec, model: Model, device: torch.device) -> None:
    """Raises: JobError for what [soup], or a trial of it, asks and this model, or task, has not."""
    soup, trials = job.soup, expand_grids(job).get("distil", ())
    if soup.precision != "float32" and device.type == "cpu" and choose_engine(model, device).name == "torch":
        raise JobError(
            f"soup.precision = {soup.precision!r}: models of {show_kind(model)} are computed in float32 on a CPU; use"
            " 'float32'"
        )
    temperatures = [each.soup.distil.temperature for each in (job, *(trial.job for trial in trials))]
    temperature = next((each for each in temperatures if each != 1.0), 1.0)
    if "distil" in soup.methods and task.kind == "regression" and temperature != 1.0:
        raise JobError(
            f"soup.distil.temperature = {temperature:g}: outputs of a regression have no temperature; leave it out"
        )
