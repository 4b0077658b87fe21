"""`gnnsoup run`: prepare, train, soup, report."""

from __future__ import annotations

import argparse

from gnnsoup_hpc.analysis.report.page.style import check_packages
from gnnsoup_hpc.cli.common import choose_form, load_job
from gnnsoup_hpc.cli.soup import soup
from gnnsoup_hpc.cli.train import train
from gnnsoup_hpc.runtime.launch import RankInfo


def run(arguments: argparse.Namespace, here: RankInfo) -> None:
    """Do everything that the job asks for."""
    job, form = load_job(arguments), choose_form(arguments)
    if arguments.html:
        check_packages()
    train(job, here, arguments.offline, souping=True, quiet=form in ("json", "nothing"))
    soup(job, here, arguments.again, form, arguments.html)
