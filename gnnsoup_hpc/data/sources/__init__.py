"""Where a graph comes from: `load` turns a job's [graph] into a Graph. One room a kind of source."""

from __future__ import annotations

from collections.abc import Callable

from gnnsoup_hpc.config import GraphJob
from gnnsoup_hpc.config.task import resolve_targets
from gnnsoup_hpc.data.sources import npz, ogb, pt, pyg, synthetic
from gnnsoup_hpc.data.sources.raw import RawGraph, SourceContext, finish, finish_unlabelled
from gnnsoup_hpc.data.sources.split import assign_roles, describe_split
from gnnsoup_hpc.errors import GraphError, JobError
from gnnsoup_hpc.graph.graph import Graph
from gnnsoup_hpc.utils.paths import expand_home

SOURCES: dict[str, Callable[[str, GraphJob, SourceContext], RawGraph]] = {
    "bundled": npz.read_bundled,
    "npz": npz.read,
    "ogb": ogb.read,
    "pyg": pyg.read,
    "pt": pt.read,
    "synthetic": synthetic.read,
}
_BY_SUFFIX = {".pt": "pt", ".pth": "pt", ".npz": "npz"}  # kinds of files


def load(job: GraphJob, context: SourceContext) -> Graph:
    """The graph that a job asks for, checked, symmetric where asked, with its split; features as in the source.

    Raises: JobError for a source that nobody knows; GraphError for one that cannot be read or used.
    """
    raw = read(job, context)
    if resolve_targets(context.kind, raw.found) != raw.targets:
        raise GraphError(f"task.kind = {context.kind!r}: {raw.where} has no such labels")
    return finish(raw, assign_roles(raw, job), job, describe_split(raw, job))


def load_unlabelled(job: GraphJob, context: SourceContext) -> Graph:
    """The same without labels and roles, which the source need not have. context.kind: NO_LABELS. Raises: likewise."""
    return finish_unlabelled(read(job, context), job)


def read(job: GraphJob, context: SourceContext) -> RawGraph:
    """The graph of `KIND:NAME` as its source has it."""
    kind, colon, name = job.source.partition(":")
    if not colon or kind not in SOURCES or not name:
        known = ", ".join(f"{kind}:…" for kind in SOURCES)
        raise JobError(f"graph.source = {job.source!r}: expected one of {known}{_guess_meant(job.source)}")
    return SOURCES[kind](name, job, context)


def _guess_meant(source: str) -> str:
    """The end of a message on a source without its kind, where what it names tells that; else ""."""
    path = expand_home(source)
    if source and path.is_dir():
        return (
            "; that is a folder: name a file in it (pt:PATH), or a set (pyg:NAME, ogb:NAME) and graph.root = the folder"
        )
    kind = "ogb" if source.startswith("ogbn-") else _BY_SUFFIX.get(path.suffix.lower())
    return f"; did you mean {f'{kind}:{source}'!r}?" if kind else ""
