"""Bytes of a GPU that a plan, and a state on it, take: what plan.py, passes.py and gat.py allocate, counted.

V nodes, E entries (directed), n seed nodes; layer l has R_l rows, and as columns the rows of the layer before.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from gnnsoup_hpc.engine.memory import FLOAT, Extent, Memory, Terms, estimate_frontiers, total
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.types import Mode, Precision
from gnnsoup_hpc.utils.out_of_core import index_type

STATE: dict[Precision, int] = {"float32": FLOAT, "bfloat16": 2}  # bytes of a number of a state
SHARE = 4  # weights of attention are kept that take no more than one over this of what the values take
NORMALISED = {"gcn": 40, "sage": 16}  # bytes of an entry while weights are normalised; GCN sorts self-loops in
LONG = 8  # bytes of an id that PyTorch gathers by, and of a target


@dataclass(frozen=True)
class Counts:
    """Of a plan. rows, entries: of each layer; columns: of the first layer; id_bytes: of one id."""

    rows: tuple[int, ...]
    entries: tuple[int, ...]
    columns: int
    id_bytes: int

    @classmethod
    def of(cls, net: Architecture, extent: Extent) -> Counts:
        """What seed nodes that lie anywhere need."""
        counts = estimate_frontiers(extent, net.layers - (net.aggregation is not None))
        rows = counts[::-1] if net.aggregation is not None else counts[-2::-1]
        loops = net.aggregation is None or net.aggregation.loops
        entries = (_estimate_entries(extent, each) + each * loops for each in rows)
        return cls(tuple(rows), tuple(entries), counts[-1], int(np.dtype(index_type(extent.read)).itemsize))


def _estimate_entries(extent: Extent, rows: int) -> int:
    """Of so many rows; those that were reached along entries have more of them than seed nodes, which lie anywhere."""
    share = min(1.0, rows / max(1, extent.nodes))
    return round(extent.entries * (1 - (1 - share) ** 2 if rows > extent.seeds else share))


def estimate(net: Architecture, extent: Extent, mode: Mode, precision: Precision, line: bool) -> Memory:
    """As `Engine.memory`."""
    counts, size = Counts.of(net, extent), STATE[precision]
    count = _count_attention if net.kind == "gat" else _count_sums
    states = count(net, counts, size, mode != "evaluate")
    if line and net.kind != "gat":
        states = {**states, "line": 2 * size * net.widths(0)[1] * counts.rows[0]}
    plan = _count_plan(net, extent, counts, size)
    if mode != "evaluate":
        plan = {**plan, "transposes": _count_transposes(net, counts)}
    if net.weighted:  # all of whose weights are normalised before there are any states
        before = NORMALISED[net.kind] * (extent.entries + extent.nodes)
        plan = {**plan, "normalised": max(0, before - total(states) - plan.get("transposes", 0))}
    return Memory(plan, states)


def _count_plan(net: Architecture, extent: Extent, counts: Counts, size: int) -> dict[str, int]:
    beside = net.aggregation is not None and net.aggregation.beside_own
    inner = net.aggregation is not None  # the first layer's sums are there, and need no structure
    listed = counts.rows[inner] if len(counts.rows) > inner else 0
    entries = counts.entries[inner] if len(counts.rows) > inner else 0
    ids, weight = counts.id_bytes, FLOAT * net.weighted
    scales = inner * FLOAT * counts.columns
    return {
        "features": size * counts.columns * net.features * (2 if beside else 1),
        "structure": ids * (extent.nodes + extent.entries) + weight * extent.entries,
        "rows": ids * (listed + entries + counts.columns + extent.nodes) + weight * entries + scales,
        "seeds": 2 * LONG * extent.seeds,
    }


class _Ledger:
    """What is held, and the most that ever was."""

    def __init__(self) -> None:
        self.held = self.most = 0

    def hold(self, size: int) -> int:
        """Bytes that are taken, until `free`."""
        self.held += size
        self.most = max(self.most, self.held)
        return size

    def free(self, *sizes: int) -> None:
        """Give them back."""
        self.held -= sum(sizes)


def _count_parameters(net: Architecture, keep: bool) -> int:
    """A copy in the plan's precision; where gradients follow, of these one in float32 and one in float64."""
    return FLOAT * (4 if keep else 1) * sum(prod(shape) for shape in net.shapes().values())


