"""From graph.h5 to what a model computes on: the whole graph, a union of parts, a stream of unions.

A union is read with a few contiguous slices into memory that the next one uses again; nothing here has the size of the
whole graph unless all parts are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from gnnsoup_hpc.engine.base import UnionSource
from gnnsoup_hpc.engine.compiled.kernels.structure import localise
from gnnsoup_hpc.engine.threads import Span
from gnnsoup_hpc.graph.sparse import Adjacency
from gnnsoup_hpc.graph.subgraph import Batch, Subgraph
from gnnsoup_hpc.io.first_aggregation import FirstAggregationFile
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.types import BoolArray, FloatArray, IndexArray, IntArray, Role
from gnnsoup_hpc.utils.counter import derive_keys
from gnnsoup_hpc.utils.out_of_core import BufferPool, index_type

Made = TypeVar("Made")
Roles = Role | tuple[Role, ...]
FindSeeds = Callable[[GraphFile, Sequence[Span]], tuple[Tensor, Tensor]]  # seeds of ranges of nodes, and their targets
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Bag:
    """A share of some nodes: those whose ids in the source have a hash with `key` that is `bound` or less.

    Of one key no two ids have one hash, so there are as many as were asked for.
    """

    key: int
    bound: int

    @classmethod
    def draw(cls, ids: IntArray, share: float, key: int) -> Bag:
        """A bag of round(`share` n) of n nodes, at least one, drawn without replacement. ids: (n,), in any order.

        Source: pasting, Breiman, Machine Learning 36, 1999; bagging, Breiman, Machine Learning 24, 1996, replaces.
        """
        last = max(1, round(share * len(ids))) - 1
        return cls(key, int(np.partition(_hash_nodes(key, ids), last)[last]))

    def has(self, ids: IntArray) -> BoolArray:
        """Of each node whether it is in the bag, (n,)."""
        found: BoolArray = _hash_nodes(self.key, ids) <= self.bound
        return found


def _hash_nodes(key: int, ids: IntArray) -> IntArray:
    found: IntArray = derive_keys(key, torch.from_numpy(ids)).numpy()
    return found


def load_whole(graph: GraphFile, role: Roles) -> Batch:
    """The whole graph, with the nodes of `role`, which may be several, as seeds."""
    return load_union(graph, range(graph.parts), role)


def load_structure(graph: GraphFile, chosen: Sequence[int]) -> Subgraph:
    """The subgraph of some parts without features, (n, 0): whoever needs some of them reads those."""
    found = _read_structure(graph, graph.runs_of(chosen), BufferPool())
    return Subgraph(torch.empty(found.nodes, 0), found)


def share_graph(graph: GraphFile, view: Batch, role: Role) -> Batch:
    """Another role's view of the whole graph that `view` holds, sharing its features and structure."""
    return Batch(view.graph, *find_seeds(graph, [(0, graph.nodes)], role)).to(view.graph.device)


def load_union(
    graph: GraphFile,
    chosen: Sequence[int],
    role: Roles | FindSeeds,
    pool: BufferPool | None = None,
    hop: FirstAggregationFile | None = None,
) -> Batch:
    """Subgraph induced by the union of `chosen` parts as `role` sees it; cut edges between them are kept.

    role: whose nodes are seeds, with their labels, one or several, or a function that finds seeds and targets.

    Large arrays come from `pool`. With `hop`, the first hop is the whole graph's, and features that it replaces are not
    read.
    Shapes: x (V', F), adjacency (V', V') with V' the sum of the parts' sizes, nodes and labels (n,).
    Raises: PartError for a repeated or unknown part, naming it; FileError for a file that is damaged.
    Source: arXiv 2503.11612, section on Partition Learned Souping.
    """
    runs = graph.runs_of(chosen)
    memory = pool or BufferPool()
    structure = _read_structure(graph, runs, memory)
    if graph.sparse and hop is None:
        x = graph.sparse_x(runs)
    else:
        x = _read_features(graph.x, runs, 0 if hop is not None and hop.alone else graph.features, "x", memory)
    aggregated = None if hop is None else _read_features(hop.read_into, runs, graph.features, "hop", memory)
    nodes, targets = role(graph, runs) if callable(role) else find_seeds(graph, runs, role)
    return Batch(Subgraph(x, structure, aggregated, pool), nodes, targets)


