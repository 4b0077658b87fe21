"""`soup` and `diagnose`, which every rank carries out alike. A command's own file loads this when it is chosen."""

from __future__ import annotations

from functools import partial

from gnnsoup_hpc.analysis.diagnosis.advice import verdict
from gnnsoup_hpc.analysis.diagnosis.basin import list_midpoints
from gnnsoup_hpc.analysis.diagnosis.runner import diagnose as diagnose_mixtures
from gnnsoup_hpc.cli.report import report
from gnnsoup_hpc.config import Job
from gnnsoup_hpc.data.prepare import note_job
from gnnsoup_hpc.runtime import launch
from gnnsoup_hpc.runtime.launch import RankInfo
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.soup.alignment import align_ingredients
from gnnsoup_hpc.soup.runner import SoupRunner
from gnnsoup_hpc.soup.selection import select_ingredients, select_sound
from gnnsoup_hpc.soup.start import open_mixtures
from gnnsoup_hpc.soup.sweep import Sweep, refuse_trials_beyond_limit


def soup(job: Job, here: RankInfo, again: bool = False) -> None:
    """Make the job's soups. Rank-collective: every rank does the same; rank 0 alone writes, and says what is done."""
    comm = launch.connect(here)
    device = launch.claim_machine(job.machine, here)
    launch.check_precision(job.soup.precision, device)
    Log(here.prefix, stop=here.stop).say(f"soup: {launch.describe_mapping(job.machine, here, device)}")
    log, run = Log(here.prefix, quiet=here.rank > 0, stop=here.stop), RunDir.of(job)
    check = partial(refuse_trials_beyond_limit, here=here, device=device)
    with open_mixtures(job, here, comm, device, log, select_ingredients, check) as (job, selection, mixtures):
        if here.rank == 0:
            note_job(job)
        threads = launch.count_threads()
        log.say(f"soup: {len(mixtures.ids)} ingredients, {comm.size} ranks, device {device}, {threads} threads")
        align_ingredients(job, mixtures, selection.fit, log, again)
        runner = SoupRunner(job, selection, mixtures, log)
        runner.run_all(again)
        if job.soup.diagnose:
            diagnose_mixtures(job, selection, mixtures, log)
        if job.sweep:
            Sweep(runner, here).run(again)
    if here.rank == 0:
        report(run.root)
    comm.bcast(None)  # the others wait here, and not in MPI's own end, which burns a core


def diagnose(asked: Job, here: RankInfo, again: bool) -> None:
    """Diagnose the run of a job, and print. Rank-collective, as souping is."""
    # Metrics alone are computed, so only what they need is asked of the memory limit.
    soup = asked.soup.model_copy(update={"methods": ("best",), "precision": "float32"})
    job = asked.model_copy(update={"soup": soup})
    comm, device = launch.connect(here), launch.claim_machine(job.machine, here)
    log, run = Log(here.prefix, quiet=here.rank > 0, stop=here.stop), RunDir.of(job)
    with open_mixtures(job, here, comm, device, log, select_sound) as (_, selection, mixtures):
        found, task = diagnose_mixtures(asked, selection, mixtures, log, again), mixtures.evaluator.task
    if here.rank == 0:
        lines = [*list_midpoints(found, task), ""] if found.lineups else []
        print("\n".join(["", *lines, *verdict(found, asked, task), f"-> {run.diagnosis}"]), flush=True)
    comm.bcast(None)
