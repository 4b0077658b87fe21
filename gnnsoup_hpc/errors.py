"""What can go wrong, as one line that says what is wrong, where, and what to do.

Every error that a user can cause or meet is a `SoupError`; entry points print its message alone and exit with its
`exit_code`. Anything else is a defect of this package and shows its traceback.
"""

import pickle
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

# What libraries raise over a file that is truncated or damaged, or none of theirs.
UNREADABLE = (
    *(OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, OverflowError),
    *(AssertionError, ImportError, pickle.UnpicklingError, zipfile.BadZipFile, zlib.error),
)


class SoupError(Exception):
    """Base of all errors whose message is meant for the user."""

    exit_code = 1


class JobError(SoupError):
    """The job file or a `--set` is wrong: unknown key, value out of range, fields that contradict each other."""

    exit_code = 2


class MissingJobError(JobError):
    """There is no such job file here; other ranks, on other nodes, may have one."""


class GraphError(SoupError):
    """The source of a graph is missing, malformed, or lacks what souping needs."""


class PartError(SoupError):
    """A part of the graph is asked for that does not exist, or twice, or the parts cannot be made."""


class FileError(SoupError):
    """A file of the run is missing, truncated, damaged, foreign, incomplete, or from a newer version."""


class MissingFileError(FileError):
    """A file of the run is not there."""


class ForeignFileError(FileError):
    """A file of the run is sound, but belongs to another job."""


class RunError(SoupError):
    """The run is not in the state that the command needs; the message names the command that brings it there."""


class DivergedError(RunError):
    """A training had no finite weights to keep; the same job on the same machine will not have them either."""


class IngredientsError(RunError):
    """Some ingredients could not be trained; all others were."""


class MemoryLimitError(SoupError):
    """What the job asks for would not stay within machine.memory_limit; the message says what it needs."""

    exit_code = 3


class DeviceMemoryError(SoupError):
    """A GPU's memory is too little for what was begun; what was done until then is kept."""

    exit_code = 3


class LauncherError(SoupError):
    """What the machine or the launcher gives this rank is not what the job asks for."""


class MismatchError(LauncherError):
    """The launcher (mpirun, srun) and the MPI library do not know each other."""


class Interrupted(SoupError):  # noqa: N818 - an event, not a mistake
    """Stopped by Ctrl-C; the same command goes on where this one stopped, or from the last checkpoint."""

    exit_code = 130


class Preempted(SoupError):  # noqa: N818 - an event, not a mistake
    """Stopped by another signal than Ctrl-C, after a checkpoint; the same command goes on where this one stopped."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: give the command again


@contextmanager
def advise(what: str) -> Iterator[None]:
    """A FileError of the block becomes a RunError that also says what to do."""
    try:
        yield
    except FileError as error:
        raise RunError(f"{error}: {what}") from None
