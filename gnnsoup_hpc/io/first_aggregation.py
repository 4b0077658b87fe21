"""first-hop-KIND.h5: the first aggregation of a kind of model on the whole graph, nodes in the order of graph.h5.

Format: docs/format.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gnnsoup_hpc.errors import ForeignFileError
from gnnsoup_hpc.graph.subgraph import Aggregation
from gnnsoup_hpc.io import files
from gnnsoup_hpc.io.files import DatasetRows
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.types import FloatArray
from gnnsoup_hpc.utils.hashing import fingerprint

KIND, VERSION = "first-hop", 1
_ADVICE = ": give the same command again, which makes it again"


@dataclass(frozen=True)
class FirstAggregationFile(DatasetRows):
    """The open file: rows of an aggregation's sums, one a node; `alone` where it stands in for the features."""

    alone: bool = False  # some first layers need the features beside it


def fingerprint_of(graph: GraphFile, aggregation: Aggregation) -> str:
    """Hash of everything that the file is a function of."""
    return fingerprint({"graph": graph.sha256, "parts": str(graph.cut["part_sha256"]), "kind": aggregation.name})


def write(path: Path, graph: GraphFile, aggregation: Aggregation, blocks: Iterable[tuple[int, FloatArray]]) -> None:
    """Publish the file from blocks of rows (first node, (n, F)) as they come."""
    shape = graph.nodes, graph.features
    about, size = f"first hop of {aggregation.name}", 4 * shape[0] * shape[1] + (1 << 20)
    with files.create_file(path, KIND, VERSION, about, size) as file:
        rows = files.write_space(file, "first_hop", shape, np.float32, "1", aggregation.long_name)
        for start, block in blocks:
            rows[start : start + len(block)] = block
        file.attrs["kind"] = aggregation.name
        file.attrs["recipe"] = fingerprint_of(graph, aggregation)
        files.put_provenance(file, graph.job)


@contextmanager
def open_file(
    path: Path, graph: GraphFile, aggregation: Aggregation, verify: bool = True
) -> Iterator[FirstAggregationFile]:
    """Yield the file of that graph and aggregation.

    Raises: FileError where it is missing or damaged, ForeignFileError where it is another's.
    """
    with files.open_file(path, KIND, VERSION, verify) as file:
        with files.explain_damage(path):
            found, dataset = str(file.attrs["recipe"]), file["first_hop"]
        if found != fingerprint_of(graph, aggregation):
            raise ForeignFileError(f"{path} is of another graph, other parts or another kind of model")
        yield FirstAggregationFile(path, dataset, _ADVICE, alone=not aggregation.beside_own)
