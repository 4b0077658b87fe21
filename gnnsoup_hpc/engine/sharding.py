"""What one rank computes of a subgraph, and what it sends and receives meanwhile: nodes are split, halos exchanged.

Nodes are cut into sections, ranges of ids of about equal work, which depend on the subgraph alone. A rank takes
consecutive sections. It holds the features and the states of its own nodes and of its halo: others' nodes that are
neighbours of its own, whose states their ranks send. Each row is summed up by one rank, in the order that it has on a
single one, and sums over sections run in float64; so results do not depend on the number of ranks.

Halo rows are exchanged and not computed again, as in distributed full-batch training: Md et al., DistGNN, SC 2021,
arXiv 2104.06700.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from gnnsoup_hpc.engine.compiled.kernels import structure
from gnnsoup_hpc.engine.threads import CHUNKS, Span
from gnnsoup_hpc.runtime.comm import Moves
from gnnsoup_hpc.types import BoolArray, ByteArray, IndexArray, IntArray

Scale = npt.NDArray[Any]  # of nodes or entries, (n,), or empty for 1 everywhere
SECTION_ROWS = 2048  # at least: fewer are not worth a product of their own in each layer
_NEVER = 255  # more than any class


@dataclass(frozen=True)
class Shard:
    """A rank's part of a subgraph; all of it where there is one rank.

    Shapes: ids (n,): its nodes, own ones and others', by their ids in the subgraph, rising; None for all. indptr,
    indices: rows of own nodes, and what others' have of own ones, in places in `ids`; values: what these entries are
    multiplied by, empty for 1 everywhere. scale (n,). order: places in `ids` of nodes that the seeds depend on, those
    of the same distance together, each distance's rising; place (n,): where they are there, or -1. counts (depth,): how
    many lie within 0, 1, ... hops. sections: of each, its rows' span in each distance's part of `order`. seeds: which
    of all seeds, in their order, are this rank's. reach: nodes within 0, 1, ... hops on all ranks, and entries of their
    rows: (depth, 2).

    What is exchanged with each other rank, in places in `order`: states[l]: rows of layer l's output, before layer
    l + 1 sums them up; gradients[l]: of what layer l + 1 has aggregated, before layer l sums these up.
    """

    ids: IntArray | None
    indptr: IndexArray
    indices: IndexArray
    values: Scale
    scale: Scale
    order: IndexArray
    place: IndexArray
    counts: IntArray
    sections: tuple[tuple[Span, ...], ...]
    seeds: Span
    reach: IntArray
    states: tuple[Moves, ...]
    gradients: tuple[Moves, ...]

    @property
    def inner(self) -> int:
        """Rows of layers after the first."""
        return int(self.counts[-2]) if len(self.counts) > 1 else 0

    def sections_of(self, layer: int) -> list[tuple[Span, ...]]:
        """This rank's rows of a layer, in sections: a rank's sums run over each by itself."""
        found = (spans[: len(self.counts) - layer] for spans in self.sections)
        return [spans for spans in found if any(start < stop for start, stop in spans)]

    def chunks(self, layer: int) -> list[Span]:
        """The same rows in shares for threads."""
        return [(start, stop) for spans in self.sections_of(layer) for start, stop in spans if start < stop]

    @property
    def own(self) -> Span:
        """This rank's rows of the last layer."""
        spans = [spans[0] for spans in self.sections]
        return (spans[0][0], spans[-1][1]) if spans else (0, 0)

    @property
    def bare(self) -> Shard:
        """What a pass needs of it: the spans of rows and what is exchanged."""
        none = self.order[:0]
        of_no_entry = np.empty(0, dtype=self.values.dtype)  # a view would keep all of them
        bare = replace(self, ids=None, indptr=none, indices=none, order=none, place=none)
        return replace(bare, values=of_no_entry, scale=self.scale[:0])

    @classmethod
    def of(
        cls,
        structure_of: tuple[IndexArray, IndexArray, Scale],
        scale: Scale,
        nodes: IntArray,
        row_work: Sequence[int],
        rank: int = 0,
        ranks: int = 1,
        first_sums: bool = True,
    ) -> Shard:
        """The shard of one of some ranks; `nodes`, rising, are the seeds.

        structure_of: CSR, and values of its entries. row_work (depth,): what a row's dense products cost in each layer,
        in entries that are summed up. first_sums: whether the first layer's rows are sums too, for which neighbours
        outside of `order` are held.
        """
        depth = len(row_work)
        indptr, indices, values = structure_of
        order = np.empty(len(indptr) - 1, dtype=indices.dtype)
        place = np.full(len(order), -1, dtype=indices.dtype)
        counts = structure.find_frontiers(indptr, indices, nodes, depth - 1, order, place)
        order = order[: counts[-1]]
        cuts = _cut_sections(indptr, order, counts, row_work)
        entries = np.concatenate([[0], np.cumsum(np.diff(indptr)[order], dtype=np.int64)])[counts]
        nothing: tuple[Moves, ...] = ((),) * (depth - 1)
        everything = cls(
            ids=None,
            indptr=indptr,
            indices=indices,
            values=values,
            scale=scale,
            order=order,
            place=place,
            counts=counts,
            sections=_find_sections(order, counts, cuts),
            seeds=(0, len(nodes)),
            reach=np.stack([counts, entries], axis=1),
            states=nothing,
            gradients=nothing,
        )
        if ranks == 1:
            return everything
        return _cut_part(everything, rank, ranks, cuts, len(order) if first_sums else everything.inner)


