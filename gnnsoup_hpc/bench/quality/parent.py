"""The parent: finds the run and its fit ingredients, and has every method and pass measured in a fresh process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from gnnsoup_hpc.bench import process
from gnnsoup_hpc.bench.arguments import Options
from gnnsoup_hpc.bench.process import Figures
from gnnsoup_hpc.bench.task import LEARNED, PLAIN, Passing, QualityOrder, count_evaluations
from gnnsoup_hpc.config import Job
from gnnsoup_hpc.config.grid import choose_joint_run
from gnnsoup_hpc.errors import JobError, RunError
from gnnsoup_hpc.io import graph as graph_store
from gnnsoup_hpc.models.jobs import load_job
from gnnsoup_hpc.models.registry import make_model_for
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.soup.selection import select_ingredients
from gnnsoup_hpc.utils import paths
from gnnsoup_hpc.utils.paths import expand_home

SMALL_NODES = 50_000  # of a graph on which plain GIS runs in full unless the user asks otherwise
SAMPLED = 10
_SEEDS = 2**32


@dataclass(frozen=True)
class Subject:
    """The run that is measured. about: what stands at the head of the results."""

    job: Job
    ids: tuple[int, ...]
    about: dict[str, Any]


def find_job(text: str, overrides: Sequence[str] = ()) -> Job:
    """The job of a run's folder, or that `load_job` finds, with overrides, its run's folder absolute.

    Raises: RunError for a folder that is no run, or the sweep's of several models; JobError where there is no such job.
    """
    folder = expand_home(text)
    if not folder.is_dir():
        job = choose_joint_run(load_job(text, overrides))
        return job.model_copy(update={"runs": paths.quote(RunDir.of(job).root.parent.absolute())})
    if not (folder / "job.toml").is_file():
        raise RunError(f"{folder} has no job.toml, so it is no run: name the folder of a run, or a job")
    job, folder = load_job(str(folder / "job.toml"), overrides), folder.resolve()
    return choose_joint_run(job.model_copy(update={"runs": paths.quote(folder.parent), "name": folder.name}))


def select_run(job: Job, say: Callable[[str], None]) -> Subject:
    """The run, once it is known to have what GIS can mix.

    Raises: JobError where it is judged by no accuracy; RunError where its graph or ingredients are missing, unfit or
    too few; the message says what to do.
    """
    run = RunDir.of(job)
    with graph_store.open_graph(run.graph, job, verify=True) as graph:
        if values := graph.resolve_task(job.task).values:
            said = ", ".join(f"{name} = {value!r}" for name, value in values.items())
            raise JobError(f"--quality compares accuracies of classes, and the run has {said}")
        for there, what in ((graph.weighted, "weights"), (graph.edge_features, "features")):
            if there:
                raise JobError(
                    f"--quality compares with programs that take no {what} of edges, which the run's graph has"
                )
        net = make_model_for(graph, job.model, graph.classes)
        chosen = select_ingredients(job, net, graph, Log(quiet=True))
        about = {
            "job": job.name,
            "graph": job.graph.source,
            "graph_sha256": graph.sha256,
            **{name: getattr(graph, name) for name in ("nodes", "edges", "parts")},
            "validation_nodes": int(graph.validation_counts.sum()),
            "model": job.model.model_dump(mode="json"),
            "soup": job.soup.model_dump(mode="json"),
            "ingredients": len(chosen.fit),
            "evaluations": count_evaluations(len(chosen.fit), job.soup.gis.granularity),
        }
    for reason in chosen.unfit.values():
        say(f"left out: {reason}")
    if len(chosen.fit) < 2:
        raise RunError(f"{run.ingredients} holds one fit ingredient, and GIS mixes two or more: train more of them")
    return Subject(job, tuple(chosen.fit), about)


def list_orders(what: Subject, options: Options) -> Iterator[QualityOrder]:
    """Time passes of plain GIS and of each method, learned ones once a seed; then memory passes."""
    sampled = options.sample_evaluations
    if sampled is None:
        sampled = 0 if what.about["nodes"] <= SMALL_NODES else SAMPLED
    if "gis" not in options.methods and 0 < sampled < what.about["evaluations"]:
        raise RunError(
            "--methods leaves gis out and plain GIS would only be sampled, so GIS's accuracy would not be known: add"
            " gis, or run plain GIS in full with --sample-evaluations 0"
        )
    first, everything = what.job.soup.seed, (PLAIN, *options.methods)
    turns: list[tuple[str, Passing, int]] = [
        (name, "time", (first + number) % _SEEDS)
        for name in everything
        for number in range(options.seeds if name in LEARNED else 1)
    ]
    turns += [(name, "memory", first) for name in everything]
    tree, rest = what.job.model_dump(mode="json"), (options.threads, sampled, options.judge_every, options.memory_bytes)
    for turn in turns:
        yield QualityOrder(tree, what.ids, *turn, *rest)


def run_orders(ordered: Sequence[QualityOrder], timeout: float, say: Callable[[str], None]) -> dict[str, Figures]:
    """What the children of plain GIS and of each method measured; what failed once is given up."""
    found = {order.what: Figures() for order in ordered}
    for number, order in enumerate(ordered, 1):
        label = f"[{number}/{len(ordered)}] {order.what}, seed {order.seed}"
        process.measure(order, found[order.what], label, timeout, say)
    return found
