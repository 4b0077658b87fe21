"""A tiny run in this process: graph prepared, ingredients trained, and mixtures of them to run methods on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from gnnsoup_hpc.alignment.symmetry import permute
from gnnsoup_hpc.cli.soup import soup
from gnnsoup_hpc.config import Job
from gnnsoup_hpc.config import loading as jobs
from gnnsoup_hpc.data.prepare import prepare
from gnnsoup_hpc.evaluation.evaluator import EvalSettings
from gnnsoup_hpc.io import graph as graph_store
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io import states
from gnnsoup_hpc.io.records import MixingWeights
from gnnsoup_hpc.models.registry import make_model_for
from gnnsoup_hpc.runtime.comm import SERIAL, Comm
from gnnsoup_hpc.runtime.launch import RankInfo
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.soup.context import SoupContext
from gnnsoup_hpc.soup.methods import SoupMethod
from gnnsoup_hpc.soup.mixtures import Mixtures
from gnnsoup_hpc.train.runner import train_all
from tests import tiny
from tests.alignment.kit import shuffle

CPU = torch.device("cpu")
QUIET = Log(quiet=True)
ALONE = RankInfo(rank=0, size=1, local_rank=0, local_size=1, host="here")


def job_in(folder: Path, *overrides: str, **shape: object) -> Job:
    """The tiny job, its graph and its run inside `folder`."""
    tiny.write_job(folder, **shape)
    return load_job(folder, *overrides)


def load_job(folder: Path, *overrides: str) -> Job:
    """The job that was written in `folder`."""
    return jobs.load(str(folder / tiny.JOB_FILE), [f"runs={folder / 'runs'}", *overrides])


def prepare_run(folder: Path, *overrides: str, **shape: object) -> Job:
    """The tiny job with its graph.h5."""
    job = job_in(folder, *overrides, **shape)
    prepare(job, ALONE, QUIET)
    return job


def begin_to_train(job: Job) -> None:
    """From then on something depends on the run's graph."""
    RunDir.of(job).initial.write_bytes(b"an initial state")


def train_run(folder: Path, *overrides: str, **shape: object) -> Job:
    """The tiny job with its graph.h5 and all its ingredients."""
    job = prepare_run(folder, *overrides, **shape)
    train(job)
    return job


def train(job: Job) -> None:
    """Train what is missing of a job."""
    train_all(job, ALONE, CPU, QUIET)


def copy_run(job: Job, folder: Path) -> Job:
    """The same job with a copy of its run in `folder`, to do anything to."""
    shutil.copytree(job.runs, folder / "runs")
    return job.model_copy(update={"runs": str(folder / "runs")})


def change_job(job: Job, *overrides: str) -> Job:
    """The job with other values, as `--set` gives them."""
    path = Path(job.runs) / f"changed-{os.getpid()}.toml"  # for a run may be several processes'
    path.write_text(job.to_toml(), encoding="utf-8")
    return jobs.load(str(path), overrides)


def shuffle_units(job: Job, copies: bool = False) -> Job:
    """The run with ingredients' units shuffled; with `copies`, all those of the first ingredient."""
    run = RunDir.of(job)
    with open_mixtures(job) as mixtures:
        net, graph = mixtures.model, mixtures.graph
        initial = states.sha256(ingredient_store.read_initial(run.initial, net, job.train.seed))
        first = ingredient_store.read(run.ingredient(0))
        for index in range(1, job.train.ingredients):
            ingredient = ingredient_store.read(run.ingredient(index))
            state = permute(net, first.state if copies else ingredient.state, shuffle(net, index))
            accuracy = first.validation_accuracy if copies else ingredient.validation_accuracy
            origin = ingredient_store.Origin.of(job, net, graph, initial, index)
            made = replace(ingredient, state=state, validation_accuracy=accuracy)
            ingredient_store.write(run.ingredient(index), made, origin, job)
    return job


@contextmanager
def open_mixtures(
    job: Job, ids: Sequence[int] | None = None, memory: int = 1 << 30, comm: Comm = SERIAL, home: Path | None = None
) -> Iterator[Mixtures]:
    """Mixtures of the job's ingredients `ids`, by default of all; on one rank, or on this rank of `comm`.

    home: takes what must spill; ranks of one process need one each.
    """
    run = RunDir.of(job)
    with graph_store.open_graph(run.graph, job) as graph:
        model = make_model_for(graph, job.model, graph.resolve_task(job.task).outputs)
        chosen = range(job.train.ingredients) if ids is None else ids
        yield Mixtures(run, model, chosen, graph, EvalSettings(CPU, memory, home or run.root, comm=comm, task=job.task))


def make_context(mixtures: Mixtures, seed: int = 0) -> SoupContext:
    """A context that says nothing."""
    return SoupContext(mixtures, seed, QUIET)


def run_method(
    method: SoupMethod, job: Job, ids: Sequence[int] | None = None, seed: int = 0, comm: Comm = SERIAL
) -> MixingWeights:
    """What a method makes of a job's ingredients."""
    with open_mixtures(job, ids, comm=comm) as mixtures:
        return method.run(make_context(mixtures, seed))


def soup_run(job: Job, again: bool = False) -> Job:
    """Make a job's soups and its report."""
    soup(job, ALONE, again)
    return job
