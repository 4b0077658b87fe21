"""`bundled:NAME`: graphs that the package carries; data/SOURCES.md has their attribution."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gnnsoup_hpc.config import GraphJob
from gnnsoup_hpc.data.sources import npz
from gnnsoup_hpc.data.sources.context import SourceContext
from gnnsoup_hpc.data.sources.raw import RawGraph, SourceSplit
from gnnsoup_hpc.errors import GraphError
from gnnsoup_hpc.graph.identity import DATA
from gnnsoup_hpc.types import Role
from gnnsoup_hpc.utils import paths

# Planetoid's public split, arXiv 1603.08861: 20 labels a class, 500 and 1000 nodes.
_PUBLIC = {
    "pubmed": {
        Role.TRAIN: np.arange(0, 60),
        Role.VALIDATION: np.arange(60, 560),
        Role.TEST: np.arange(18717, 19717),
    }
}


def read(name: str, job: GraphJob, desk: SourceContext) -> RawGraph:
    """The bundled graph `name`, with its public split. Raises: GraphError naming those that there are."""
    if name not in _PUBLIC:
        raise GraphError(f"graph.source = 'bundled:{name}': no such graph is bundled; there is: {', '.join(_PUBLIC)}")
    raw = npz.read(paths.quote(DATA / f"{name}.npz"), job, desk)
    return replace(raw, where=f"bundled:{name}", splits={"public": SourceSplit.of(_PUBLIC[name])})
