"""What the `gnnsoup` command can do. A command loads its rooms when it is chosen, and no sooner.

Each function here loads what its command needs and returns the command itself, so that nothing has begun while Python
still loads modules.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from gnnsoup_hpc import __version__
from gnnsoup_hpc.cli import common
from gnnsoup_hpc.cli.common import Command
from gnnsoup_hpc.runtime.launch import RankInfo
from gnnsoup_hpc.runtime.terminal import Terminal


def prepare(arguments: argparse.Namespace) -> Command:
    """Read the graph, cut it into parts, write graph.h5."""
    from gnnsoup_hpc.data import prepare as room
    from gnnsoup_hpc.runtime.progress import Log

    def command(here: RankInfo) -> None:
        job = common.load_job(arguments)
        room.prepare(job, here, Log(here.prefix, stop=here.stop), arguments.again, arguments.offline)
        if here.rank == 0:
            room.note_job(job)

    return command


def train(arguments: argparse.Namespace) -> Command:
    """Train the ingredients that are missing; `mpirun -n P` shares them among ranks."""
    from gnnsoup_hpc.cli.train import train

    return lambda here: train(common.load_job(arguments), here, arguments.offline)


def soup(arguments: argparse.Namespace) -> Command:
    """Mix the ingredients by all methods of the job, and report."""
    from gnnsoup_hpc.cli.soup import soup

    return lambda here: soup(common.load_job(arguments), here, arguments.again)


def run(arguments: argparse.Namespace) -> Command:
    """Everything: prepare, train, soup, report; goes on where it was stopped."""
    from gnnsoup_hpc.cli.soup import soup
    from gnnsoup_hpc.cli.train import train

    def command(here: RankInfo) -> None:
        job = common.load_job(arguments)
        train(job, here, arguments.offline, souping=True)
        soup(job, here, arguments.again)

    return command


def report(arguments: argparse.Namespace) -> Command:
    """Write a run's report.h5 anew and print its table; several runs are compared."""
    from gnnsoup_hpc.cli.report import report_all

    return lambda here: report_all(arguments.runs)


def status(arguments: argparse.Namespace) -> Command:
    """Say how a run stands: what is finished, running, failed or missing, and when training will end."""
    from gnnsoup_hpc.cli.status import status

    return lambda here: status(arguments)


def diagnose(arguments: argparse.Namespace) -> Command:
    """Say whether a run's ingredients lie in one basin, so that a soup can pay, and what to do where they do not."""
    from gnnsoup_hpc.cli.diagnose import diagnose

    return lambda here: diagnose(arguments, here)


def bench(arguments: argparse.Namespace) -> Command:
    """Time and memory of evaluation, LS, PLS and GIS beside PyG's own classes, every cell in processes of its own."""
    from gnnsoup_hpc.cli.bench import bench

    return lambda here: bench(arguments, here)


def job(arguments: argparse.Namespace) -> Command:
    """Print the resolved job, every field with what it means."""
    from gnnsoup_hpc import config as jobs
    from gnnsoup_hpc.runtime.run_dir import RunDir

    def command(here: RankInfo) -> None:
        resolved = common.load_job(arguments)
        print(RunDir.of(resolved).logs if arguments.logs else jobs.explain(resolved))

    return command


AGAIN = {prepare: "cut the graph anew", soup: "make all soups anew", run: "make all soups anew"}
COLLECTIVE = (soup, run, diagnose)
COMPUTING = (prepare, train, soup, run, diagnose, bench)


def main(words: Sequence[str], terminal: Terminal) -> int:
    """Carry out what `words` say; the exit code."""
    parser = argparse.ArgumentParser(
        prog="gnnsoup", description="Souping graph neural networks at scale.", epilog=common.EXIT_CODES
    )
    parser.add_argument("--version", action="version", version=f"gnnsoup_hpc {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    chosen = next((word for word in words if not word.startswith("-")), "")
    for command in (run, prepare, train, soup, status, diagnose, report, bench, job):
        _add(commands, command, chosen == command.__name__)
    try:
        parsed = parser.parse_args(words)
    except SystemExit as ended:  # --help and --version too
        raise SystemExit(terminal.ended(int(ended.code or 0))) from None
    load = parsed.command
    return common.guarded(load(parsed), collective=load in COLLECTIVE, computing=load in COMPUTING)


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], command: Callable[..., Command], chosen: bool
) -> None:
    """One subcommand, described by its function's docstring; its arguments where it is the one that is `chosen`."""
    about = (command.__doc__ or "").strip()
    parser = commands.add_parser(command.__name__, help=about, description=about)
    parser.set_defaults(command=command)
    if not chosen:
        return
    if command is report:
        from gnnsoup_hpc.cli.report import add_runs as add
    elif command is status:
        from gnnsoup_hpc.cli.status import add_status as add
    elif command is diagnose:
        from gnnsoup_hpc.cli.diagnose import add_run as add
    elif command is bench:
        from gnnsoup_hpc.cli.bench import add_bench as add
    else:
        add = common.add_job
    add(parser)
    if command in (prepare, train, run):
        common.add_offline(parser)
    if command in (train, soup, run, job):
        common.add_memory_limit(parser)
    if command is job:
        parser.add_argument("--logs", action="store_true", help="print the folder of the run's logs alone")
    if command in AGAIN:
        parser.add_argument("--again", action="store_true", help=AGAIN[command])
