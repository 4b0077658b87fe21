"""`pyg:NAME`: PyTorch Geometric's sets of one homogeneous graph with one class a node.

PyG's classes download and parse the raw files, where they always have them. Their cache `processed` is neither read nor
written: PyG does not notice that one is older than its raw files, or made with some `pre_transform`. So a graph is what
its hashed files say, and a root may be read-only. Some classes unpickle raw files: `graph.root` must be to be trusted.
"""

from __future__ import annotations

import difflib
import http.client
import os
import socket
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gnnsoup_hpc.config import GraphJob
from gnnsoup_hpc.data.sources import pt
from gnnsoup_hpc.data.sources.raw import RawGraph, SourceContext, describe_file, simplify, stage_download
from gnnsoup_hpc.errors import UNREADABLE, GraphError
from gnnsoup_hpc.utils import paths

_HEAD_SECONDS, _SILENCE_SECONDS = 10.0, 120.0


class PygDataset(NamedTuple):
    """A set: its class in torch_geometric.datasets, and its name there; a class without one has `name` as folder."""

    name: str
    kind: str
    called: str = ""


_NAMES = (  # by class; what stands before them here
    ("Planetoid", "Cora CiteSeer PubMed", ""),
    ("Amazon", "Computers Photo", ""),
    ("Coauthor", "CS Physics", ""),
    ("CitationFull", "Cora_ML DBLP", ""),
    ("CitationFull", "CiteSeer PubMed", "CitationFull-"),
    ("WikipediaNetwork", "Chameleon Squirrel", ""),
    ("WebKB", "Cornell Texas Wisconsin", ""),
    ("HeterophilousGraphDataset", "Roman-empire Amazon-ratings Minesweeper Tolokers Questions", ""),
    ("LINKXDataset", "Penn94 Reed98 Amherst41 Cornell5 JohnsHopkins55 Genius", ""),
    ("LINKXDataset", "Wiki", "LINKX-"),
    ("Airports", "USA Brazil Europe", "Airports-"),
    ("Twitch", "DE EN ES FR PT RU", ""),
)
_ALONE = "Flickr Reddit Reddit2 WikiCS Actor CoraFull LastFMAsia GitHub FacebookPagePage DeezerEurope"
SETS = (
    *(PygDataset(prefix + name, kind, name) for kind, names, prefix in _NAMES for name in names.split()),
    *(PygDataset(name, name) for name in _ALONE.split()),
)
_BY_FILE = "of one graph torch.save(dataset[0].to_dict(), PATH) makes a file that graph.source = 'pt:PATH' reads"
REFUSED = {
    **dict.fromkeys(("Yelp", "AmazonProducts"), "its nodes have several labels each"),
    "PPI": "it is 24 graphs, whose nodes have several labels each",
}


def read(name: str, job: GraphJob, context: SourceContext) -> RawGraph:
    """The set `name` under `graph.root`, with its public split if it has one; downloaded first where it is not there.

    Of sets with several splits, `graph.split_index` takes one; WikiCS's additional stopping masks are left out.
    Raises: GraphError for an unknown or multi-label set; raw files that cannot be had or are damaged.
    """
    about = _find_set(name)
    dataset = _open(about, job, context)
    files = tuple(map(describe_file, map(Path, dataset.raw_paths)))
    return pt.from_data(dataset.kept[0].to_dict(), f"pyg:{about.name}", files, "public", job, context.kind)


def _find_set(name: str) -> PygDataset:
    """The set meant by `name`, whatever its case and punctuation."""
    wanted = simplify(name)
    for refused, reason in REFUSED.items():
        if wanted == simplify(refused):
            raise GraphError(f"graph.source = 'pyg:{name}': {reason}; {_BY_FILE}")
    known = {simplify(about.name): about for about in SETS}
    if wanted not in known:
        near = ", ".join(known[key].name for key in difflib.get_close_matches(wanted, known) or known)
        raise GraphError(f"graph.source = 'pyg:{name}': no such set with one class a node is known; there is: {near}")
    return known[wanted]


