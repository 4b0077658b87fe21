"""What all entry points share: arguments, the job, one clear line for an error."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from gnnsoup_hpc import job as jobs
from gnnsoup_hpc import ranks
from gnnsoup_hpc.errors import Interrupted, JobError, SoupError
from gnnsoup_hpc.job import Job
from gnnsoup_hpc.ranks import Place

JOB_HELP = "a job file, or the name of a bundled job (default: pubmed)"


def add_job(parser: argparse.ArgumentParser) -> None:
    """Arguments that say which job."""
    parser.add_argument("job", nargs="?", metavar="JOB", help=JOB_HELP)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override one field of the job, for example soup.pls.union=8; may be repeated",
    )


def load_job(arguments: argparse.Namespace) -> Job:
    """The job that the arguments of `add_job` say."""
    return jobs.load(arguments.job, arguments.set)


def guarded(command: Callable[[Place], None]) -> int:
    """Run a command; its exit code. An error that a user can meet is one line; any other ends all ranks.

    What is wrong with a job is wrong on every rank alike, so rank 0 alone says it.
    """
    here = ranks.place()
    ranks.show_tracebacks(here)
    try:
        command(here)
    except KeyboardInterrupt:
        return _ended(here, Interrupted("interrupted; the same command goes on from here"))
    except SoupError as error:
        return _ended(here, error)
    return 0


def _ended(here: Place, error: SoupError) -> int:
    if here.rank == 0 or not isinstance(error, JobError):
        ranks.say_error(here, error)
    ranks.abort_others(error.exit_code)
    return error.exit_code
