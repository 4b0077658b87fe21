"""The `gnnsoup` command: a file of this room for each of its commands.

Arguments are read here, before anything else is loaded. Then the file of the command that they name is, whose `run` is
the command: nothing has begun while Python still loads modules.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from keyword import iskeyword
from pathlib import Path

from gnnsoup_hpc import __version__
from gnnsoup_hpc.cli import common
from gnnsoup_hpc.runtime.terminal import Terminal

COMMANDS = {
    "run": "Everything: prepare, train, soup, report; goes on where it was stopped.",
    "prepare": "Read the graph, cut it into parts, write graph.h5.",
    "train": "Train the ingredients that are missing; `mpirun -n P` shares them among ranks.",
    "import": "Make checkpoints of other programs, or ingredients of other runs, the ingredients of a job's run.",
    "soup": "Mix the ingredients by all methods of the job, and report.",
    "status": "Say how a run stands: what is finished, running, failed or missing, and when training will end.",
    "diagnose": "Say whether a run's ingredients lie in one basin, so that a soup can pay, and what to do where they do"
    " not.",
    "report": "Write a run's report.h5 anew and print its table; several runs are compared.",
    "study": "One job in several settings, with ingredients made in several ways, over several seeds: what each method"
    " gains. `mpirun -n P` shares the runs among ranks.",
    "export": "Write a soup's weights to a file, with a card and a script that predicts without this package.",
    "predict": "Write a soup's scores of every node of the run's graph, or of another one.",
    "bench": "Time and memory of evaluation, LS, PLS and GIS beside PyG's own classes, every cell in processes of its"
    " own.",
    "job": "Print the resolved job, every field with what it means.",
    "slurm": "Write the batch scripts for Slurm to a folder, where they run the Python that wrote them.",
}
COLLECTIVE = ("soup", "run", "diagnose")
COMPUTING = ("prepare", "train", "import", "soup", "run", "diagnose", "predict", "study", "bench")
OFFLINE = ("run", "prepare", "train", "import", "predict", "study", "bench")
BOUNDED = ("run", "train", "import", "soup", "diagnose", "predict", "job")
REPORTING = ("run", "soup", "report")
FORMS = {
    "verbose": "print all figures and sentences, not the answer and one table alone",
    "quiet": "print errors alone; report.h5 has all",
    "json": "print the report as JSON, a line a run, and nothing else",
}
FLAGS = {
    "study": {"show": "print what is there, and make nothing"},
    "job": {"logs": "print the folder of the run's logs alone"},
    "status": {"all": "a line for every ingredient, however many there are", "json": "as JSON, for programs"},
}
AGAIN = {
    "run": "make all soups anew",
    "prepare": "cut the graph anew",
    "soup": "make all soups anew",
    "diagnose": "measure anew, also where the diagnosis is there",
}
TO = {  # whose soup, and the file that it goes to
    "export": (
        "whose soup (default: the one with the best validation metric that is one model; where train.labels is all, the"
        " last one that soup.methods lists)",
        "a file of .pt or .safetensors; card and script go beside it (default: RUN-METHOD.pt here)",
    ),
    "predict": (
        "whose soup, or the ensemble (default: the soup with the best validation metric)",
        "a file of .npy: (V, C) float32, logits, or of the ensemble mean probabilities, nodes in the source's order"
        " (default: RUN-METHOD.npy here, with the other graph's name)",
    ),
}
INSTEAD_OF_JOBS = {
    "study": ("study", "STUDY", "a study file (docs/studies.md), or the name of a bundled study"),
    "slurm": ("folder", "DIR", "where the scripts go; those that are there and were not changed are written anew"),
}
WITHOUT_JOBS = ("bench", "slurm")  # bench has a --set of its own
JOB_HELP = "a job file, or the name of a bundled job (default: pubmed)"
EXIT_CODES = (
    "exit codes: 0 done; 1 a file, a graph or the run is not as it must be, or stdout cannot be written; 2 the job or"
    " the arguments are wrong; 3 it does not fit in the memory limit; 75 stopped by SIGTERM, SIGHUP, SIGUSR1 or SIGUSR2"
    " after a checkpoint: give the same command again; 130 stopped by Ctrl-C after a checkpoint, or at once by a second"
    " one"
)


def main(words: Sequence[str], terminal: Terminal) -> int:
    """Carry out what `words` say; the exit code."""
    parser = argparse.ArgumentParser(
        prog="gnnsoup", description="Souping graph neural networks at scale.", epilog=EXIT_CODES
    )
    parser.add_argument("--version", action="version", version=f"gnnsoup_hpc {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    chosen = next((word for word in words if not word.startswith("-")), "")
    for name, about in COMMANDS.items():
        own = commands.add_parser(name, help=about, description=about)
        if name == chosen:
            add_arguments(own, name)
    try:
        parsed = parser.parse_args(words)
    except SystemExit as ended:  # --help and --version too
        raise SystemExit(terminal.end(int(ended.code or 0))) from None
    module = f"gnnsoup_hpc.cli.{chosen}{'_' if iskeyword(chosen) else ''}"
    command = partial(import_module(module).run, parsed)
    return common.execute(command, collective=chosen in COLLECTIVE, computing=chosen in COMPUTING)


def add_arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """The arguments of a command."""
    if command == "bench":
        from gnnsoup_hpc.bench import arguments

        arguments.add(parser)
    elif command == "report":
        about = f"folders of runs, or {JOB_HELP}"
        parser.add_argument("runs", nargs="*", metavar="RUN", help=about)
    elif command in INSTEAD_OF_JOBS:
        name, called, about = INSTEAD_OF_JOBS[command]
        parser.add_argument(name, metavar=called, help=about)
    else:
        about, called = JOB_HELP, "JOB"
        if command in ("status", "diagnose", "export", "predict"):
            about, called = f"the folder of a run, or {JOB_HELP}", "RUN"
        if command == "import":
            about = JOB_HELP.partition(" (")[0]
        parser.add_argument("job", nargs=None if command == "import" else "?", metavar=called, help=about)
    if command not in WITHOUT_JOBS:
        about = "override one field of the job, for example soup.pls.union=8; may be repeated"
        parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=about)
    if command in OFFLINE:
        about = "never reach out; a set that is not there is an error"
        parser.add_argument("--offline", action="store_true", help=about)
    if command in BOUNDED:
        about = "most resident memory of a rank, for example '2 GiB'; stands for --set machine.memory_limit=SIZE"
        parser.add_argument("--memory-limit", metavar="SIZE", help=about)
    if command in AGAIN:
        parser.add_argument("--again", action="store_true", help=AGAIN[command])
    _add_own_arguments(parser, command)


def _add_own_arguments(parser: argparse.ArgumentParser, command: str) -> None:
    """Those that few commands have."""
    if command in REPORTING:
        forms = parser.add_mutually_exclusive_group()
        for name, about in FORMS.items():
            forms.add_argument(f"--{name}", action="store_true", help=about)
        about = "write the report as a page for a browser too, RUN/report.html: figures, tables, where all comes from"
        parser.add_argument("--html", action="store_true", help=about)
    if command == "import":
        about = "files of .pt, .pth, .ckpt or .safetensors, or NNNN.h5 of other runs; patterns in quotes too"
        parser.add_argument("files", nargs="+", metavar="FILE", help=about)
        about = "which of a file's entries is the state, dotted where it lies in another, for example ema.state_dict"
        parser.add_argument("--key", default="", metavar="NAME", help=about)
    if command == "report":
        for name, kind in (("csv", "CSV"), ("parquet", "Parquet, by the package pyarrow")):
            about = f"write every table of the report to a file in this folder too, as {kind}"
            parser.add_argument(f"--{name}", metavar="FOLDER", help=about)
        about = "write every figure of the page to this folder too, as PNG and SVG"
        parser.add_argument("--figures", metavar="FOLDER", help=about)
        about = "where the page goes (default: RUN/report.html; of several runs side by side comparison.html here)"
        parser.add_argument("--to", type=Path, metavar="FILE", help=about)
    for name, about in FLAGS.get(command, {}).items():
        parser.add_argument(f"--{name}", action="store_true", help=about)
    if command in TO:
        whose, where = TO[command]
        parser.add_argument("--method", metavar="NAME", help=whose)
        parser.add_argument("--to", type=Path, metavar="FILE", help=where)
    if command == "predict":
        about = "another graph, as graph.source names one; it is prepared as the run's, and needs no labels"
        parser.add_argument("--graph", metavar="SOURCE", help=about)
