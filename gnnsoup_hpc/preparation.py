"""Feature preparation: statistics taken once, applied to rows as they are read, recorded with the graph."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from gnnsoup_hpc.errors import GraphError
from gnnsoup_hpc.records import FloatArray, Graph, IntArray, Preparation, Rows
from gnnsoup_hpc.rows import blocks

_NOTHING = np.empty(0, dtype=np.float32)
_BLOCK_BYTES = 16 << 20  # of float32, for statistics are taken in float64


@dataclass(frozen=True)
class PreparedRows:
    """Rows of features as a model sees them, (V, F) float32, prepared when they are asked for."""

    raw: Rows
    preparation: Preparation

    @property
    def shape(self) -> tuple[int, ...]:
        """(V, F)."""
        return self.raw.shape

    def __getitem__(self, which: slice | IntArray) -> FloatArray:
        rows = np.asarray(self.raw[which], dtype=np.float32)
        if self.preparation.kind == "none":
            return rows
        if self.preparation.kind == "row-normalise":
            total = np.abs(rows).sum(1, keepdims=True)
            normalised: FloatArray = rows / np.where(total == 0.0, np.ones_like(total), total)
            return normalised
        prepared: FloatArray = rows - self.preparation.mean
        prepared /= self.preparation.scale
        return prepared


def prepared(graph: Graph, kind: str) -> tuple[Graph, Preparation]:
    """The graph with its features prepared, and what is done to them. Statistics are over all nodes, no label used."""
    mean, scale = _moments(graph.x) if kind == "standardise" else (_NOTHING, _NOTHING)
    preparation = Preparation(kind, mean, scale)
    return replace(graph, x=PreparedRows(graph.x, preparation)), preparation


def _moments(x: Rows) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation of each feature, in float64; a constant feature keeps scale 1."""
    count, width = x.shape
    mean = _sum(x, np.zeros(width), squared=False) / count
    scale = np.sqrt(_sum(x, mean, squared=True) / count)
    constant = scale <= 1e-12 * np.maximum(1.0, np.abs(mean))
    return mean.astype(np.float32), np.where(constant, 1.0, scale).astype(np.float32)


def _sum(x: Rows, centre: npt.NDArray[np.float64], squared: bool) -> npt.NDArray[np.float64]:
    """Sum over all rows of x - centre, or of its squares."""
    total = np.zeros(x.shape[1])
    for block in blocks(x.shape[0], 4 * x.shape[1], _BLOCK_BYTES):
        rows = np.asarray(x[block], dtype=np.float64) - centre
        total += (rows**2 if squared else rows).sum(0)
    return total


def applied(preparation: Preparation, rows: npt.ArrayLike) -> FloatArray:
    """Raw rows (n, F) as a model sees them, (n, F) float32; computed in float64.

    Raises: GraphError for a kind of preparation that this version does not know.
    """
    x = np.asarray(rows, dtype=np.float64)
    if preparation.kind == "standardise":
        x = (x - preparation.mean) / preparation.scale
    elif preparation.kind == "row-normalise":
        total = np.abs(x).sum(1, keepdims=True)
        x = x / np.where(total == 0.0, 1.0, total)
    elif preparation.kind != "none":
        raise GraphError(
            f"features were prepared by {preparation.kind!r}, which this version does not know: use a newer one"
        )
    return x.astype(np.float32)
