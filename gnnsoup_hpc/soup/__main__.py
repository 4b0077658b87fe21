"""`[mpirun -n P] python -m gnnsoup_hpc.soup [JOB]`: mix the job's ingredients by all its methods, and report."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from gnnsoup_hpc import cli, ranks
from gnnsoup_hpc.job import Job
from gnnsoup_hpc.models import Architecture
from gnnsoup_hpc.prepare import note_job
from gnnsoup_hpc.progress import Log
from gnnsoup_hpc.ranks import Place
from gnnsoup_hpc.report.__main__ import report
from gnnsoup_hpc.run_dir import RunDir
from gnnsoup_hpc.soup.selection import selected
from gnnsoup_hpc.soup.station import Station
from gnnsoup_hpc.soup.team import Team, receive, serve
from gnnsoup_hpc.soup.work import Stove
from gnnsoup_hpc.store import graph as graph_store

if TYPE_CHECKING:
    from mpi4py.MPI import Intracomm


def soup(job: Job, here: Place, again: bool = False) -> None:
    """Make the job's soups. Rank-collective: rank 0 coordinates, the others tell accuracies until it lets them go."""
    world = ranks.world(here)
    shared = ranks.threads_a_rank(job.machine, here)
    if world is not None and here.rank > 0:
        _help(job, here, world)
        return
    device = ranks.claim_machine(job.machine, here, alone=True)
    _coordinate(job, here, Team(world, shared), device, again)


def _coordinate(job: Job, here: Place, team: Team, device: torch.device, again: bool) -> None:
    run, log = RunDir.of(job), Log(here.prefix)
    with graph_store.opened(run.graph, job, verify=True) as graph:
        architecture = Architecture.of(job.model, graph.features, graph.classes)
        selection = selected(job, run, architecture, graph, log)
        note_job(job)
        ids = list(selection.fit)
        log.say(f"soup: {len(ids)} ingredients, {team.size} ranks, device {device}, {ranks.threads()} threads")
        team.tell("open", ids)
        memory = ranks.memory_bytes(job.machine, here)
        station = Station(run, architecture, ids, graph, device, memory, job.soup.precision)
        Stove(job, run, architecture, graph, selection, station, team, log).cook_all(again)
    team.tell("leave")
    report(run.root)


def _help(job: Job, here: Place, world: Intracomm) -> None:
    """The other ranks' side; they touch no file before rank 0 found the run to be right."""
    device = ranks.claim_machine(job.machine, here)
    order, ids = receive(world, 0)
    if order == "open":
        run = RunDir.of(job)
        with graph_store.opened(run.graph, job) as graph:
            architecture = Architecture.of(job.model, graph.features, graph.classes)
            memory = ranks.memory_bytes(job.machine, here)
            serve(world, Station(run, architecture, ids, graph, device, memory, job.soup.precision))


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m gnnsoup_hpc.soup", description=__doc__)
    cli.add_job(parser)
    parser.add_argument("--again", action="store_true", help="make all soups anew, also those that are there")
    parsed = parser.parse_args(arguments)
    return cli.guarded(lambda here: soup(cli.load_job(parsed), here, parsed.again), collective=True)


if __name__ == "__main__":
    sys.exit(main())
