"""`gnnsoup train`: train the job's ingredients."""

from __future__ import annotations

import argparse

from gnnsoup_hpc.cli.common import load_job
from gnnsoup_hpc.config import Job
from gnnsoup_hpc.data.prepare import is_made, prepare
from gnnsoup_hpc.memory import limits
from gnnsoup_hpc.runtime import launch
from gnnsoup_hpc.runtime.launch import RankInfo
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.train.runner import check_machine, train_all


def run(arguments: argparse.Namespace, here: RankInfo) -> None:
    """Train the ingredients that are missing."""
    train(load_job(arguments), here, arguments.offline, souping=False)


def train(job: Job, here: RankInfo, offline: bool, souping: bool, quiet: bool = False) -> None:
    """Prepare the job's graph if it is not there yet, and train what is missing. souping: whether soups follow."""
    log = Log(here.prefix, quiet, here.stop)
    device = launch.claim_machine(job.machine, here)
    log.say(f"train: {launch.describe_mapping(job.machine, here, device)}")
    if not is_made(job):
        limits.refuse_before_graph(limits.Limit.of(job, here))
        check_machine(job, device)
    prepare(job, here, log, offline=offline)
    train_all(job, here, device, log, souping)
