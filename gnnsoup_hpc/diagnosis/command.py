"""`gnnsoup diagnose`: do ingredients lie in one basin, and what to do if not."""

from __future__ import annotations

import argparse

from gnnsoup_hpc import cli, ranks
from gnnsoup_hpc.diagnosis.advice import verdict
from gnnsoup_hpc.diagnosis.work import Examination, sound
from gnnsoup_hpc.job import Job
from gnnsoup_hpc.models import Architecture
from gnnsoup_hpc.progress import Log
from gnnsoup_hpc.ranks import Place
from gnnsoup_hpc.records import Diagnosis
from gnnsoup_hpc.report.midpoints import midpoints
from gnnsoup_hpc.run_dir import RunDir
from gnnsoup_hpc.soup.command import assist, within_limit
from gnnsoup_hpc.soup.station import Station
from gnnsoup_hpc.soup.team import Team
from gnnsoup_hpc.store import graph as graph_store

AGAIN = "measure anew, also where the diagnosis is there"


def diagnose(arguments: argparse.Namespace, here: Place) -> None:
    """Diagnose the run that `arguments` of `add_run` name. Rank-collective, as souping is."""
    asked = cli.job_of_run(arguments)
    # Accuracies alone are told, so only what they need is asked of the memory limit.
    soup = asked.soup.model_copy(update={"methods": ("best",), "precision": "float32"})
    job = asked.model_copy(update={"soup": soup})
    world = ranks.world(here)
    shared = ranks.threads_a_rank(job.machine, here)
    if world is not None and here.rank > 0:
        assist(job, here, world)
        return
    found = _coordinate(asked, job, here, Team(world, shared), arguments.again)
    lines = [*midpoints(found), ""] if found.lineups else []
    print("\n".join(["", *lines, *verdict(found, asked), f"-> {RunDir.of(job).diagnosis}"]), flush=True)


def _coordinate(asked: Job, job: Job, here: Place, team: Team, again: bool) -> Diagnosis:
    device = ranks.claim_machine(job.machine, here, alone=True)
    run, log = RunDir.of(job), Log(here.prefix, stop=here.stop)
    with graph_store.opened(run.graph, job, verify=True) as graph:
        architecture = Architecture.of(job.model, graph.features, graph.classes)
        _, memory = within_limit(job, here, graph, device, log)
        selection = sound(job, run, architecture)
        ids = list(selection.fit)
        team.tell("open", ids)
        station = Station(run, architecture, ids, graph, device, memory)
        found = Examination(asked, run, selection, station, team, log).done(again)
    team.tell("leave")
    return found


def add_run(parser: argparse.ArgumentParser) -> None:
    """Arguments that say which run."""
    cli.add_job(parser, "RUN", f"the folder of a run, or {cli.JOB_HELP}")
    cli.add_memory_limit(parser)
    parser.add_argument("--again", action="store_true", help=AGAIN)
