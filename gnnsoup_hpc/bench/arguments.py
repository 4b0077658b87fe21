"""The arguments of `gnnsoup bench`, and what they choose; those of the grid and of --quality exclude each other."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from gnnsoup_hpc.bench.task import METHODS, BatchName, ModelKind, TaskName, Way
from gnnsoup_hpc.errors import RunError
from gnnsoup_hpc.types import Precision

MODELS: tuple[ModelKind, ...] = ("sage", "gcn", "gat")
TASKS: tuple[TaskName, ...] = ("evaluation", "ls_epoch", "pls_step", "gis_step", "train_epoch")
BATCHES: tuple[BatchName, ...] = ("full", "cluster", "neighbour")
UNIONS = (1, 4, 8)
QUICK_GRAPHS = ("pubmed",)
FULL_GRAPHS = ("pubmed", "quick-sage-computers", "quick-sage-flickr", "quick-sage-arxiv")
WAYS: tuple[Way, ...] = ("stock", "ours")
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")

_OF_THE_GRID = (
    "graph",
    "full",
    "models",
    "tasks",
    "batches",
    "unions",
    "hidden",
    "ways",
    "precision",
    "repeats",
    "rounds",
)
_OF_QUALITY = ("set", "methods", "seeds", "sample_evaluations", "judge_every")


@dataclass(frozen=True)
class Options:
    """What is measured and how: for both benchmarks, then for the grid, then for the time to quality.

    `memory_bytes` bounds a process's private memory; 0 = unbounded. `batches` are train_epoch's; `unions` are the R of
    pls_step and of cluster batches; `hidden` counts the channels of a head. Each way gets `rounds` processes a cell,
    each with `repeats` timed repeats. `sample_evaluations` of plain GIS are timed, all if it is 0; None: as the graph's
    size suggests.
    """

    threads: int = 1
    timeout: float = 1800.0
    memory_bytes: int = 0

    models: Sequence[ModelKind] = MODELS
    tasks: Sequence[TaskName] = TASKS
    batches: Sequence[BatchName] = ("full",)
    unions: Sequence[int] = (4,)
    hidden: int = 256
    ways: Sequence[Way] = WAYS
    precision: Sequence[Precision] = ("float32",)
    repeats: int = 5
    rounds: int = 2

    methods: Sequence[str] = METHODS
    seeds: int = 1
    sample_evaluations: int | None = None
    judge_every: int = 5


def add(parser: argparse.ArgumentParser) -> None:
    """All of them. What only one of the two benchmarks takes has no default here, so that its use is seen."""
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="keep every sample here")
    about = "threads of each process (default: %(default)s, all cores)"
    parser.add_argument("--threads", type=count, default=len(os.sched_getaffinity(0)), help=about)
    about = "longest that a process may take (default: %(default)s)"
    parser.add_argument("--timeout", type=count, default=1800, metavar="SECONDS", help=about)
    _add_grid(parser.add_argument_group("the grid of cells"))
    _add_quality(parser.add_argument_group("time to quality"))


def _add_grid(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--graph", nargs="+", metavar="JOB", help="jobs whose graphs are measured (default: pubmed)")
    about = f"graphs {', '.join(FULL_GRAPHS)} (or --graph), and unions of {UNIONS} parts"
    group.add_argument("--full", action="store_true", default=None, help=about)
    group.add_argument("--models", nargs="+", choices=MODELS, help="models (default: all)")
    group.add_argument("--tasks", nargs="+", choices=TASKS, help="tasks (default: all)")
    group.add_argument("--batches", nargs="+", choices=BATCHES, help="what train_epoch trains on (default: full)")
    about = "parts a union of pls_step and of cluster batches (default: 4)"
    group.add_argument("--unions", nargs="+", type=count, metavar="R", help=about)
    group.add_argument("--hidden", type=count, metavar="C", help="hidden channels, of GAT's two heads each (256)")
    group.add_argument("--ways", nargs="+", choices=WAYS, help="whose way is measured (default: both)")
    group.add_argument("--precision", nargs="+", choices=PRECISIONS, help="of ours; stock stays float32")
    group.add_argument("--repeats", type=count, help=f"timed repeats a process (default: {Options.repeats})")
    group.add_argument("--rounds", type=count, help=f"timed processes a cell and way (default: {Options.rounds})")


def _add_quality(group: argparse._ArgumentGroup) -> None:
    about = "measure the time to GIS's accuracy on this run's trained ingredients"
    group.add_argument("--quality", metavar="RUN_OR_JOB", help=about)
    about = "override one field of that job, for example soup.pls.union=8; may be repeated"
    group.add_argument("--set", action="append", metavar="KEY=VALUE", help=about)
    group.add_argument("--methods", type=_methods, metavar="M,M", help=f"of {','.join(METHODS)} (default: all)")
    group.add_argument("--seeds", type=count, metavar="S", help="repeat LS and PLS with that many seeds (default: 1)")
    about = "of plain GIS time M evaluations and multiply; 0: run it in full (default: as the graph's size suggests)"
    group.add_argument("--sample-evaluations", type=_natural, metavar="M", help=about)
    about = "judge each of the first 10 steps, then each K-th (default: 5)"
    group.add_argument("--judge-every", type=count, metavar="K", help=about)


def check(arguments: argparse.Namespace) -> None:
    """Refuse what would have no effect.

    Raises: RunError naming the arguments.
    """
    foreign = _OF_QUALITY if arguments.quality is None else _OF_THE_GRID
    values = {name: getattr(arguments, name) for name in foreign}
    given = [f"--{name.replace('_', '-')}" for name, value in values.items() if value is not None]
    if given:
        named, them = ", ".join(given), "them" if len(given) > 1 else "it"
        if arguments.quality is None:
            raise RunError(f"{named} can be used with --quality only: give --quality RUN, or leave {them} out")
        raise RunError(f"{named} cannot be used with --quality: leave {them} out")
    cores = len(os.sched_getaffinity(0))
    if arguments.threads > cores:
        raise RunError(f"--threads {arguments.threads} is more than the {cores} cores that may be used here")
    tasks = arguments.tasks or TASKS
    if arguments.batches and "train_epoch" not in tasks:
        raise RunError("--batches is for train_epoch, which is not among --tasks: add it, or leave --batches out")
    if arguments.unions and "pls_step" not in tasks and "cluster" not in (arguments.batches or ()):
        raise RunError(
            "--unions is for pls_step, which is not among --tasks, and for cluster batches: add one, or leave --unions"
            " out"
        )


def read_options(arguments: argparse.Namespace) -> Options:
    """What was asked for, each value once; the rest as `Options` has it."""
    chosen: dict[str, Any] = {option.name: getattr(arguments, option.name, None) for option in fields(Options)}
    if arguments.full and not arguments.unions:
        chosen["unions"] = UNIONS
    given = {name: value for name, value in chosen.items() if value is not None}
    given |= {name: tuple(dict.fromkeys(value)) for name, value in given.items() if isinstance(value, list)}
    return Options(**given)


def _natural(text: str) -> int:
    return count(text, 0)


def count(text: str, bound: int = 1) -> int:
    """A number from `bound`."""
    value = int(text)
    if value < bound:
        raise argparse.ArgumentTypeError(f"{value} is less than {bound}")
    return value


def _methods(text: str) -> Sequence[str]:
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in dict.fromkeys(names) if name not in METHODS]:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; known: {', '.join(METHODS)}")
    return tuple(name for name in METHODS if name in names)
