"""The `gnnsoup` command: a file of this room for each of its commands.

A command loads its rooms when it is chosen, and no sooner. Its file has `add_arguments`, and `load`, which loads what
it needs and returns the command itself, so that nothing has begun while Python still loads modules.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module

from gnnsoup_hpc import __version__
from gnnsoup_hpc.cli import common
from gnnsoup_hpc.runtime.terminal import Terminal

COMMANDS = {
    "run": "Everything: prepare, train, soup, report; goes on where it was stopped.",
    "prepare": "Read the graph, cut it into parts, write graph.h5.",
    "train": "Train the ingredients that are missing; `mpirun -n P` shares them among ranks.",
    "soup": "Mix the ingredients by all methods of the job, and report.",
    "status": "Say how a run stands: what is finished, running, failed or missing, and when training will end.",
    "diagnose": "Say whether a run's ingredients lie in one basin, so that a soup can pay, and what to do where they do"
    " not.",
    "report": "Write a run's report.h5 anew and print its table; several runs are compared.",
    "bench": "Time and memory of evaluation, LS, PLS and GIS beside PyG's own classes, every cell in processes of its"
    " own.",
    "job": "Print the resolved job, every field with what it means.",
}
COLLECTIVE = ("soup", "run", "diagnose")
COMPUTING = ("prepare", "train", "soup", "run", "diagnose", "bench")


def main(words: Sequence[str], terminal: Terminal) -> int:
    """Carry out what `words` say; the exit code."""
    parser = argparse.ArgumentParser(
        prog="gnnsoup", description="Souping graph neural networks at scale.", epilog=common.EXIT_CODES
    )
    parser.add_argument("--version", action="version", version=f"gnnsoup_hpc {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    chosen = next((word for word in words if not word.startswith("-")), "")
    for name, about in COMMANDS.items():
        own = commands.add_parser(name, help=about, description=about)
        if name == chosen:
            module = import_module(f"gnnsoup_hpc.cli.{name}")
            module.add_arguments(own)
    try:
        parsed = parser.parse_args(words)
    except SystemExit as ended:  # --help and --version too
        raise SystemExit(terminal.ended(int(ended.code or 0))) from None
    return common.execute(module.load(parsed), collective=chosen in COLLECTIVE, computing=chosen in COMPUTING)
