"""What `import gnnsoup_hpc` gives beside its commands: jobs and their runs, and soups of any torch module's states.

What trains, soups and predicts here does so in this process, as one rank; commands are for several. Errors are those of
errors.py. Nothing is printed unless `progress` asks for what the commands print, and no signal is taken over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gnnsoup_hpc.config import Job
from gnnsoup_hpc.config.grid import expand_grid, list_joint_runs
from gnnsoup_hpc.config.loading import Named
from gnnsoup_hpc.errors import LauncherError
from gnnsoup_hpc.io import report
from gnnsoup_hpc.io.model import Trained, read_model
from gnnsoup_hpc.models.jobs import load_job, load_job_of_run
from gnnsoup_hpc.models.statistics import recompute_statistics
from gnnsoup_hpc.runtime import launch
from gnnsoup_hpc.runtime.gpu import explain_out_of_memory
from gnnsoup_hpc.runtime.launch import RankInfo
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.soup.modules import StateSoup, gis, greedy_soup, learned_soup, uniform_soup
from gnnsoup_hpc.types import FloatArray

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = [
    "Job",
    "Run",
    "StateSoup",
    "Trained",
    "export",
    "gis",
    "greedy_soup",
    "import_checkpoints",
    "learned_soup",
    "load_config",
    "load_soup",
    "make_soups",
    "prepare",
    "read_report",
    "recompute_statistics",
    "train_ingredients",
    "uniform_soup",
]

Config = Job | Named  # a job, or what `load_config` makes one of


def load_config(source: Named, overrides: Mapping[str, Any] | None = None) -> Job:
    """The job of a TOML file, of a bundled job's name, or of tables as a file holds them; typed, checked, frozen.

    overrides: values by dotted names, as {"train.epochs": 5}; each stands in place of what the job has there.
    Raises: errors.JobError naming the key and what is allowed.
    """
    return load_job(source, overrides or {})


def prepare(config: Config, *, again: bool = False, offline: bool = False, progress: bool = False) -> Run:
    """Read the job's graph, cut it into parts and write graph.h5, as `gnnsoup prepare` does.

    again: cut it anew where it is there; offline: a set that is not there is an error, and nothing is downloaded.
    """
    from gnnsoup_hpc.data import prepare as data

    job = _read(config)
    with _start() as here:
        data.prepare(job, here, Log(quiet=not progress), again, offline)
        data.note_job(job)
    return Run.of(job)


def train_ingredients(config: Config, *, offline: bool = False, progress: bool = False) -> Run:
    """Train the job's ingredients that are missing, its graph prepared first, as `gnnsoup train` does.

    Raises: errors.IngredientsError where some could not be trained, once all others are there.
    """
    from gnnsoup_hpc.cli.train import train

    job = _read(config)
    with _start() as here:
        train(job, here, offline, souping=False, quiet=not progress)
    return Run.of(job)


def import_checkpoints(
    config: Config,
    files: Sequence[str | PathLike[str]],
    key: str = "",
    *,
    offline: bool = False,
    progress: bool = False,
) -> Run:
    """Make files the ingredients of a job's run, as `gnnsoup import` does (docs/import.md).

    files: paths and patterns; key: which of a file's entries is the state.
    Raises: errors.FileError where a file does not fit the model; nothing is written then.
    """
    from gnnsoup_hpc.train.imports import import_all

    job = _read(config)
    with _start() as here:
        import_all(job, [str(file) for file in files], key, here, Log(quiet=not progress), offline)
    return Run.of(job)


def make_soups(config: Config, *, again: bool = False, progress: bool = False) -> Run:
    """Mix the job's ingredients, which are there, by all its methods, and write the report, as `gnnsoup soup` does.

    Of a sweep of training they are those of the run's `joint_runs`. again: make all soups anew.
    Raises: errors.RunError where there are no ingredients.
    """
    from gnnsoup_hpc.cli.soup import soup

    job = _read(config)
    with _start() as here:
        soup(job, here, again, "brief" if progress else "nothing")
    return Run.of(job)


class Run:
    """The folder of a run. Everything is read when it is asked for, and raises errors.SoupError where it is not there.

    path: the folder, wherever it is now.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)

    @classmethod
    def of(cls, job: Job) -> Run:
        """The run of a job."""
        return cls(RunDir.of(job).root)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def job(self) -> Job:
        """The resolved job that was last used on this run."""
        return load_job_of_run(self.path)

    def status(self) -> dict[str, Any]:
        """How the run stands, while ranks work at it or not: what `gnnsoup status --json` prints."""
        from gnnsoup_hpc.analysis.status.read import read_status
        from gnnsoup_hpc.analysis.status.table import make_json

        return make_json(read_status(self.job, RunDir(self.path)))

    def report(self) -> dict[str, DataFrame]:
        """The tables of its report: `read_report`."""
        return read_report(self.path)

    def soup(self, method: str) -> Trained:
        """The soup of a method: `load_soup`."""
        return load_soup(self.path, method)

    @property
    def ingredients(self) -> list[Trained]:
        """The job's ingredients that are there, in their order, all in memory; of a sweep of training its runs'."""
        if grid := self.grid:
            return [ingredient for run in grid.values() for ingredient in run.ingredients]
        run, count = RunDir(self.path), self.job.train.ingredients
        return [read_model(path) for path in map(run.ingredient, range(count)) if path.exists()]

    @property
    def grid(self) -> dict[str, Run]:
        """Of a sweep of training, the run of each combination by its name; else none."""
        return {each.job.name: Run.of(each.job) for each in expand_grid(self.job)}

    @property
    def joint_runs(self) -> dict[str, Run]:
        """Of a sweep of training, the joint run of each model, by its name; else none."""
        return {joint.job.name: Run.of(joint.job) for joint in list_joint_runs(self.job)}

    def export(self, to: str | PathLike[str], method: str | None = None) -> list[Path]:
        """Write a soup's weights to a file of .pt or .safetensors, card and script beside it: `export`."""
        return export(self.path, to, method)

    def predict(
        self,
        method: str | None = None,
        graph: str | None = None,
        *,
        to: str | PathLike[str] | None = None,
        overrides: Mapping[str, Any] | None = None,
        offline: bool = False,
        progress: bool = False,
    ) -> FloatArray:
        """Scores of every node, (V, C) float32, in the source's order, as `gnnsoup predict` has them.

        method: whose soup, or the ensemble; None: the soup with the best validation metric. graph: another graph than
        the run's, as graph.source names one; labels it need not have. to: a file of .npy that takes the scores, and is
        given as a read-only map: for those that are larger than memory. overrides: of the run's job, as `load_config`
        takes them: {"machine.memory_limit": "2 GiB"}.
        """
        from gnnsoup_hpc.analysis.export import choose_soup
        from gnnsoup_hpc.analysis.predict import Asked, predict, write_scores
        from gnnsoup_hpc.analysis.report.contents import read_contents

        found, log = read_contents(self.path), Log(quiet=not progress)
        job = load_job_of_run(self.path, overrides or {})
        asked = Asked(found, choose_soup(found, method, ensembles=True), job, graph, offline)
        with _start() as here:
            if to is None:
                return predict(asked, here, log)
            write_scores(Path(to), asked, here, log)
        scores: FloatArray = np.load(to, mmap_mode="r")
        return scores


