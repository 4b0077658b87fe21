"""`ogb:NAME`: OGB's node-property sets with one label a node, read from their raw files (arXiv 2005.00687).

The raw layouts are read here, a chunk of rows at a time, and not by ogb's own classes: those hold every array twice in
memory, load a pickle that torch >= 2.6 refuses, and ask questions on standard input. ogb gives its table of sets
(master.csv) and its Evaluator.
"""

from __future__ import annotations

from pathlib import Path

from gnnsoup_hpc.config import GraphJob
from gnnsoup_hpc.data.sources.context import SourceContext
from gnnsoup_hpc.data.sources.ogb import binary, table
from gnnsoup_hpc.data.sources.ogb.catalogue import OgbDataset, find_dataset
from gnnsoup_hpc.data.sources.ogb.download import fetch
from gnnsoup_hpc.data.sources.raw import RawGraph, SourceSplit, describe_file, sha256_of
from gnnsoup_hpc.errors import GraphError
from gnnsoup_hpc.types import Role
from gnnsoup_hpc.utils import paths

_SPLIT = {"train": Role.TRAIN, "valid": Role.VALIDATION, "test": Role.TEST}
HINT = "remove the folder {} and prepare again, which downloads the set anew"


def read(name: str, job: GraphJob, desk: SourceContext) -> RawGraph:
    """The set `name` under `graph.root`, with OGB's split; downloaded first where it is not there.

    Raises: GraphError for an unknown or multi-label set, a missing, truncated or corrupted file.
    """
    about = _wanted(name)
    home = _home(about, job, desk)
    layout = binary if about.binary else table
    source, destination, x, y, used = layout.read(home, about, desk)
    folder = home / "split" / about.split / ("paper" if about.is_hetero else "")
    split = {role: table.column(folder / f"{part}.csv.gz", "split") for part, role in _SPLIT.items()}
    files = tuple(describe_file(path) for path in [*used, *(folder / f"{part}.csv.gz" for part in _SPLIT)])
    return RawGraph(
        where=str(home),
        sha256=sha256_of(files),
        x=x,
        y=y,
        source=source,
        destination=destination,
        classes=about.classes,
        splits={"public": SourceSplit.of(split)},
        files=files,
        inverse=about.add_inverse_edge,
    )


def _wanted(name: str) -> OgbDataset:
    sets = find_dataset()
    if name not in sets:
        raise GraphError(f"graph.source = 'ogb:{name}': OGB has no such set; it has: {', '.join(sets)}")
    if sets[name].tasks != 1 or sets[name].task != "multiclass classification":
        raise GraphError(
            f"graph.source = 'ogb:{name}': its nodes have {sets[name].tasks} {sets[name].task} labels each; only sets"
            " with one class a node can be souped here"
        )
    return sets[name]


def _home(about: OgbDataset, job: GraphJob, desk: SourceContext) -> Path:
    """The set's folder, complete and of the version that ogb knows."""
    root = paths.expand(job.root, "graph.root")
    folders = [root / f"{about.folder}_pyg", root / about.folder]  # ogb looks in this order
    home = next((folder for folder in folders if folder.is_dir()), folders[-1])
    if not home.exists():
        fetch(about, home, desk)
    if not (home / f"RELEASE_v{about.version}.txt").is_file():
        raise GraphError(
            f"{home} is not a complete version {about.version} of {about.name}: RELEASE_v{about.version}.txt is missing"
            f" (half downloaded, or another version); {HINT.format(home)}"
        )
    return home
