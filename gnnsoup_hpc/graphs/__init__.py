"""Where a graph comes from: `load` turns a job's [graph] into a Graph. One room a kind of source."""

from __future__ import annotations

from collections.abc import Callable

from gnnsoup_hpc.errors import JobError
from gnnsoup_hpc.graphs import bundled, npz, ogb, pt, pyg, synthetic
from gnnsoup_hpc.graphs.desk import Desk
from gnnsoup_hpc.graphs.raw import RawGraph, finished
from gnnsoup_hpc.graphs.split import roles, taken
from gnnsoup_hpc.job import GraphJob
from gnnsoup_hpc.records import Graph

SOURCES: dict[str, Callable[[str, GraphJob, Desk], RawGraph]] = {
    "bundled": bundled.read,
    "npz": npz.read,
    "ogb": ogb.read,
    "pyg": pyg.read,
    "pt": pt.read,
    "synthetic": synthetic.read,
}


def load(job: GraphJob, desk: Desk) -> Graph:
    """The graph that a job asks for, checked, symmetric where asked, with its split; features as in the source.

    Raises: JobError for a source that nobody knows; GraphError for one that cannot be read or used.
    """
    raw = read(job, desk)
    return finished(raw, roles(raw, job), job, taken(raw, job))


def read(job: GraphJob, desk: Desk) -> RawGraph:
    """The graph of `KIND:NAME` as its source has it."""
    kind, colon, name = job.source.partition(":")
    if not colon or kind not in SOURCES or not name:
        known = ", ".join(f"{kind}:…" for kind in SOURCES)
        raise JobError(f"graph.source = {job.source!r}: expected one of {known}")
    return SOURCES[kind](name, job, desk)
