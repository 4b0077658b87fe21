"""`gnnsoup soup`: mix the job's ingredients by all its methods, and report."""

from __future__ import annotations

import argparse

import torch

from gnnsoup_hpc.analysis.diagnosis.runner import diagnose
from gnnsoup_hpc.analysis.report.page.style import check_packages
from gnnsoup_hpc.cli.common import Form, choose_form, load_job
from gnnsoup_hpc.cli.report import report
from gnnsoup_hpc.config import Job
from gnnsoup_hpc.config.grid import list_joint_runs
from gnnsoup_hpc.data.prepare import note_job
from gnnsoup_hpc.runtime import launch
from gnnsoup_hpc.runtime.comm import Comm
from gnnsoup_hpc.runtime.gpu import explain_out_of_memory
from gnnsoup_hpc.runtime.launch import RankInfo
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.soup.alignment import align_ingredients
from gnnsoup_hpc.soup.joint import gather_joint_run
from gnnsoup_hpc.soup.runner import SoupRunner
from gnnsoup_hpc.soup.selection import select_ingredients
from gnnsoup_hpc.soup.start import open_mixtures
from gnnsoup_hpc.soup.sweep import refuse_trials_beyond_limit, run_sweeps


def run(arguments: argparse.Namespace, here: RankInfo) -> None:
    """Make the soups of the job that the arguments name."""
    if arguments.html:
        check_packages()
    soup(load_job(arguments), here, arguments.again, choose_form(arguments), arguments.html)


def soup(job: Job, here: RankInfo, again: bool = False, form: Form = "brief", html: bool = False) -> None:
    """Make the job's soups, of a sweep of training those of each joint run. Rank-collective.

    Every rank does the same; rank 0 alone writes, and says what is done. form: of the report; html: a page of it too.
    """
    quiet = form in ("json", "nothing")
    comm = launch.connect(here)
    device = launch.claim_machine(job.machine, here)
    launch.check_precision("soup", job.soup.precision, device)
    Log(here.prefix, quiet, here.stop).say(f"soup: {launch.describe_mapping(job.machine, here, device)}")
    log, joint_runs = Log(here.prefix, quiet or here.rank > 0, here.stop), list_joint_runs(job)
    for joint in joint_runs:
        log.say(f"soup: {RunDir.of(joint.job).root}: ingredients of {len(joint.runs)} runs")
        if here.rank == 0:
            gather_joint_run(job, joint, here, device, log)
        comm.bcast(None)
        _make_soups(joint.job, here, comm, device, log, again)
    if not joint_runs:
        _make_soups(job, here, comm, device, log, again)
    if here.rank == 0:
        if joint_runs:
            note_job(job)
        for each in (*(joint.job for joint in joint_runs), job):
            run = RunDir.of(each)
            report(run.root, form=form, page=run.page if html else None)
    comm.bcast(None)  # the others wait here, and not in MPI's own end, which burns a core


def _make_soups(job: Job, here: RankInfo, comm: Comm, device: torch.device, log: Log, again: bool) -> None:
    """Make the soups of one run."""
    with open_mixtures(job, here, comm, device, log, select_ingredients) as (job, selection, mixtures):
        if here.rank == 0:
            refuse_trials_beyond_limit(job, mixtures, here)
            note_job(job)
        threads, count = torch.get_num_threads(), len(mixtures.ids)
        log.say(f"soup: {count} ingredients, {comm.size} ranks, device {device}, {threads} threads")
        if count == 1:
            log.say("soup: there is one ingredient, so there is nothing to mix: every soup is that ingredient")
        with explain_out_of_memory("soup: comparing ingredients"):
            align_ingredients(job, mixtures, selection, log, again)
        runner = SoupRunner(job, selection, mixtures, log)
        runner.run_all(again)
        if job.soup.diagnose:
            with explain_out_of_memory("diagnose"):
                diagnose(job, selection, mixtures, log)
        if job.sweep:
            run_sweeps(runner, here, again)
