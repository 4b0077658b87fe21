"""`gnnsoup soup`: mix the job's ingredients by all its methods, and report."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import torch

from gnnsoup_hpc.analysis.diagnosis.runner import Examination
from gnnsoup_hpc.cli import common
from gnnsoup_hpc.cli.common import Command
from gnnsoup_hpc.cli.report import report
from gnnsoup_hpc.config import Job
from gnnsoup_hpc.data.prepare import check_source, note_job
from gnnsoup_hpc.io import graph as graph_store
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.memory import estimate, limits
from gnnsoup_hpc.memory.estimate import Sizes
from gnnsoup_hpc.memory.limits import Limit
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.runtime import launch
from gnnsoup_hpc.runtime.launch import RankInfo
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.soup.alignment import Aligner
from gnnsoup_hpc.soup.runner import SoupRunner
from gnnsoup_hpc.soup.selection import select_ingredients
from gnnsoup_hpc.soup.station import MixtureEvaluator
from gnnsoup_hpc.soup.sweep import Sweep, refuse_trials_beyond_limit
from gnnsoup_hpc.soup.team import Team, receive, serve

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm


def soup(job: Job, here: RankInfo, again: bool = False) -> None:
    """Make the job's soups. Rank-collective: rank 0 coordinates, the others tell accuracies until it lets them go."""
    world = launch.start_mpi(here)
    shared = launch.threads_per_rank(job.machine, here)
    if world is not None and here.rank > 0:
        assist(job, here, world, sweeps=bool(job.sweep))
        return
    device = launch.claim_machine(job.machine, here, alone=True)
    launch.check_precision(job.soup.precision, device)
    Log(here.prefix, stop=here.stop).say(f"soup: {launch.describe_mapping(job.machine, here, device)}")
    _coordinate(job, here, Team(world, shared), device, again)


def _coordinate(job: Job, here: RankInfo, team: Team, device: torch.device, again: bool) -> None:
    run, log = RunDir.of(job), Log(here.prefix, stop=here.stop)
    with graph_store.open_graph(run.graph, job, verify=True) as graph:
        check_source(job, graph, log)
        architecture = Architecture.of(job.model, graph.features, graph.classes)
        job, memory = apply_memory_limit(ingredient_store.resolve_job(job, run), here, graph, device, log)
        selection = select_ingredients(job, run, architecture, graph, log)
        refuse_trials_beyond_limit(job, here, graph, device)
        note_job(job)
        ids = list(selection.fit)
        log.say(f"soup: {len(ids)} ingredients, {team.size} ranks, device {device}, {launch.count_threads()} threads")
        team.tell("open", ids)
        station = MixtureEvaluator(run, architecture, ids, graph, device, memory, job.soup.precision)
        alignment = Aligner(job, run, station, selection.fit, memory, log).brought(again)
        station.align(alignment)
        team.tell("align", alignment)
        stove = SoupRunner(job, run, architecture, graph, selection, station, team, log)
        stove.cook_all(again)
        if job.soup.diagnose:
            Examination(job, run, selection, station, team, log).done()
        team.tell("leave")
        if job.sweep:
            torch.set_num_threads(launch.threads_per_rank(job.machine, here))  # the others compute too from now on
            sweep = Sweep(stove, here)
            if again:
                sweep.forget()
            team.tell("sweep", (job, selection))
            sweep.share()
            sweep.choose()
    report(run.root)


def assist(job: Job, here: RankInfo, world: Intracomm, sweeps: bool = False) -> None:
    """The other ranks' side; they touch no file before rank 0 found the run to be right.

    With `sweeps`, a sweep follows when rank 0 lets them go, which each takes its share of.
    """
    device = launch.claim_machine(job.machine, here)
    Log(here.prefix, stop=here.stop).say(f"soup: {launch.describe_mapping(job.machine, here, device)}")
    order, ids = receive(world, 0)
    if order == "open":
        run = RunDir.of(job)
        with graph_store.open_graph(run.graph, job) as graph:
            architecture = Architecture.of(job.model, graph.features, graph.classes)
            _, memory = apply_memory_limit(job, here, graph, device, Log(quiet=True))
            station = MixtureEvaluator(run, architecture, ids, graph, device, memory, job.soup.precision)
            serve(world, station)
            if sweeps:
                _, (job, selection) = receive(world, 0)
                log = Log(here.prefix, stop=here.stop)
                team = Team(None, launch.count_threads())
                Sweep(SoupRunner(job, run, architecture, graph, selection, station, team, log), here).share()


def apply_memory_limit(job: Job, here: RankInfo, graph: GraphFile, device: torch.device, log: Log) -> tuple[Job, int]:
    """The job with soup.pls.union chosen, and the bytes that accuracies may fill beside the ingredients.

    Raises: MemoryLimitError where one of the job's methods does not fit.
    """
    architecture = Architecture.of(job.model, graph.features, graph.classes)
    sizes, limit = Sizes.of(graph, architecture, device.type == "cuda"), Limit.of(job, here)
    job, demands = limits.plan_souping(job, sizes, limit, here.size)
    limits.refuse(limit, demands)
    memory = max(0, limit.room - estimate.total(estimate.shelf(architecture, job.train.ingredients)))
    log.say(f"soup: {limits.describe(limit, demands, limits.describe_evaluation(sizes, memory, here.size))}")
    return job, memory


def load(arguments: argparse.Namespace) -> Command:
    """The command that `arguments` of `add_arguments` describe."""
    return lambda here: soup(common.load_job(arguments), here, arguments.again)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that say which job."""
    common.add_job(parser)
    common.add_memory_limit(parser)
    common.add_again(parser, "make all soups anew")
