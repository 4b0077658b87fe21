"""The `gnnsoup` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from gnnsoup_hpc import __version__, cli
from gnnsoup_hpc import job as jobs
from gnnsoup_hpc.ranks import Place
from gnnsoup_hpc.run_dir import RunDir


def prepare(arguments: argparse.Namespace, here: Place) -> None:
    """Read the graph, cut it into parts, write graph.h5."""
    from gnnsoup_hpc import prepare as room
    from gnnsoup_hpc.progress import Log

    job = cli.load_job(arguments)
    room.prepare(job, here, Log(here.prefix, stop=here.stop), arguments.again, arguments.offline)
    if here.rank == 0:
        room.note_job(job)


def train(arguments: argparse.Namespace, here: Place) -> None:
    """Train the ingredients that are missing; `mpirun -n P` shares them among ranks."""
    from gnnsoup_hpc.train.__main__ import train

    train(cli.load_job(arguments), here, arguments.offline)


def soup(arguments: argparse.Namespace, here: Place) -> None:
    """Mix the ingredients by all methods of the job, and report."""
    from gnnsoup_hpc.soup.__main__ import soup

    soup(cli.load_job(arguments), here, arguments.again)


def run(arguments: argparse.Namespace, here: Place) -> None:
    """Everything: prepare, train, soup, report; goes on where it was stopped."""
    from gnnsoup_hpc.soup.__main__ import soup
    from gnnsoup_hpc.train.__main__ import train

    job = cli.load_job(arguments)
    train(job, here, arguments.offline, souping=True)
    soup(job, here, arguments.again)


def report(arguments: argparse.Namespace, here: Place) -> None:
    """Write a run's report.h5 anew and print its table; several runs are compared."""
    from gnnsoup_hpc.report.__main__ import report_all

    report_all(arguments.runs)


def status(arguments: argparse.Namespace, here: Place) -> None:
    """Say how a run stands: what is finished, running, failed or missing, and when training will end."""
    from gnnsoup_hpc.status.__main__ import status

    status(arguments)


def diagnose(arguments: argparse.Namespace, here: Place) -> None:
    """Say whether a run's ingredients lie in one basin, so that a soup can pay, and what to do where they do not."""
    from gnnsoup_hpc.diagnosis.__main__ import diagnose

    diagnose(arguments, here)


def bench(arguments: argparse.Namespace, here: Place) -> None:
    """Time and memory of evaluation, LS, PLS and GIS beside PyG's own classes, every cell in processes of its own."""
    from gnnsoup_hpc.bench.__main__ import bench

    bench(arguments, here)


def job(arguments: argparse.Namespace, here: Place) -> None:
    """Print the resolved job, every field with what it means."""
    resolved = cli.load_job(arguments)
    print(RunDir.of(resolved).logs if arguments.logs else jobs.explained(resolved))


AGAIN = {prepare: "cut the graph anew", soup: "make all soups anew", run: "make all soups anew"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(
        prog="gnnsoup", description="Souping graph neural networks at scale.", epilog=cli.EXIT_CODES
    )
    parser.add_argument("--version", action="version", version=f"gnnsoup_hpc {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (run, prepare, train, soup, status, diagnose, report, bench, job):
        _add(commands, command)
    parsed = parser.parse_args(arguments)
    return cli.guarded(lambda here: parsed.command(parsed, here), collective=parsed.command in (soup, run, diagnose))


def _add(commands: argparse._SubParsersAction[argparse.ArgumentParser], command: Callable[..., None]) -> None:
    """One subcommand, described by its function's docstring."""
    from gnnsoup_hpc.bench.__main__ import add_bench
    from gnnsoup_hpc.diagnosis.__main__ import add_run
    from gnnsoup_hpc.report.__main__ import add_runs
    from gnnsoup_hpc.status.__main__ import add_status

    about = (command.__doc__ or "").strip()
    parser = commands.add_parser(command.__name__, help=about, description=about)
    parser.set_defaults(command=command)
    if command is report:
        add_runs(parser)
    elif command is status:
        add_status(parser)
    elif command is diagnose:
        add_run(parser)
    elif command is bench:
        add_bench(parser)
    else:
        cli.add_job(parser)
    if command in (prepare, train, run):
        cli.add_offline(parser)
    if command in (train, soup, run, job):
        cli.add_memory_limit(parser)
    if command is job:
        parser.add_argument("--logs", action="store_true", help="print the folder of the run's logs alone")
    if command in AGAIN:
        parser.add_argument("--again", action="store_true", help=AGAIN[command])


if __name__ == "__main__":
    sys.exit(main())