def export(run: str | PathLike[str], to: str | PathLike[str], method: str | None = None) -> list[Path]:
    """Write a soup of the run in a folder to a file of .pt or .safetensors, as `gnnsoup export` does; the files.

    method: whose soup; None: that which `gnnsoup export` takes. Beside the weights are a card and a script that
    predicts without this package (docs/format.md).
    Raises: errors.RunError where there is no such soup, or a file of other content.
    """
    from gnnsoup_hpc.analysis.export import choose_soup, export_soup
    from gnnsoup_hpc.analysis.report.contents import read_contents

    found = read_contents(Path(run))
    return export_soup(found, choose_soup(found, method), Path(to))


def load_soup(run: str | PathLike[str], method: str) -> Trained:
    """A soup of the run in a folder: `state`, `as_pyg()` its module, `alpha`, `preparation`; `predict` of a raw graph.

    Raises: FileError where there is none, it is damaged, or it is an ensemble, which is no one model.
    """
    return read_model(RunDir(Path(run)).soup(method))


def read_report(run: str | PathLike[str]) -> dict[str, DataFrame]:
    """Tables of the report of the run in a folder by their names, as methods, ingredients, phases or histories/pls.

    verdicts and notes have one column, `text`. Raises: FileError where it is missing or damaged.
    """
    from pandas import DataFrame

    return {name: DataFrame(columns) for name, columns in report.read_tables(RunDir(Path(run)).report).items()}


def _read(config: Config) -> Job:
    return config if isinstance(config, Job) else load_config(config)


@contextmanager
def _start() -> Iterator[RankInfo]:
    """A block that computes in this process, as the only rank; it leaves torch's number of threads as it was.

    Raises: LauncherError in a process of several ranks, each of which would do all of it.
    """
    here, threads = launch.read_rank_info(), torch.get_num_threads()
    if here.size > 1:
        raise LauncherError(
            f"this is rank {here.rank} of {here.size}, and functions of gnnsoup_hpc are for one process: start it"
            " without mpirun or srun, or use the commands, as `mpirun -n P gnnsoup run JOB`"
        )
    try:
        with explain_out_of_memory("not all was done"):
            yield here
    finally:
        torch.set_num_threads(threads)
