"""`gnnsoup predict`: scores of every node of the run's graph, or of another one, by one of the run's soups."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from gnnsoup_hpc.analysis.export import choose_soup
from gnnsoup_hpc.analysis.predict import Asked, write_scores
from gnnsoup_hpc.analysis.report.contents import read_contents
from gnnsoup_hpc.cli.common import job_of_souped_run, say_overruled
from gnnsoup_hpc.runtime.launch import RankInfo
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.runtime.run_dir import RunDir


def run(arguments: argparse.Namespace, here: RankInfo) -> None:
    """Write the scores to a file of NumPy, and say where; of several ranks the first does it."""
    if here.rank > 0:
        return
    job, log = job_of_souped_run(arguments), Log(here.prefix, stop=here.stop)
    say_overruled(arguments.set, job)
    found = read_contents(RunDir.of(job).root)
    soup = choose_soup(found, arguments.method, ensembles=True)
    asked = Asked(found, soup, job, arguments.graph, arguments.offline)
    to = arguments.to or Path(f"{found.job.name}-{soup.method}{_name_graph(asked.source)}.npy")
    nodes = write_scores(to, asked, here, log)
    several = f"of {len(asked.members)} models, their means"
    whose = several if soup.state is None else f"of the {soup.method} soup"
    log.say(f"predict: scores {whose}, of {nodes} nodes in the source's order -> {to}")


def _name_graph(source: str | None) -> str:
    """What a file's name says of another graph."""
    if source is None:
        return ""
    return f"-{re.sub(r'[^A-Za-z0-9]+', '-', Path(source.partition(':')[2]).stem)}"