def _read_features(
    read: Callable[[int, int, FloatArray], object], runs: Sequence[Span], width: int, purpose: str, memory: BufferPool
) -> Tensor:
    """Rows of all runs, one run after the other, (V', width)."""
    out = memory.array(purpose, (sum(stop - start for start, stop in runs), width), np.float32)
    at = 0
    for start, stop in runs if width else ():
        read(start, stop, out[at : at + stop - start])
        at += stop - start
    return torch.from_numpy(out)


def _read_structure(graph: GraphFile, runs: Sequence[Span], memory: BufferPool) -> Adjacency:
    """The induced structure. What is read of the file is overwritten, from its beginning on, with what is kept."""
    starts, stops = (np.array(ends, dtype=np.int64) for ends in zip(*runs, strict=True))
    firsts = np.concatenate([[0], np.cumsum(stops - starts)])
    bounds = [graph.bounds(start, stop) for start, stop in runs]
    entries = memory.array("entries", (sum(int(each[-1] - each[0]) for each in bounds),), graph.id_type)
    weights = memory.array("weights", (len(entries) * graph.weighted,), np.float32)
    features = memory.array("edge_attr", (len(entries), graph.edge_features), np.float32)
    indptr = np.zeros(firsts[-1] + 1, dtype=index_type(len(entries)))
    read = kept = 0
    for row, each in zip(firsts[:-1].tolist(), bounds, strict=True):
        first, last = int(each[0]), int(each[-1])
        span = slice(read, read + last - first)
        raw, read = entries[span], span.stop
        graph.neighbours(each, raw)
        weigh = graph.weights(each, weights[span]) if graph.weighted else weights
        found = graph.edge_attr(first, last, features[span])
        where = starts, stops, starts - firsts[:-1], indptr, row
        kept = localise(each, raw, *where, entries, kept, weigh, weights, found, features)
    values = weights[:kept] if graph.weighted else None, features[:kept] if graph.edge_features else None
    return make_adjacency(indptr, entries[:kept], *values)


def find_nodes(graph: GraphFile, start: int, stop: int, role: Roles, bag: Bag | None = None) -> IntArray:
    """Of nodes start to stop those of `role`, of a bag only those in it, by their places after start, (n,)."""
    found = np.flatnonzero(np.isin(graph.role(start, stop), role))
    return found if bag is None else found[bag.has(graph.original_ids(start, stop)[found])]


def find_seeds(graph: GraphFile, runs: Sequence[Span], role: Roles, bag: Bag | None = None) -> tuple[Tensor, Tensor]:
    """Nodes of `role`, of a bag only those in it, by their ids in the union, and their labels, (n,) each."""
    nodes, labels, at = [], [], 0
    for start, stop in runs:
        mine = find_nodes(graph, start, stop, role, bag)
        nodes.append(mine + at)
        labels.append(graph.y(start, stop)[mine])
        at += stop - start
    return torch.from_numpy(np.concatenate(nodes)), torch.from_numpy(np.concatenate(labels))


