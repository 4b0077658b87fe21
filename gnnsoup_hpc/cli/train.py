"""`gnnsoup train`: train the job's ingredients."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from gnnsoup_hpc.cli import common
from gnnsoup_hpc.cli.common import Command
from gnnsoup_hpc.runtime import launch
from gnnsoup_hpc.runtime.launch import RankInfo

if TYPE_CHECKING:
    from gnnsoup_hpc.config import Job

Train = Callable[["Job", RankInfo, bool, bool], None]


def load(arguments: argparse.Namespace) -> Command:
    """The command that `arguments` of `add_arguments` describe."""
    train = load_train()
    return lambda here: train(common.load_job(arguments), here, arguments.offline, False)


def load_train() -> Train:
    """What prepares a job's graph if it is not there yet, and trains what is missing.

    Its arguments: job, rank, whether downloads are forbidden, whether soups are to follow.
    """
    from gnnsoup_hpc.data.prepare import is_made, prepare
    from gnnsoup_hpc.memory import limits
    from gnnsoup_hpc.runtime.progress import Log
    from gnnsoup_hpc.train.runner import train_all

    def train(job: Job, here: RankInfo, offline: bool, souping: bool) -> None:
        log = Log(here.prefix, stop=here.stop)
        device = launch.claim_machine(job.machine, here)
        log.say(f"train: {launch.describe_mapping(job.machine, here, device)}")
        if not is_made(job):
            limits.refuse_before_graph(limits.Limit.of(job, here))
        prepare(job, here, log, offline=offline)
        train_all(job, here, device, log, souping)

    return train


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that say which job."""
    common.add_job(parser)
    common.add_offline(parser)
    common.add_memory_limit(parser)
