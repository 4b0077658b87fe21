"""Which graph is this? A prepared graph is a function of its source's content and of the fields that its reader used.

A path says where a source is looked for, and is no part of what the graph is: equal bytes at another place are the same
graph, other bytes at the same place are another one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from gnnsoup_hpc.config import GraphJob, Job
from gnnsoup_hpc.config.task import resolve_targets
from gnnsoup_hpc.errors import GraphError
from gnnsoup_hpc.graph.graph import SourceFacts, SourceFile
from gnnsoup_hpc.utils import paths
from gnnsoup_hpc.utils.hashing import file_sha256, fingerprint

DATA = Path(__file__).resolve().parent.parent / "data"  # of `bundled:` sources
NAMED_BY_PATH = ("npz", "pt")  # kinds of sources of which a job gives a file
MOST_FILLED = 0.05  # of the values of features that are kept as sparse ones: the share that is not zero
EDGE_VALUES = ("edge_weight", "edge_attr")  # fields of [graph] about what edges may have


@dataclass(frozen=True)
class SourceMatch:
    """What lies where a job looks for a source whose content is known: the same, nothing (`gone`), or other content."""

    gone: Path | None = None
    changed: Path | None = None

    @property
    def same(self) -> bool:
        """Whether the same content lies there."""
        return self.gone is None and self.changed is None


def request_key(job: Job) -> str:
    """The words in which a job asks for its graph, hashed: jobs of equal words wait for each other while it is made."""
    readable = re.sub(r"[^A-Za-z0-9]+", "-", job.graph.source).strip("-")[-40:]
    words: list[Any] = [section.model_dump(mode="json") for section in (job.graph, job.partition)]
    words += [] if job.task.kind == "auto" else [job.task.kind]
    return f"{readable}-{fingerprint(words)[:16]}"


def graph_key(job: Job, facts: SourceFacts, source_sha256: str) -> str:
    """Name of a prepared graph among those that runs share: the kind of its source, and the hash of what it is."""
    kind = job.graph.source.partition(":")[0]
    return f"{kind}-{fingerprint({'source_sha256': source_sha256} | fields_used(job, facts))[:16]}"


def fields_used(job: Job, facts: SourceFacts) -> dict[str, Any]:
    """The fields of [graph], [partition] and [task] that a prepared graph is a function of, by dotted name.

    Not among them: where the source lies, what only checks it, and what has no effect beside the other fields or on a
    source of these facts. The split is the one that `auto` stands for; it is "" where the facts do not tell.
    """
    graph, cut = job.graph, job.partition
    values: dict[str, Any] = {"graph.source": name_fields(graph.source)}
    values["graph.features"] = graph.features
    values["graph.undirected"] = graph.undirected or facts.symmetric
    used = {f"graph.{name}": "use" for name in EDGE_VALUES if getattr(graph, name) == "use"}
    if not values["graph.undirected"] or used:  # an edge's values and its reverse's may differ
        values["graph.reverse"] = graph.reverse
    kept = {"remove": 0, "add": facts.nodes}.get(graph.self_loops) == facts.self_loops
    values["graph.self_loops"] = "keep" if kept else graph.self_loops
    values["graph.split"] = split = resolve_split(graph, facts.splits)
    if split == "random":
        values |= {f"graph.{key}": getattr(graph, key) for key in ("split_seed", "train_share", "validation_share")}
    elif facts.splits is not None and (graph.split_index or facts.splits.get(split, 1) > 1):
        values["graph.split_index"] = graph.split_index
    if graph.label_share < 1.0:
        values |= {f"graph.{key}": getattr(graph, key) for key in ("label_share", "split_seed")}
    if graph.source.startswith("synthetic:"):
        own = {key: value for key, value in graph.synthetic if value or key != "homophily"}
        values |= {f"graph.synthetic.{key}": value for key, value in own.items()}
    values |= used
    if keeps_sparse(graph, facts):
        values["graph.feature_layout"] = "sparse"
    if (targets := resolve_targets(job.task.kind, facts.targets)) != "classes":
        values["task.kind"] = targets
    values["partition.parts"] = cut.parts
    if cut.parts > 1:
        values |= {"partition.seed": cut.seed, "partition.imbalance": cut.imbalance}
        values |= {"partition.edge_weight": "use"} if cut.edge_weight == "use" else {}
    return values


def check_asked(facts: SourceFacts, job: GraphJob, where: str) -> None:
    """See that a source holds nothing that the job refuses. Raises: GraphError naming it."""
    if job.duplicates == "refuse" and facts.duplicates:
        raise GraphError(
            f"{where}: {facts.duplicates} edges are duplicates, and graph.duplicates = 'refuse'; 'merge' merges them"
        )
    meant = {"edge_weight": "weights", "edge_attr": "features or types"}
    for name, values in facts.edge_values.items():
        if getattr(job, name) == "refuse" and values:
            gives = "gives edges" if len(values) == 1 else "give edges"
            raise GraphError(
                f"{where}: {', '.join(values)} {gives} {meant[name]}: graph.{name} = 'ignore' goes on without,"
                " 'use' computes with them"
            )


def without_effect(job: Job, facts: SourceFacts) -> Iterator[str]:
    """Fields of [graph] and [partition] that the job sets to other than their defaults, and that change nothing."""
    known = fields_used(job, facts)
    checks = {"source", "duplicates", *EDGE_VALUES, "split"}
    dense = job.graph.model_copy(update={"feature_layout": "auto"})
    checks |= {"feature_layout"} if keeps_sparse(job.graph, facts) != keeps_sparse(dense, facts) else set()
    checks |= {"root"} if job.graph.source.startswith(("ogb:", "pyg:")) else set()
    sections = {"graph": job.graph, "graph.synthetic": job.graph.synthetic, "partition": job.partition}
    for table, section in sections.items():
        for key, value in section:
            name, default = f"{table}.{key}", type(section).model_fields[key].get_default(call_default_factory=True)
            if name not in known and key not in checks and key != "synthetic" and value != default:
                yield name


def resolve_split(job: GraphJob, splits: Collection[str] | None) -> str:
    """The split that a job means, of a source with these; `auto`: the first of public, stored, random. "": unknown."""
    if job.split != "auto":
        return job.split
    if splits is None:
        return ""
    return next((kind for kind in ("public", "stored") if kind in splits), "random")


def keeps_sparse(job: GraphJob, facts: SourceFacts) -> bool:
    """Whether features are kept without their zeros."""
    if job.feature_layout != "auto":
        return job.feature_layout == "sparse"
    return job.features != "standardise" and facts.filled is not None and facts.filled <= MOST_FILLED


def name_fields(source: str) -> str:
    """A source without its place: the kind alone of what is named by a path, and of sets the name, however written."""
    kind, _, name = source.partition(":")
    if kind in NAMED_BY_PATH:
        return kind
    return f"{kind}:{re.sub(r'[^a-z0-9]', '', name.lower()) if kind == 'pyg' else name}"


def find(job: GraphJob, files: Sequence[SourceFile], sha256: str) -> SourceMatch:
    """Look where the job looks for a source that was read from `files`, of the hash `sha256`.

    A file at its old place of the same size and times is taken for the same; any other is read and hashed.
    Raises: JobError for a path that cannot be expanded.
    """
    kind, _, name = job.source.partition(":")
    if not files and kind not in NAMED_BY_PATH:  # generated, or of a version that recorded no files
        return SourceMatch()
    for file in files or [SourceFile("", -1, 0, sha256)]:
        path = _place(kind, name, job, file)
        if not path.is_absolute():
            path = Path.cwd() / path
        if not os.path.isfile(path):
            return SourceMatch(gone=path)
        if not _is(path, file):
            return SourceMatch(changed=path)
    return SourceMatch()


def _place(kind: str, name: str, job: GraphJob, file: SourceFile) -> Path:
    """Where the job looks for a file of its source."""
    if kind in NAMED_BY_PATH:
        return paths.expand(name, "graph.source")
    if kind == "bundled":
        return DATA / f"{name}.npz"
    # A set's folder lies under the root, whichever root that was: the longest end of the path that is there now.
    root, parts = paths.expand(job.root, "graph.root"), Path(file.path).parts[1:]
    tails = (root.joinpath(*parts[first:]) for first in range(len(parts)))
    return next((place for place in tails if place.is_file()), root / parts[-1])


def _is(path: Path, file: SourceFile) -> bool:
    status = path.stat()
    if file.size >= 0 and status.st_size != file.size:
        return False
    times = (status.st_mtime_ns, status.st_ctime_ns)
    at_rest = str(path) == file.path and times == (file.modified_ns, file.changed_ns)
    return at_rest or _sha256(path, status.st_size, *times) == file.sha256


@cache
def _sha256(path: Path, size: int, modified_ns: int, changed_ns: int) -> str:
    """The hash of a file as it is now: one command looks at it for each graph that it may be, and again for its run."""
    return file_sha256(path)
