"""`gnnsoup train`: train the job's ingredients."""

from __future__ import annotations

from gnnsoup_hpc import limits, ranks
from gnnsoup_hpc.job import Job
from gnnsoup_hpc.limits import Limit
from gnnsoup_hpc.prepare import is_made, prepare
from gnnsoup_hpc.progress import Log
from gnnsoup_hpc.ranks import Place
from gnnsoup_hpc.train.work import train_all


def train(job: Job, here: Place, offline: bool = False, souping: bool = False) -> None:
    """Prepare the graph if it is not there yet, and train what is missing; `souping` says that soups are to follow."""
    log = Log(here.prefix, stop=here.stop)
    device = ranks.claim_machine(job.machine, here)
    log.say(f"train: {ranks.mapping(job.machine, here, device)}")
    if not is_made(job):
        limits.refuse_before_graph(Limit.of(job, here))
    prepare(job, here, log, offline=offline)
    train_all(job, here, device, log, souping)
