"""Where a graph comes from: `load` turns a job's [graph] into a Graph. One room a kind of source."""

from __future__ import annotations

from pathlib import Path

from gnnsoup_hpc.errors import JobError
from gnnsoup_hpc.graphs import bundled, npz
from gnnsoup_hpc.graphs.raw import RawGraph, file_sha256, finished
from gnnsoup_hpc.graphs.split import roles
from gnnsoup_hpc.job import GraphJob
from gnnsoup_hpc.records import Graph

SOURCES = {"bundled": bundled.read, "npz": npz.read}


def load(job: GraphJob) -> Graph:
    """The graph that a job asks for, checked, symmetric where asked, with its split; features as in the source.

    Raises: JobError for a source that nobody knows; GraphError for one that cannot be read or used.
    """
    raw = read(job.source)
    return finished(raw, roles(raw, job), job.source, job.undirected)


def source_sha256(source: str) -> str | None:
    """Hash of the source as it is now; None where it is no longer there."""
    kind, _, name = source.partition(":")
    path = bundled.DATA / f"{name}.npz" if kind == "bundled" else Path(name).expanduser()
    return file_sha256(path) if path.is_file() else None


def read(source: str) -> RawGraph:
    """The graph of `KIND:NAME` as its source has it."""
    kind, colon, name = source.partition(":")
    if not colon or kind not in SOURCES or not name:
        known = ", ".join(f"{kind}:…" for kind in SOURCES)
        raise JobError(f"graph.source = {source!r}: expected one of {known}")
    return SOURCES[kind](name)
