"""What all entry points share: arguments, the job, one clear line for an error."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from gnnsoup_hpc import job as jobs
from gnnsoup_hpc import paths, ranks
from gnnsoup_hpc.errors import (
    IngredientsError,
    Interrupted,
    JobError,
    MismatchError,
    MissingJobError,
    Preempted,
    RunError,
    SoupError,
)
from gnnsoup_hpc.job import Job
from gnnsoup_hpc.ranks import Place
from gnnsoup_hpc.run_dir import RunDir

EXIT_BROKEN_PIPE = 141  # as the shell has it: 128 + SIGPIPE
GRACE_SECONDS = 5.0
PREEMPTED_SECONDS = 20.0  # for the other ranks' checkpoints; Slurm kills 30 s after SIGTERM
EXIT_CODES = (
    "exit codes: 0 done; 1 a file, a graph or the run is not as it must be; 2 the job or the arguments are wrong;"
    " 3 it does not fit in the memory limit; 75 stopped by SIGTERM, SIGUSR1 or SIGUSR2 after a checkpoint: give the"
    " same command again; 130 interrupted (Ctrl-C)"
)
JOB_HELP = "a job file, or the name of a bundled job (default: pubmed)"


def add_job(parser: argparse.ArgumentParser, called: str = "JOB", about: str = JOB_HELP) -> None:
    """Arguments that say which job."""
    parser.add_argument("job", nargs="?", metavar=called, help=about)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override one field of the job, for example soup.pls.union=8; may be repeated",
    )


def add_offline(parser: argparse.ArgumentParser) -> None:
    """The argument that forbids downloads."""
    parser.add_argument("--offline", action="store_true", help="never reach out; a set that is not there is an error")


def add_memory_limit(parser: argparse.ArgumentParser) -> None:
    """The argument that bounds a rank's memory."""
    parser.add_argument(
        "--memory-limit",
        metavar="SIZE",
        help="most resident memory of a rank, for example '2 GiB'; stands for --set machine.memory_limit=SIZE",
    )


def load_job(arguments: argparse.Namespace) -> Job:
    """The job that the arguments of `add_job`, and of `add_memory_limit` where the command has it, say."""
    limit = getattr(arguments, "memory_limit", None)
    bound = [] if limit is None else [f"machine.memory_limit={limit}"]
    return jobs.load(arguments.job, [*arguments.set, *bound])


def job_of_run(arguments: argparse.Namespace) -> Job:
    """The job of a run's folder, wherever the folder is now; or a job like that of any command.

    Raises: RunError where a folder is no run.
    """
    root = Path(arguments.job).expanduser() if arguments.job else None
    if root is None or not root.is_dir():
        return load_job(arguments)
    if not RunDir(root).job.is_file():
        raise RunError(f"{root} is not the folder of a run (it has no job.toml): run `gnnsoup run JOB` first")
    arguments.job = str(RunDir(root).job)
    place = root if root.name not in ("", "..") else root.resolve()
    return load_job(arguments).model_copy(update={"runs": paths.literal(place.parent), "name": place.name})


def guarded(command: Callable[[Place], None], collective: bool = False) -> int:
    """Run a command; its exit code. An error that a user can meet is one line; any other ends all ranks.

    A collective command starts MPI first of all, so that whatever stops one rank can end the others.
    """
    here = ranks.place()
    ranks.show_tracebacks(here)
    with here.stop.heard():
        return _guarded(command, here, collective)


def _guarded(command: Callable[[Place], None], here: Place, collective: bool) -> int:
    try:
        if collective:
            ranks.world(here)
        command(here)
        sys.stdout.flush()
        here.stop.no_more()
    except KeyboardInterrupt:
        return _ended(here, Interrupted("interrupted; the same command goes on from here"))
    except BrokenPipeError:  # whoever read our output, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        ranks.abort_others(EXIT_BROKEN_PIPE)
        return EXIT_BROKEN_PIPE
    except SoupError as error:
        return _ended(here, error)
    return 0


def _ended(here: Place, error: SoupError) -> int:
    """Say an error, end the other ranks, and return the exit code.

    What is wrong in a job, with ingredients or between launcher and MPI is wrong on every rank alike, so rank 0 alone
    says it, unless it turns out to have no error.
    """
    here.stop.no_more()
    alike = isinstance(error, JobError | IngredientsError | MismatchError) and not isinstance(error, MissingJobError)
    if here.rank > 0 and alike:
        time.sleep(GRACE_SECONDS)  # rank 0 ends us meanwhile; and a mpirun that ends all with the first lets it speak
        if not ranks.mpi_runs():
            return error.exit_code
    ranks.say_error(here, error)
    if isinstance(error, Preempted):
        ranks.wait_for_others(PREEMPTED_SECONDS)
    ranks.abort_others(error.exit_code)
    return error.exit_code