def _open(about: PygDataset, job: GraphJob, context: SourceContext) -> Any:
    """PyG's dataset, parsed from its raw files."""
    from torch_geometric import datasets

    root = paths.expand(job.root, "graph.root")
    arguments: dict[str, Any] = {"root": str(root if about.called else root / about.name)}
    if about.called:
        arguments["name"] = about.called
    if about.kind == "WikiCS":
        arguments["is_undirected"] = True  # its default, about which it warns
    dataset = type(about.kind, (_SourceDataset, getattr(datasets, about.kind)), {"about": about, "context": context})
    return dataset(**arguments)


class _SourceDataset:
    """Goes before a class of PyG's: downloads only when asked to and only whole files, keeps what it parses."""

    about: PygDataset
    context: SourceContext
    staging: Path | None = None  # where raw files are put while they are downloaded
    kept: Sequence[Any] = ()
    raw_paths: list[str]

    @property
    def raw_dir(self) -> str:
        return str(self.staging or super().raw_dir)  # type: ignore[misc]

    @property
    def processed_dir(self) -> str:
        return str(self.context.scratch / "pyg")

    def save(self, data_list: Sequence[Any], path: str) -> None:
        self.kept = data_list

    def load(self, path: str, data_cls: Any = None) -> None:
        """Nothing: it is kept already."""

    def process(self) -> None:
        try:
            super().process()  # type: ignore[misc]
        except PermissionError as error:
            raise GraphError(f"pyg:{self.about.name}: {error.filename} cannot be read") from None
        except UNREADABLE as error:
            raise GraphError(
                f"pyg:{self.about.name}: files in {self.raw_dir} are truncated or damaged ({pt.shorten(error)}): remove"
                " that folder and prepare again, which downloads the set anew"
            ) from None

    def _download(self) -> None:
        # PyG's own makes the raw folder first, even where nothing may be downloaded or written.
        if not all(map(os.path.isfile, self.raw_paths)):
            self.download()

    def download(self) -> None:
        from aiohttp import ClientError  # PyG reaches some sets through it

        raw, address = Path(self.raw_dir), find_address(self)
        size = fetch_size(address) if address and not self.context.offline else None
        words = f"{size / 2**20:.1f} MiB from {address}" if size else "size unknown"
        self.context.announce_download(f"pyg:{self.about.name}", raw, words)
        before = socket.getdefaulttimeout()
        try:
            with stage_download(raw) as self.staging:
                socket.setdefaulttimeout(_SILENCE_SECONDS)  # PyG sets none, and would wait for ever
                super().download()  # type: ignore[misc]
                self._publish(raw, size)
        except (*UNREADABLE, http.client.HTTPException, ClientError) as error:
            what = f"pyg:{self.about.name} cannot be downloaded ({pt.shorten(error)})"
            raise GraphError(f"{what}: prepare where there is a network, or put its files in {raw}") from None
        finally:
            socket.setdefaulttimeout(before)
            self.staging = None

    def _publish(self, raw: Path, size: int | None) -> None:
        """Move the raw files to the folder that they are read from. Raises: OSError for one that is not whole."""
        paths = [Path(path) for path in self.raw_paths]
        if size and len(paths) == 1 and paths[0].stat().st_size != size:
            raise OSError(f"the connection ended after {paths[0].stat().st_size} of {size} bytes")
        raw.mkdir(exist_ok=True)
        for path in paths:
            path.replace(raw / path.name)


def find_address(dataset: Any) -> str | None:
    """Where the one file of a set is downloaded from, as far as its class says."""
    url = getattr(dataset, "url", None)
    first, *others = (Path(path) for path in dataset.raw_paths)
    if url is None or others or url.endswith(first.name):
        return url if url and url.endswith((".zip", first.name)) else None
    return str(url.format(first.stem)) if "{}" in url else f"{url.rstrip('/')}/{first.name}"


def fetch_size(address: str) -> int | None:
    """Bytes of what lies at an address; None where its server does not say."""
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=_HEAD_SECONDS) as answer:
            return int(answer.headers["Content-Length"])
    except (OSError, ValueError, TypeError, http.client.HTTPException):
        return None
