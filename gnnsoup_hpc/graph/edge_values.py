"""Weights and features of edges, merged with these: of a source that is prepared, and of a graph to predict on."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

from gnnsoup_hpc.types import Doubles, FloatArray, IndexArray, IntArray
from gnnsoup_hpc.utils.out_of_core import blocks


def find_edges(
    row: IntArray, column: IndexArray, source: IndexArray, destination: IndexArray, nodes: int
) -> sp.csr_matrix:
    """Which edges of the source each entry of a structure is made of: a matrix (E, edges of the source) of ones.

    An entry that the source lacks is made of what its reverse is, and a self-loop that it lacks of nothing.
    row, column (E,): the structure, sorted, of no edges but these: of the source, their reverses, self-loops.
    source, destination: edges, of which self-loops that the structure lacks are left out.
    """
    keys = row * nodes + column
    wanted = destination.astype(np.int64) * nodes + source
    place = _search(keys, wanted)
    edges = np.flatnonzero(np.append(keys, -1)[place] == wanted)
    ones = np.ones(len(edges), dtype=np.int8)
    found = sp.csr_matrix((ones, (place[edges], edges)), shape=(len(keys), len(wanted)))
    missing = np.flatnonzero(np.diff(found.indptr) == 0)
    if len(missing):
        origin = np.arange(len(keys))
        origin[missing] = _search(keys, column[missing].astype(np.int64) * nodes + row[missing])
        found = found[origin]
    return found


def _search(keys: IntArray, wanted: IntArray) -> IntArray:
    """As np.searchsorted, for millions many times as fast: in rising order each is found near the one before."""
    order = np.argsort(wanted)
    place = np.empty_like(order)
    place[order] = np.searchsorted(keys, wanted[order])
    return place


def merge_weights(edges: sp.csr_matrix, weight: Doubles) -> Doubles:
    """The weight of each entry, (E,): the sum of those of its edges (`find_edges`); of a self-loop without any 1."""
    merged: Doubles = edges @ weight
    merged[np.diff(edges.indptr) == 0] = 1.0
    return merged


class MergedFeatures:
    """Features of each entry, (E, D) float32: the mean of those of its edges (`find_edges`); `Rows`.

    A self-loop without any has the mean of its row's other entries, or zeros where there is no other. They are computed
    in float64 when they are asked for, so that beside the source's own nothing of their size is in memory.
    """

    def __init__(self, edges: sp.csr_matrix, row: IntArray, raw: npt.NDArray[Any]) -> None:
        """Of raw features (edges of the source, D), finite. row (E,): that of each entry, sorted."""
        self._shares, self._raw = _share_edges(edges, row), raw

    @property
    def shape(self) -> tuple[int, ...]:
        """(E, D)."""
        return self._shares.shape[0], self._raw.shape[1]

    def __getitem__(self, which: slice | IntArray) -> FloatArray:
        shares = self._shares[which]
        rows = self._raw[shares.indices].astype(np.float64)
        mean = sp.csr_matrix((shares.data, np.arange(len(rows)), shares.indptr), shape=(shares.shape[0], len(rows)))
        return np.asarray(mean @ rows, dtype=np.float32)


def _share_edges(edges: sp.csr_matrix, row: IntArray) -> sp.csr_matrix:
    """What share each edge of the source has in the mean that an entry's features are."""
    counts = np.diff(edges.indptr)
    shares = sp.csr_matrix((np.repeat(1.0 / np.maximum(counts, 1), counts), edges.indices, edges.indptr), edges.shape)
    loops = np.flatnonzero(counts == 0)
    if not len(loops):
        return shares
    loop_of = np.full(int(row[-1]) + 1, -1)
    loop_of[row[loops]] = loops
    others = np.flatnonzero((counts > 0) & (loop_of[row] >= 0))
    place = loop_of[row[others]]
    mean = sp.csr_matrix((1.0 / np.bincount(place)[place], (place, others)), shape=(len(row), len(row)))
    return shares + mean @ shares


def find_unfit(weight: Doubles) -> int | None:
    """The first that is no weight: not finite, or negative."""
    wrong = np.flatnonzero(~((weight >= 0) & (weight < np.inf)))
    return int(wrong[0]) if len(wrong) else None


def find_overflow(weight: Doubles, row: IntArray) -> int | None:
    """The first node to which the weights (E,) of edges add up to more than float32 holds: GCN would scale it by 0.

    row (E,): the node that each edge leads to.
    """
    wrong = np.flatnonzero(~(np.bincount(row, weights=weight) < np.finfo(np.float32).max))
    return int(wrong[0]) if len(wrong) else None


def find_unfit_features(raw: npt.NDArray[Any]) -> int | None:
    """The first edge of (E, D) with a feature that is not finite, or beyond what float32 holds."""
    for block in blocks(len(raw), 8 * raw.shape[1]):
        with np.errstate(over="ignore"):  # a longdouble may be beyond float64
            fits: Any = (np.abs(raw[block].astype(np.float64)) <= np.finfo(np.float32).max).all(1)
        if not fits.all():
            return int(block.start + np.argmin(fits))
    return None
