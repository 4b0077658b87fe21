"""`pyg:NAME`: PyG's node-classification sets with one label a node, on one homogeneous graph."""

from __future__ import annotations

import difflib
import os
import pickle
import shutil
import urllib.request
import zipfile
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from gnnsoup_hpc.errors import GraphError
from gnnsoup_hpc.graphs.desk import Desk
from gnnsoup_hpc.graphs.pt import data_classes, from_data
from gnnsoup_hpc.graphs.raw import RawGraph, source_file
from gnnsoup_hpc.job import GraphJob


@dataclass(frozen=True)
class PygSet:
    """A class of torch_geometric.datasets and what it is called with.

    A class without names gets a folder of its own under the root, as users have it: Amazon("data", "Computers") lies in
    data/Computers, and Flickr("data/Flickr") there.
    """

    kind: str
    name: str | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """As the job names it."""
        return f"pyg:{self.name or self.kind}"


def _named(kind: str, *names: str, **options: Any) -> dict[str, PygSet]:
    return {name: PygSet(kind, name, options) for name in names}


SETS: dict[str, PygSet] = {
    **_named("Planetoid", "Cora", "CiteSeer", "PubMed"),
    **_named("Amazon", "Computers", "Photo"),
    **_named("Coauthor", "CS", "Physics"),
    **_named("CitationFull", "Cora_ML", "DBLP"),
    **_named("HeterophilousGraphDataset", "Roman-empire", "Amazon-ratings", "Minesweeper", "Tolokers", "Questions"),
    **_named("WikipediaNetwork", "chameleon", "squirrel", geom_gcn_preprocess=True),
    **_named("WebKB", "Cornell", "Texas", "Wisconsin"),
    **_named("LINKXDataset", "penn94", "reed98", "amherst41", "cornell5", "johnshopkins55", "genius"),
    **_named("Twitch", "DE", "EN", "ES", "FR", "PT", "RU"),
    **{
        kind: PygSet(kind)
        for kind in (
            *("Flickr", "Reddit", "Reddit2", "WikiCS", "CoraFull", "Actor"),
            *("LastFMAsia", "FacebookPagePage", "DeezerEurope", "GitHub"),
        )
    },
}
MULTI_LABEL = ("Yelp", "AmazonProducts", "PPI")

# What PyG's readers raise for raw or processed files that are truncated or damaged.
_UNREADABLE = (
    *(OSError, EOFError, ValueError, KeyError, IndexError, RuntimeError, TypeError, AssertionError),
    *(zipfile.BadZipFile, zlib.error, pickle.UnpicklingError),
)
_HEAD_SECONDS = 10.0


def read(name: str, job: GraphJob, desk: Desk) -> RawGraph:
    """The set `name` under `graph.root`, with its published split if it has one; downloaded where it is not there.

    Raises: GraphError for an unknown or multi-label set, or files that cannot be fetched or read.
    """
    known = _wanted(name)
    root = Path(job.root).expanduser()
    root = root if known.name else root / known.kind
    dataset = _dataset(known, root, desk)
    files = tuple(source_file(Path(path)) for path in dataset.raw_paths)
    where = f"{known.title} in {root}"
    return replace(from_data(dataset[0].to_dict(), where, files, "public", job), classes=int(dataset.num_classes))


def _wanted(name: str) -> PygSet:
    if name.lower() in [other.lower() for other in MULTI_LABEL]:
        raise GraphError(
            f"graph.source = 'pyg:{name}': its nodes have several labels each; only sets with one class a node can be"
            " souped here"
        )
    by_lower = {known.lower(): value for known, value in SETS.items()}
    if name.lower() not in by_lower:
        near = difflib.get_close_matches(name, SETS, n=3, cutoff=0.0)
        raise GraphError(f"graph.source = 'pyg:{name}': no such set is known; the nearest are: {', '.join(near)}")
    return by_lower[name.lower()]


def _dataset(known: PygSet, root: Path, desk: Desk) -> Any:
    from torch_geometric import datasets

    names = {"name": known.name} if known.name else {}
    try:
        guarded = _guarded(getattr(datasets, known.kind), known.title, desk)
        with torch.serialization.safe_globals(data_classes()):  # of its processed file, too, nothing else is unpickled
            return guarded(root=str(root), **names, **known.options)
    except PermissionError as error:
        raise GraphError(f"{error.filename} cannot be written, where PyG keeps what it makes of {root}") from None
    except _UNREADABLE as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no more is known'}"
        raise GraphError(
            f"PyG cannot read {known.title} in {root} ({reason}): its raw or processed files are truncated"
            " or damaged; remove that folder and prepare again, which downloads the set anew"
        ) from None


def _guarded(base: Any, title: str, desk: Desk) -> Any:
    """PyG's class, which downloads only if it may, leaves no half-downloaded file, and sees that raw files changed."""

    class Guarded(base):  # type: ignore[misc]
        _private: Path | None = None

        @property
        def raw_dir(self) -> str:
            return str(self._private or super().raw_dir)

        def download(self) -> None:
            final = Path(self.raw_dir)
            size = "size unknown" if desk.offline else _size(getattr(base, "url", None))
            desk.ask_to_download(title, final, size)
            self._private = final.with_name(f".{final.name}.{os.getpid()}.part")
            try:
                self._private.mkdir(parents=True)
                super().download()
                for file in self._private.iterdir():
                    file.replace(final / file.name)
            except (OSError, zipfile.BadZipFile) as error:
                raise GraphError(f"{title} cannot be downloaded to {final}: {error}") from None
            finally:
                shutil.rmtree(self._private, ignore_errors=True)
                self._private = None

        def _process(self) -> None:
            self.log = False
            made = [Path(path) for path in self.processed_paths]
            if all(path.exists() for path in made):
                read_last = min(path.stat().st_mtime_ns for path in made)
                self.force_reload |= any(Path(path).stat().st_mtime_ns > read_last for path in self.raw_paths)
            super()._process()

    return Guarded


def _size(url: object) -> str:
    """Size of what is at `url`, as its server says."""
    if not isinstance(url, str) or not url.startswith("http") or "{" in url:
        return "size unknown"
    try:
        request = urllib.request.Request(url, method="HEAD")
        with urllib.request.urlopen(request, timeout=_HEAD_SECONDS) as answer:
            length = answer.headers["Content-Length"]
    except OSError:
        return f"size unknown, from {url}"
    return f"{int(length) / 2**20:.1f} MiB from {url}" if length else f"size unknown, from {url}"
