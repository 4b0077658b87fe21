"""`gnnsoup soup`: mix the job's ingredients by all its methods, and report."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from gnnsoup_hpc import budget, limits, ranks
from gnnsoup_hpc.budget import Sizes
from gnnsoup_hpc.diagnosis.work import Examination
from gnnsoup_hpc.job import Job
from gnnsoup_hpc.limits import Limit
from gnnsoup_hpc.models import Architecture
from gnnsoup_hpc.prepare import check_source, note_job
from gnnsoup_hpc.progress import Log
from gnnsoup_hpc.ranks import Place
from gnnsoup_hpc.report.command import report
from gnnsoup_hpc.run_dir import RunDir
from gnnsoup_hpc.soup.alignment import Aligner
from gnnsoup_hpc.soup.selection import selected
from gnnsoup_hpc.soup.station import Station
from gnnsoup_hpc.soup.sweep import Sweep, refuse_what_does_not_fit
from gnnsoup_hpc.soup.team import Team, receive, serve
from gnnsoup_hpc.soup.work import Stove
from gnnsoup_hpc.store import graph as graph_store
from gnnsoup_hpc.store import ingredient as ingredient_store
from gnnsoup_hpc.store.graph import GraphFile

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm


def soup(job: Job, here: Place, again: bool = False) -> None:
    """Make the job's soups. Rank-collective: rank 0 coordinates, the others tell accuracies until it lets them go."""
    world = ranks.world(here)
    shared = ranks.threads_a_rank(job.machine, here)
    if world is not None and here.rank > 0:
        assist(job, here, world, sweeps=bool(job.sweep))
        return
    device = ranks.claim_machine(job.machine, here, alone=True)
    ranks.check_precision(job.soup.precision, device)
    Log(here.prefix, stop=here.stop).say(f"soup: {ranks.mapping(job.machine, here, device)}")
    _coordinate(job, here, Team(world, shared), device, again)


def _coordinate(job: Job, here: Place, team: Team, device: torch.device, again: bool) -> None:
    run, log = RunDir.of(job), Log(here.prefix, stop=here.stop)
    with graph_store.opened(run.graph, job, verify=True) as graph:
        check_source(job, graph, log)
        architecture = Architecture.of(job.model, graph.features, graph.classes)
        job, memory = within_limit(ingredient_store.settled(job, run), here, graph, device, log)
        selection = selected(job, run, architecture, graph, log)
        refuse_what_does_not_fit(job, here, graph, device)
        note_job(job)
        ids = list(selection.fit)
        log.say(f"soup: {len(ids)} ingredients, {team.size} ranks, device {device}, {ranks.threads()} threads")
        team.tell("open", ids)
        station = Station(run, architecture, ids, graph, device, memory, job.soup.precision)
        alignment = Aligner(job, run, station, selection.fit, memory, log).brought(again)
        station.align(alignment)
        team.tell("align", alignment)
        stove = Stove(job, run, architecture, graph, selection, station, team, log)
        stove.cook_all(again)
        if job.soup.diagnose:
            Examination(job, run, selection, station, team, log).done()
        team.tell("leave")
        if job.sweep:
            torch.set_num_threads(ranks.threads_a_rank(job.machine, here))  # the others compute too from now on
            sweep = Sweep(stove, here)
            if again:
                sweep.forget()
            team.tell("sweep", (job, selection))
            sweep.share()
            sweep.choose()
    report(run.root)


def assist(job: Job, here: Place, world: Intracomm, sweeps: bool = False) -> None:
    """The other ranks' side; they touch no file before rank 0 found the run to be right.

    With `sweeps`, a sweep follows when rank 0 lets them go, which each takes its share of.
    """
    device = ranks.claim_machine(job.machine, here)
    Log(here.prefix, stop=here.stop).say(f"soup: {ranks.mapping(job.machine, here, device)}")
    order, ids = receive(world, 0)
    if order == "open":
        run = RunDir.of(job)
        with graph_store.opened(run.graph, job) as graph:
            architecture = Architecture.of(job.model, graph.features, graph.classes)
            _, memory = within_limit(job, here, graph, device, Log(quiet=True))
            station = Station(run, architecture, ids, graph, device, memory, job.soup.precision)
            serve(world, station)
            if sweeps:
                _, (job, selection) = receive(world, 0)
                log = Log(here.prefix, stop=here.stop)
                team = Team(None, ranks.threads())
                Sweep(Stove(job, run, architecture, graph, selection, station, team, log), here).share()


def within_limit(job: Job, here: Place, graph: GraphFile, device: torch.device, log: Log) -> tuple[Job, int]:
    """The job with soup.pls.union chosen, and the bytes that accuracies may fill beside the ingredients.

    Raises: MemoryLimitError where one of the job's methods does not fit.
    """
    architecture = Architecture.of(job.model, graph.features, graph.classes)
    sizes, limit = Sizes.of(graph, architecture, device.type == "cuda"), Limit.of(job, here)
    job, demands = limits.decided_souping(job, sizes, limit, here.size)
    limits.refuse(limit, demands)
    memory = max(0, limit.room - budget.total(budget.shelf(architecture, job.train.ingredients)))
    log.say(f"soup: {limits.said(limit, demands, limits.way(sizes, memory, here.size))}")
    return job, memory