def _cut_sections(indptr: IndexArray, order: IndexArray, counts: IntArray, row_work: Sequence[int]) -> IntArray:
    """Ids (S + 1,) between which nodes cost about as much, over all layers that make their states."""
    count = min(CHUNKS, max(1, len(order) // SECTION_ROWS))
    load = np.zeros(len(indptr), dtype=np.int64)
    before = 0
    for hops, upto in enumerate(counts.tolist()):
        mine, layers = order[before:upto], len(counts) - hops
        load[mine + 1] = sum(row_work[:layers]) + (layers - 1) * (indptr[mine + 1] - indptr[mine])
        before = upto
    np.cumsum(load, out=load)
    inner = np.searchsorted(load, load[-1] * np.arange(1, count) // count)
    return np.concatenate([[0], inner, [len(indptr) - 1]])


def _find_sections(order: IndexArray, counts: IntArray, cuts: IntArray) -> tuple[tuple[Span, ...], ...]:
    """For each pair of cuts, where the nodes between them are among those of each distance."""
    ends = [before + np.searchsorted(order[before:upto], cuts) for before, upto in pairwise([0, *counts.tolist()])]
    return tuple(tuple((int(each[number]), int(each[number + 1])) for each in ends) for number in range(len(cuts) - 1))


def _cut_part(every: Shard, rank: int, ranks: int, cuts: IntArray, held: int) -> Shard:
    """One rank's part of what one rank alone would hold; the first `held` of `order` are sums."""
    numbers = np.arange(ranks + 1) * (len(cuts) - 1) // ranks  # of each rank's first cut
    bounds = cuts[numbers]
    first, last = int(bounds[rank]), int(bounds[rank + 1])
    flag = np.zeros(len(every.place), dtype=np.bool_)
    structure.mark_needed(every.indptr, every.indices, every.order, every.inner, held, first, last, flag)
    ids = np.flatnonzero(flag)
    local = np.full(len(flag), -1, dtype=every.indices.dtype)
    local[ids] = np.arange(len(ids))
    indptr, indices, values = structure.cut_out(
        every.indptr, every.indices, every.values, ids, local, every.place, every.inner, held, first, last
    )
    kept = flag[every.order]
    order = local[every.order[kept]]
    place = np.full(len(ids), -1, dtype=order.dtype)
    place[order] = np.arange(len(order))
    counts = np.concatenate([[0], np.cumsum(kept)])[every.counts]
    mine = np.searchsorted(ids, cuts[numbers[rank] : numbers[rank + 1] + 1])
    seeds = np.searchsorted(every.order[: every.counts[0]], [first, last])
    shard = replace(
        every,
        ids=ids,
        indptr=indptr,
        indices=indices,
        values=values,
        scale=every.scale[ids] if len(every.scale) else every.scale,
        order=order,
        place=place,
        counts=counts,
        sections=_find_sections(order, counts, mine),
        seeds=(int(seeds[0]), int(seeds[1])),
    )
    return _add_halos(shard, rank, list(pairwise(np.searchsorted(ids, bounds).tolist())))


def _add_halos(shard: Shard, rank: int, spans: list[Span]) -> Shard:
    """The shard with what `rank` exchanges with each other rank. spans (P,): where in `ids` each rank's nodes lie."""
    place, own = shard.place, spans[rank]
    classes = np.searchsorted(shard.counts, place, "right").astype(np.uint8)
    classes[place < 0] = _NEVER
    wanted = _find_needs(shard, classes, own)
    distances = range(len(shard.counts) - 2, -1, -1)  # the greatest one of the next layer's rows
    states: list[list[tuple[int, IndexArray, IndexArray]]] = [[] for _ in distances]
    gradients: list[list[tuple[int, IndexArray, IndexArray]]] = [[] for _ in distances]
    for other, theirs in enumerate(spans):
        if other == rank:
            continue
        asked = _find_needs(shard, classes, theirs)
        given, taken = _find_rows_with(shard, classes, own, theirs), _find_rows_with(shard, classes, theirs, own)
        for layer, most in enumerate(distances):
            sent, got = np.flatnonzero(asked[slice(*own)] <= most), np.flatnonzero(wanted[slice(*theirs)] <= most)
            states[layer].append((other, place[sent + own[0]], place[got + theirs[0]]))
            gradients[layer].append((other, place[given[classes[given] <= most]], place[taken[classes[taken] <= most]]))
    return replace(shard, states=tuple(states), gradients=tuple(gradients))


def _find_needs(shard: Shard, classes: ByteArray, span: Span) -> ByteArray:
    """Of each node, the least distance of a row of `span` that sums up its state, (n,)."""
    out = np.full(len(classes), _NEVER, dtype=np.uint8)
    structure.find_least_classes(shard.indptr, shard.indices, classes, len(shard.counts) - 2, *span, out)
    return out


def _find_rows_with(shard: Shard, classes: ByteArray, rows: Span, entries: Span) -> IntArray:
    """The nodes of `rows`, of layers after the first, that sum up a node of `entries`."""
    inner = np.flatnonzero(classes[slice(*rows)] <= len(shard.counts) - 2) + rows[0]
    with_entry: BoolArray = structure.find_rows_with_entry(shard.indptr, shard.indices, inner, *entries)
    return inner[with_entry]
