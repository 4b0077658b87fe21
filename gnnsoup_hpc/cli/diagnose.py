"""`gnnsoup diagnose`: do ingredients lie in one basin, and what to do if not."""

from __future__ import annotations

import argparse

from gnnsoup_hpc.analysis.diagnosis.advice import verdict
from gnnsoup_hpc.analysis.diagnosis.basin import list_midpoints
from gnnsoup_hpc.analysis.diagnosis.runner import Examination, select_sound
from gnnsoup_hpc.cli import common
from gnnsoup_hpc.cli.common import Command
from gnnsoup_hpc.cli.soup import apply_memory_limit, assist
from gnnsoup_hpc.config import Job
from gnnsoup_hpc.io import graph as graph_store
from gnnsoup_hpc.io.records import Diagnosis
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.runtime import launch
from gnnsoup_hpc.runtime.launch import RankInfo
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.soup.station import MixtureEvaluator
from gnnsoup_hpc.soup.team import Team

AGAIN = "measure anew, also where the diagnosis is there"


def diagnose(arguments: argparse.Namespace, here: RankInfo) -> None:
    """Diagnose the run that `arguments` of `add_arguments` name. Rank-collective, as souping is."""
    asked = common.job_of_run(arguments)
    # Accuracies alone are told, so only what they need is asked of the memory limit.
    soup = asked.soup.model_copy(update={"methods": ("best",), "precision": "float32"})
    job = asked.model_copy(update={"soup": soup})
    world = launch.start_mpi(here)
    shared = launch.threads_per_rank(job.machine, here)
    if world is not None and here.rank > 0:
        assist(job, here, world)
        return
    found = _coordinate(asked, job, here, Team(world, shared), arguments.again)
    lines = [*list_midpoints(found), ""] if found.lineups else []
    print("\n".join(["", *lines, *verdict(found, asked), f"-> {RunDir.of(job).diagnosis}"]), flush=True)


def _coordinate(asked: Job, job: Job, here: RankInfo, team: Team, again: bool) -> Diagnosis:
    device = launch.claim_machine(job.machine, here, alone=True)
    run, log = RunDir.of(job), Log(here.prefix, stop=here.stop)
    with graph_store.open_graph(run.graph, job, verify=True) as graph:
        architecture = Architecture.of(job.model, graph.features, graph.classes)
        _, memory = apply_memory_limit(job, here, graph, device, log)
        selection = select_sound(job, run, architecture)
        ids = list(selection.fit)
        team.tell("open", ids)
        station = MixtureEvaluator(run, architecture, ids, graph, device, memory)
        found = Examination(asked, run, selection, station, team, log).done(again)
    team.tell("leave")
    return found


def load(arguments: argparse.Namespace) -> Command:
    """The command that `arguments` of `add_arguments` describe."""
    return lambda here: diagnose(arguments, here)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that say which run."""
    common.add_job(parser, "RUN", f"the folder of a run, or {common.JOB_HELP}")
    common.add_memory_limit(parser)
    common.add_again(parser, AGAIN)
