"""`gnnsoup predict`: scores of every node of the run's graph, by one of its soups."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from gnnsoup_hpc.analysis.export import choose_soup
from gnnsoup_hpc.analysis.report.contents import Contents, read_contents
from gnnsoup_hpc.cli.common import job_of_run
from gnnsoup_hpc.errors import RunError
from gnnsoup_hpc.evaluation.evaluator import EvalSettings, Evaluator, Members
from gnnsoup_hpc.io import files
from gnnsoup_hpc.io import graph as graph_store
from gnnsoup_hpc.io.records import Soup
from gnnsoup_hpc.memory import estimate, limits
from gnnsoup_hpc.memory.estimate import Sizes
from gnnsoup_hpc.memory.limits import Demand, Limit
from gnnsoup_hpc.models.registry import make_model
from gnnsoup_hpc.runtime import launch
from gnnsoup_hpc.runtime.launch import RankInfo
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.runtime.run_dir import RunDir


def run(arguments: argparse.Namespace, here: RankInfo) -> None:
    """Write the scores to a file of NumPy, and say where."""
    job = job_of_run(arguments)
    run = RunDir.of(job)
    found = read_contents(run.root)
    soup = choose_soup(found, arguments.method, ensembles=True)
    to: Path = arguments.to or Path(f"{found.job.name}-{soup.method}.npy")
    if to.suffix != ".npy":
        raise RunError(f"--to {to}: scores are a file of .npy")
    files.check_writable(to)
    device, log = launch.claim_machine(job.machine, here), Log(here.prefix, stop=here.stop)
    with graph_store.open_graph(run.graph, job, verify=True) as graph:
        outputs = graph.resolve_task(job.task).outputs
        model = make_model(job.model, graph.features, outputs, graph.count_degrees, graph.weighted)
        sizes, limit = Sizes.of(graph, model, device), Limit.of(job, here, device)
        way, least = estimate.least_inference(sizes)
        members = _list_members(found, soup)
        held = estimate.mixing(model, len(members))
        limits.refuse(limit, [Demand(way, least + held)])
        settings = EvalSettings(device, max(0, limit.room - held), run.root, gpu=limit.gpu, task=job.task)
        evaluator = Evaluator(graph, model, settings)
        with files.publish(to) as private:
            out = np.lib.format.open_memmap(private, "w+", np.float32, (graph.nodes, model.outputs))
            for nodes, scores in evaluator.scores(members):
                out[nodes] = soup.judged.unscale(scores.numpy())
            out.flush()
    whose = f"of the {soup.method} soup" if soup.state is not None else f"of {len(members)} models, their means"
    log.say(f"predict: scores {whose}, of {len(out)} nodes in the source's order -> {to}")


def _list_members(run: Contents, soup: Soup) -> Members:
    if soup.state is not None:
        return [soup.state]
    return [ingredient.state for ingredient in run.ingredients]