def stream_unions(
    graph: GraphFile,
    drawn: Iterable[Sequence[int]],
    role: Roles | FindSeeds,
    ready: Callable[[Batch], Made],
    prefetch: bool = True,
    hop: FirstAggregationFile | None = None,
    device: torch.device = CPU,
    source: UnionSource | None = None,
) -> Generator[Made]:
    """What `ready` makes of each union of `drawn`; with `prefetch`, the next one is read while the last is in use.

    Of a GPU the next one is made ready too, on a stream of its own. Buffers are used again. So there are two of
    features where what is made keeps the union's own, and one where it does not. Close the stream, or let go of it, to
    end its thread. source: what unions are cut out of, in place of the file.
    Raises: what `load_union` and `ready` do, when the union that it concerns is asked for.
    """
    turn = iter(drawn)
    for first in islice(turn, 1):
        turn = chain([first], turn)
        pool = BufferPool(int(np.sort(np.diff(graph.ptr))[-len(first) :].sum()))

    def read(chosen: Sequence[int]) -> Batch:
        return load_union(graph, chosen, role, pool, hop) if source is None else source.cut(graph.runs_of(chosen))

    if prefetch and device.type == "cuda":
        yield from _make_ahead(turn, lambda chosen: ready(read(chosen)), device)
        return
    if not prefetch:
        yield from (ready(read(chosen)) for chosen in turn)
        return
    with ThreadPoolExecutor(1, "unions") as thread:  # no name is kept, for it would keep buffers in use
        coming = [thread.submit(read, chosen) for chosen in islice(turn, 1)]
        while coming:
            made = ready(coming.pop().result())
            coming += [thread.submit(read, chosen) for chosen in islice(turn, 1)]
            yield made
            del made


def _make_ahead(
    turn: Iterator[Sequence[int]], make: Callable[[Sequence[int]], Made], device: torch.device
) -> Generator[Made]:
    """Each is made on a stream of its own while the one before is in use.

    What is made is let go of once the next one is there and none is in the making, and the stream waits for all that
    was computed on it: so its memory is not written to too early.
    """
    # Its small kernels go first, or each would wait for one of those that compute on the whole union.
    own = torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]

    def run(chosen: Sequence[int], before: torch.cuda.Event) -> tuple[Made, torch.cuda.Event]:
        with torch.cuda.stream(own):
            own.wait_event(before)
            made = make(chosen)
            return made, own.record_event()

    def submit() -> list[Future[tuple[Made, torch.cuda.Event]]]:
        before = torch.cuda.current_stream(device).record_event()
        return [thread.submit(run, chosen, before) for chosen in islice(turn, 1)]

    with ThreadPoolExecutor(1, "unions") as thread:
        coming, made = submit(), None
        while coming:
            made, event = coming.pop().result()
            torch.cuda.current_stream(device).wait_event(event)
            coming = submit()
            yield made


def warm_up() -> None:
    """Compile, or load, the kernel of reading, so that the first union is not blamed for it."""
    one, ids, none = np.arange(2), np.zeros(1, dtype=np.int32), np.zeros((1, 0), dtype=np.float32)
    where = one[:1], one[1:], one[:1], np.zeros(2, dtype=np.int32), 0
    localise(one, ids, *where, ids, 0, none[0], none[0], none, none)


def draw_unions(validation_counts: IntArray, size: int, generator: np.random.Generator) -> Iterator[list[int]]:
    """Endless draws of `size` of K parts without replacement; a union with no validation node is drawn again."""
    parts = len(validation_counts)
    while True:
        chosen = generator.choice(parts, size, replace=False)
        if validation_counts[chosen].any():
            yield sorted(int(part) for part in chosen)


def make_adjacency(
    indptr: IndexArray, indices: IndexArray, weight: FloatArray | None = None, edge_attr: FloatArray | None = None
) -> Adjacency:
    """A square structure, int32 where it holds: half the memory traffic, and what the sparse libraries compute in."""
    kind = index_type(len(indices))
    return Adjacency(
        torch.from_numpy(indptr.astype(kind, copy=False)),
        torch.from_numpy(indices.astype(kind, copy=False)),
        weight=None if weight is None else torch.from_numpy(weight),
        edge_attr=None if edge_attr is None else torch.from_numpy(edge_attr),
    )
