"""What all entry points share: the job that arguments name, one clear line for an error."""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from gnnsoup_hpc import errors
from gnnsoup_hpc.runtime import launch
from gnnsoup_hpc.runtime.gpu import explain_out_of_memory
from gnnsoup_hpc.runtime.launch import RankInfo
from gnnsoup_hpc.runtime.terminal import terminal
from gnnsoup_hpc.utils.paths import expand_home

if TYPE_CHECKING:
    from gnnsoup_hpc.config import Job

Form = Literal["brief", "verbose", "json", "nothing"]  # of a report
NOWHERE = RankInfo(0, 1, 0, 1, "")  # of a process whose launcher cannot be understood
# Of what rank 0 alone speaks: what is wrong on every rank, and what ranks of a world find together.
WRONG_ALIKE = (errors.JobError, errors.IngredientsError, errors.MismatchError)
FOUND_TOGETHER = (errors.DivergedError, errors.MemoryLimitError, errors.LauncherError)
_OF_PLACES = ("name", "runs", "graph.root")  # fields that say where a run and its source are
GRACE_SECONDS = 5.0
PREEMPTED_SECONDS = 20.0  # for the other ranks' checkpoints; Slurm kills 30 s after SIGTERM


def load_job(arguments: argparse.Namespace) -> Job:
    """The job that a command's arguments say."""
    from gnnsoup_hpc.models import jobs

    return jobs.load_job(arguments.job, _list_overrides(arguments))


def choose_form(arguments: argparse.Namespace) -> Form:
    """In which form a report is printed; JSON stands alone on stdout, and quiet commands print errors alone."""
    return "nothing" if arguments.quiet else "json" if arguments.json else "verbose" if arguments.verbose else "brief"


def _list_overrides(arguments: argparse.Namespace) -> list[str]:
    limit = getattr(arguments, "memory_limit", None)
    return [*arguments.set, *([] if limit is None else [f"machine.memory_limit={limit}"])]


def job_of_run(arguments: argparse.Namespace) -> Job:
    """The job of a run's folder, wherever the folder is now; or a job like that of any command.

    Raises: RunError where a folder is no run.
    """
    from gnnsoup_hpc.models import jobs

    root = expand_home(arguments.job) if arguments.job else None
    if root is None or not root.is_dir():
        return load_job(arguments)
    return jobs.load_job_of_run(root, _list_overrides(arguments))


def job_of_souped_run(arguments: argparse.Namespace) -> Job:
    """The same of what is souped: of the run of a sweep of training, its one joint run.

    Raises: RunError where there are several, or one is not there yet, as of a sweep that was stopped.
    """
    from gnnsoup_hpc.config.grid import choose_joint_run, list_joint_runs
    from gnnsoup_hpc.runtime.run_dir import RunDir

    job = job_of_run(arguments)
    roots = [RunDir.of(joint.job).root for joint in list_joint_runs(job)]
    if missing := [root for root in roots if not root.is_dir()]:
        raise errors.RunError(
            f"the sweep of training {job.name} is not souped yet ({missing[0]} is not there): give the same"
            " `gnnsoup run JOB` again, which goes on with it"
        )
    return choose_joint_run(job)


def say_overruled(overrides: Sequence[str], asked: Job) -> None:
    """Say which values of `--set` a run was not made with, where its results are read as they are."""
    from gnnsoup_hpc.config import loading
    from gnnsoup_hpc.runtime.run_dir import RunDir

    run = RunDir.of(asked)
    if not run.job.is_file():
        return
    made, wanted = (job.model_dump(mode="json") for job in (loading.load(run.job), asked))
    for key in (text.partition("=")[0].strip() for text in overrides):
        was, value = _look_up(made, key), _look_up(wanted, key)
        if was != value and key not in _OF_PLACES and not key.startswith("machine."):
            print(
                f"{run.root} was made with {key} = {was!r}, and is read as it is: --set {key} changes nothing",
                flush=True,
            )


def _look_up(tree: Any, key: str) -> Any:
    """The value of a dotted name in tables; None where there is none."""
    for name in key.split("."):
        tree = tree.get(name) if isinstance(tree, dict) else None
    return tree


def execute(command: Callable[[RankInfo], None], collective: bool = False, computing: bool = False) -> int:
    """Run a command; its exit code. An error that a user can meet is one line; any other ends all ranks.

    A collective command starts MPI first of all, so that whatever stops one rank can end the others. Of a computing one
    it is said where its compiled kernels are kept, if that is not the usual place.
    """
    with terminal() as ours:
        try:
            here = launch.read_rank_info()
        except errors.LauncherError as error:
            launch.say_error(NOWHERE, error)
            return ours.end(error.exit_code)
        launch.show_tracebacks(here)
        with here.stop.heard(last=True):
            return ours.end(_execute(command, here, collective, computing), here.prefix)


def _execute(command: Callable[[RankInfo], None], here: RankInfo, collective: bool, computing: bool) -> int:
    try:
        if collective:
            launch.start_mpi(here)
        if computing and here.local_rank == 0:
            from gnnsoup_hpc.engine.compiled.kernels.base import UNUSUAL

            if UNUSUAL:
                print(f"{here.prefix}gnnsoup: {UNUSUAL}", file=sys.stderr, flush=True)
        gc.freeze()  # what was imported: each measurement begins with a collection, which need not look through it
        with explain_out_of_memory("not all was done"):
            command(here)
        here.stop.no_more()
    except KeyboardInterrupt:
        return _fail(here, errors.Interrupted("interrupted at once; the same command goes on from the last checkpoint"))
    except errors.SoupError as error:
        return _fail(here, error)
    except OSError as error:  # of a file, whichever room met it: too long a name, no permission, no room, no server
        if error.filename is None:
            raise
        why = f"{os.fsdecode(error.filename)} cannot be used: {error.strerror}; check the path and its permissions"
        return _fail(here, errors.FileError(why))
    return 0


def _fail(here: RankInfo, error: errors.SoupError) -> int:
    """Say an error, end the other ranks, and return the exit code.

    What is wrong in a job, with ingredients or between launcher and MPI is wrong on every rank alike, and so is what
    ranks of a world find together; so rank 0 alone says it, unless it turns out to have no error.
    """
    here.stop.no_more()
    alike = isinstance(error, WRONG_ALIKE) and not isinstance(error, errors.MissingJobError)
    alike |= launch.mpi_is_running() and isinstance(error, FOUND_TOGETHER)
    if here.rank > 0 and alike:
        time.sleep(GRACE_SECONDS)  # rank 0 ends us meanwhile; and a mpirun that ends all with the first lets it speak
        if not launch.mpi_is_running():
            return error.exit_code
    launch.say_error(here, error)
    if isinstance(error, errors.Preempted | errors.Interrupted):
        launch.wait_for_others(PREEMPTED_SECONDS)
    launch.abort_others(error.exit_code)
    return error.exit_code
