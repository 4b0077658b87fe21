"""`npz:PATH`: a graph in one NumPy archive, as docs/format.md has it; `bundled:NAME`: one that the package carries."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gnnsoup_hpc.config import GraphJob
from gnnsoup_hpc.data.sources import named
from gnnsoup_hpc.data.sources.raw import RawGraph, SourceContext, SourceSplit, describe_file
from gnnsoup_hpc.errors import UNREADABLE, GraphError
from gnnsoup_hpc.graph.identity import DATA
from gnnsoup_hpc.types import Role
from gnnsoup_hpc.utils import paths

# data/SOURCES.md has attributions. Planetoid's public split, arXiv 1603.08861: 20 labels a class, 500 and 1000 nodes.
_PUBLIC = {
    "pubmed": {
        Role.TRAIN: [np.arange(0, 60)],
        Role.VALIDATION: [np.arange(60, 560)],
        Role.TEST: [np.arange(18717, 19717)],
    }
}


def read(name: str, job: GraphJob, context: SourceContext) -> RawGraph:
    """The graph in the archive at path `name`.

    Raises: GraphError for a missing, unreadable or incomplete archive, naming the key.
    """
    path = paths.expand(name, "graph.source")
    return named.make_graph(_read_arrays(path), str(path), (describe_file(path),), "stored", job, context.kind)


def read_bundled(name: str, job: GraphJob, context: SourceContext) -> RawGraph:
    """The bundled graph `name`, with its public split. Raises: GraphError naming those that there are."""
    if name not in _PUBLIC:
        raise GraphError(f"graph.source = 'bundled:{name}': no such graph is bundled; there is: {', '.join(_PUBLIC)}")
    raw = read(paths.quote(DATA / f"{name}.npz"), job, context)
    return replace(raw, where=f"bundled:{name}", splits={"public": SourceSplit(_PUBLIC[name])})


def _read_arrays(path: Path) -> dict[str, Any]:
    key, arrays = "", {}
    if path.is_file() and not zipfile.is_zipfile(path):
        raise GraphError(
            f"{path}: not a readable .npz archive, or a truncated one: write it with np.savez, arrays by name and no"
            " pickles (docs/format.md has the names)"
        )
    try:
        with np.load(path, allow_pickle=False) as archive:
            for key in archive.files:
                if key.endswith("/data.pkl") or key == "data.pkl":
                    raise GraphError(f"{path} is a file of torch.save, and no .npz: graph.source = 'pt:{path}'")
                arrays[key] = archive[key]
    except FileNotFoundError:
        raise GraphError(f"graph.source: there is no file {path} (relative to {Path.cwd()})") from None
    except UNREADABLE as error:
        if key and "Object arrays" in str(error):
            raise GraphError(
                f"{path}: {key} holds Python objects, which are not unpickled, for a pickle can run any code: leave it"
                " out, or save it as numbers or text"
            ) from None
        raise GraphError(f"{path}: not a readable .npz archive without pickles: {error}") from None
    return arrays