def _count_transposes(net: Architecture, counts: Counts) -> int:
    """Those of GAT, and of weights, which differ there and back, are sorted; all are cut to a layer's rows."""
    first = 0 if net.aggregation is None else 1
    layers = range(first, net.layers)
    columns = [counts.rows[layer - 1] if layer else counts.columns for layer in layers]
    if net.aggregation is not None and not net.weighted:
        return counts.id_bytes * sum(each + counts.entries[layer] for each, layer in zip(columns, layers, strict=True))
    sorted_ = max((counts.entries[layer] for layer in layers), default=0)
    ends = 2 * counts.id_bytes * sum(columns)
    return 2 * counts.id_bytes * sorted_ + ends


def _count_sums(net: Architecture, counts: Counts, size: int, keep: bool) -> Terms:
    """As passes.py goes about it, of GCN and GraphSAGE."""
    ledger, rows = _Ledger(), counts.rows
    norm = net.norm == "layer"
    own = net.aggregation is not None and net.aggregation.beside_own
    hidden, sums, norms = list[int](), list[int](), list[int]()
    for layer, count in enumerate(rows):
        into, out = net.widths(layer)
        aggregated = ledger.hold(size * count * into) if layer else 0
        made = ledger.hold(size * count * out)
        if layer == net.layers - 1:
            ledger.hold(FLOAT * count * out)
        elif keep:
            norms.append(ledger.hold(norm * (made + FLOAT * count)))
        if layer and not keep:
            ledger.free(aggregated, hidden.pop())
        hidden.append(made)
        sums.append(aggregated)
    if keep:
        gradient = ledger.hold(hidden.pop())
        for _ in range(net.layers - 1):
            aggregated, below = sums.pop(), hidden.pop()
            beside = ledger.hold(own * aggregated)
            new = ledger.hold(below)
            ledger.free(gradient, beside)
            gradient = new
            ledger.free(aggregated, below, norms.pop())
    return {"states": ledger.most, "parameters": _count_parameters(net, keep)}


def _count_attention(net: Architecture, counts: Counts, size: int, keep: bool) -> Terms:
    """As gat.py goes about it."""
    ledger, norm, heads = _Ledger(), net.norm == "layer", net.heads
    scored = FLOAT * heads
    kept = list[tuple[int, int, int, int]]()  # of a layer: what went in, values, scores with sums, its norm
    below = 0  # of the first layer, the plan's
    for layer, (count, entries) in enumerate(zip(counts.rows, counts.entries, strict=True)):
        last, columns = layer == net.layers - 1, counts.rows[layer - 1] if layer else counts.columns
        width = heads * net.outputs if last else net.widths(layer)[1]
        values = ledger.hold(size * columns * width)
        wide = ledger.hold(FLOAT * columns * width if size != FLOAT else 0)
        raw = ledger.hold(2 * scored * columns)
        ledger.free(wide)
        scores = ledger.hold(scored * (columns + 2 * count))
        ledger.free(raw)
        weights = ledger.hold(scored * entries)
        sums = ledger.hold(size * count * width)
        stay = keep and SHARE * weights <= values
        ledger.free(0 if stay else weights)
        made = ledger.hold(FLOAT * count * net.outputs if last else keep * sums)
        normed = ledger.hold(keep * (norm and not last) * (sums + FLOAT * count))
        if keep:
            kept.append((below, values, scores + sums + stay * weights, normed))
            below = made
        else:
            ledger.free(values, scores, below)
            below = made or sums
    if keep:
        gradient = ledger.hold(size * counts.rows[-1] * heads * net.outputs)
        for layer in range(net.layers - 1, -1, -1):
            below, values, sums, normed = kept.pop()
            columns = counts.rows[layer - 1] if layer else counts.columns
            entries = ledger.hold(2 * scored * counts.entries[layer])
            inner = ledger.hold(scored * (counts.rows[layer] + 2 * columns))
            of_values = ledger.hold(values)
            wide = ledger.hold(values * FLOAT // size if size != FLOAT else 0)
            ledger.free(wide, entries, inner)
            ledger.free(gradient)
            gradient = ledger.hold(below)
            ledger.free(of_values, values, sums, normed, below)
    return {"states": ledger.most, "parameters": _count_parameters(net, keep)}
