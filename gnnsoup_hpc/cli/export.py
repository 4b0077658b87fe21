"""`gnnsoup export`: a soup as a file of weights, with a card and a script that predicts without this package."""

from __future__ import annotations

import argparse
from pathlib import Path

from gnnsoup_hpc.analysis.export import choose_soup, export_soup
from gnnsoup_hpc.analysis.report.contents import read_contents
from gnnsoup_hpc.cli.common import job_of_souped_run, say_overruled
from gnnsoup_hpc.runtime.launch import RankInfo
from gnnsoup_hpc.runtime.run_dir import RunDir


def run(arguments: argparse.Namespace, here: RankInfo) -> None:
    """Write the files, and say which."""
    job = job_of_souped_run(arguments)
    say_overruled(arguments.set, job)
    found = read_contents(RunDir.of(job).root)
    soup = choose_soup(found, arguments.method)
    to = arguments.to or Path(f"{found.job.name}-{soup.method}.pt")
    made = export_soup(found, soup, to)
    chosen = "" if arguments.method else ", the best on validation of those that are one model"
    print(f"export: the {soup.method} soup{chosen}: {', '.join(map(str, made))}", flush=True)
