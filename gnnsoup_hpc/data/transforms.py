"""Feature preparation: statistics taken once, applied to rows as they are read, recorded with the graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from gnnsoup_hpc import config
from gnnsoup_hpc.errors import GraphError
from gnnsoup_hpc.graph import identity
from gnnsoup_hpc.graph.graph import Graph, Preparation
from gnnsoup_hpc.types import Doubles, FloatArray, IntArray
from gnnsoup_hpc.utils.out_of_core import Rows, blocks

_NOTHING = np.empty(0)
BLOCK_BYTES = 16 << 20  # of float64, in which everything is computed
_FEW = 4 * float(np.finfo(np.float64).eps)  # a spread that rounding alone may make, relative to the largest value
_LEAST = float(np.finfo(np.float64).smallest_subnormal)


@dataclass(frozen=True)
class PreparedRows:
    """Rows of features as a model sees them, (V, F) float32, prepared in float64 when they are asked for."""

    raw: Rows
    preparation: Preparation
    source: str = "the graph"

    @property
    def shape(self) -> tuple[int, ...]:
        """(V, F)."""
        return self.raw.shape

    def __getitem__(self, which: slice | IntArray) -> FloatArray:
        if not isinstance(which, slice):
            return self._prepare(np.asarray(self.raw[which], dtype=np.float64), np.asarray(which))
        start, stop, _ = which.indices(self.shape[0])
        out = np.empty((max(0, stop - start), self.shape[1]), dtype=np.float32)
        for block in blocks(len(out), 8 * self.shape[1], BLOCK_BYTES):
            ids = np.arange(start + block.start, start + block.stop)
            rows = np.asarray(self.raw[start + block.start : start + block.stop], dtype=np.float64)
            out[block] = self._prepare(rows, ids)
        return out

    def _prepare(self, rows: Doubles, ids: IntArray) -> FloatArray:
        done = self.preparation.apply(rows)
        fine = np.isfinite(done).all(1)
        if not fine.all():
            node = int(ids[~fine][0])
            raise GraphError(
                f"{self.source}: x has a value that float32 does not hold, first at node {node}: with graph.features ="
                " 'standardise' it is prepared in float64 first"
            )
        return done


def prepare_features(graph: Graph, kind: str) -> tuple[Graph, Preparation]:
    """The graph with its features prepared, and what is done to them. Statistics are over all nodes, no label used."""
    mean, scale, constant = _compute_moments(graph.x) if kind in ("standardise", "scale") else (_NOTHING, _NOTHING, 0)
    preparation = Preparation(kind, mean if kind == "standardise" else _NOTHING, scale)
    notes = graph.notes
    if constant:
        notes += (f"features that are the same for every node, and say nothing: {constant} of {len(scale)}",)
    if kind == "standardise" and graph.facts.filled is not None and graph.facts.filled <= identity.MOST_FILLED:
        size = config.format_bytes(4 * graph.x.shape[0] * graph.x.shape[1])
        notes += (
            f"features: {graph.facts.filled:.2%} of the values are not zero; graph.features = 'standardise' leaves no"
            f" zeros, so they take {size} of memory; 'scale' keeps zeros, and sparse features are computed on as such",
        )
    return replace(graph, x=PreparedRows(graph.x, preparation, graph.source), notes=notes), preparation


def _compute_moments(x: Rows) -> tuple[Doubles, Doubles, int]:
    """Mean and standard deviation of each feature, and how many are constant; such a one keeps scale 1.

    They are taken of each column divided by its largest absolute value, so that nothing overflows or underflows, and
    "constant" is relative to the column.
    """
    count = x.shape[0]
    largest = np.zeros(x.shape[1])
    for rows in _read_blocks(x):
        np.maximum(largest, np.abs(rows).max(0), out=largest)
    largest[largest == 0.0] = 1.0
    mean, off, square = (np.zeros(x.shape[1]) for _ in range(3))
    for rows in _read_blocks(x):
        mean += (rows / largest).sum(0) / count
    for rows in _read_blocks(x):
        difference = rows / largest - mean
        off += difference.sum(0) / count  # what rounding has made of the mean
        square += (difference**2).sum(0) / count
    mean += off
    spread = np.sqrt(np.maximum(0.0, square - off**2))
    scale = np.where(spread > _FEW, np.maximum(spread * largest, _LEAST), np.where(spread > 0.0, largest, 1.0))
    return mean * largest, scale, int((spread <= _FEW).sum())


def _read_blocks(x: Rows) -> Iterator[Doubles]:
    for block in blocks(x.shape[0], 8 * x.shape[1], BLOCK_BYTES):
        yield np.asarray(x[block], dtype=np.float64)
