"""Feature preparation: done once, before the graph is stored, and recorded with it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from gnnsoup_hpc.records import FloatArray, Graph, Preparation

_NOTHING = np.empty(0, dtype=np.float32)


def prepared(graph: Graph, kind: str) -> tuple[Graph, Preparation]:
    """The graph with its features prepared, and what was done to them. Statistics are over all nodes, no label used."""
    if kind == "none":
        return graph, Preparation(kind, _NOTHING, _NOTHING)
    if kind == "row-normalise":
        total = np.abs(graph.x).sum(1, keepdims=True)
        return replace(graph, x=graph.x / np.where(total == 0.0, np.ones_like(total), total)), Preparation(
            kind, _NOTHING, _NOTHING
        )
    mean, scale = _moments(graph.x)
    return replace(graph, x=(graph.x - mean) / scale), Preparation(kind, mean, scale)


def _moments(x: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean and standard deviation of each feature, in float64; a constant feature keeps scale 1."""
    mean, scale = x.mean(0, dtype=np.float64), x.std(0, dtype=np.float64)
    constant = scale <= 1e-12 * np.maximum(1.0, np.abs(mean))
    return mean.astype(np.float32), np.where(constant, 1.0, scale).astype(np.float32)
