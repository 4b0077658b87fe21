"""What is read back from graph.h5, against the source graph and PyG's own induced subgraphs."""

from __future__ import annotations

import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.data import Data

from gnnsoup_hpc.config import Job, PartitionJob
from gnnsoup_hpc.data import loader
from gnnsoup_hpc.data.partition import partition_graph
from gnnsoup_hpc.data.transforms import prepare_features
from gnnsoup_hpc.engine.compiled.engine import CompiledEngine
from gnnsoup_hpc.engine.compiled.kernels.structure import localise
from gnnsoup_hpc.errors import PartError
from gnnsoup_hpc.graph.graph import Graph
from gnnsoup_hpc.graph.subgraph import Batch
from gnnsoup_hpc.io import graph as graph_store
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.runtime.profiling import QUANTITIES, Measurement
from gnnsoup_hpc.soup.context import SoupContext
from gnnsoup_hpc.soup.methods.learned import PartitionLearned
from gnnsoup_hpc.types import Role
from tests import arbitrary, runs
from tests.arbitrary import graphs, random_structure


@contextmanager
def stored(graph: Graph, parts: int) -> Iterator[GraphFile]:
    """The graph, cut into `parts`, as an open graph.h5."""
    job = Job.model_validate({"name": "any", "partition": {"parts": parts}, "soup": {"pls": {"union": 1}}})
    cut = partition_graph(graph, PartitionJob(parts=parts))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.h5"
        graph_store.write(
            path, *prepare_features(graph, "none"), cut, job, lambda: Measurement(dict.fromkeys(QUANTITIES, 0.0))
        )
        with graph_store.open_graph(path, job, verify=True) as file:
            yield file


@dataclass(frozen=True)
class Seen:
    """A batch in the source's node ids."""

    x: dict[int, tuple[float, ...]]
    edges: Counter[tuple[int, int]]
    targets: dict[int, int]


def seen(batch: Batch, ids: np.ndarray) -> Seen:
    """What a batch has; `ids` are its nodes' ids in the source."""
    adjacency = batch.graph.adjacency
    assert batch.graph.x.shape[0] == adjacency.nodes == batch.size == len(ids)
    edges = zip(ids[adjacency.indices.numpy()].tolist(), ids[adjacency.row.numpy()].tolist(), strict=True)
    return Seen(
        x={node: tuple(row.tolist()) for node, row in zip(ids.tolist(), batch.graph.x, strict=True)},
        edges=Counter(edges),
        targets=dict(zip(ids[batch.seeds.numpy()].tolist(), batch.targets.tolist(), strict=True)),
    )


def induced(graph: Graph, mask: np.ndarray, role: Role) -> Seen:
    """The same by PyG: `Data.subgraph` of the source's nodes under `mask`."""
    destination = np.repeat(np.arange(graph.nodes), np.diff(graph.indptr))
    data = Data(
        x=torch.from_numpy(graph.x),
        edge_index=torch.from_numpy(np.stack([graph.indices, destination])),
        y=torch.from_numpy(graph.y),
        role=torch.from_numpy(graph.role),
        id=torch.arange(graph.nodes),
        num_nodes=graph.nodes,
    ).subgraph(torch.from_numpy(mask))
    mine = data.role == int(role)
    return Seen(
        x={node: tuple(row.tolist()) for node, row in zip(data.id.tolist(), data.x, strict=True)},
        edges=Counter(map(tuple, data.id[data.edge_index].t().tolist())),
        targets=dict(zip(data.id[mine].tolist(), data.y[mine].tolist(), strict=True)),
    )


def source_ids(file: GraphFile, chosen: Sequence[int]) -> np.ndarray:
    """Source ids of the nodes of some parts, in the order in which a union holds them."""
    original = file.file["nodes/original_id"][:]
    return np.concatenate([original[file.ptr[part] : file.ptr[part + 1]] for part in sorted(chosen)])


@settings(max_examples=60)
@given(graphs(), st.data())
def test_union_of_parts_is_pygs_induced_subgraph(graph: Graph, data: st.DataObject) -> None:
    parts = data.draw(st.integers(1, graph.nodes), label="parts")
    chosen = data.draw(st.lists(st.integers(0, parts - 1), min_size=1, unique=True), label="chosen")
    role = data.draw(st.sampled_from([Role.TRAIN, Role.VALIDATION, Role.TEST]), label="role")
    with stored(graph, parts) as file:
        ids = source_ids(file, chosen)
        mask = np.isin(np.arange(graph.nodes), ids)
        assert seen(loader.load_union(file, chosen, role), ids) == induced(graph, mask, role)


@given(graphs(), st.data())
def test_whole_graph_is_the_source(graph: Graph, data: st.DataObject) -> None:
    parts = data.draw(st.integers(1, graph.nodes), label="parts")
    with stored(graph, parts) as file:
        ids = file.file["nodes/original_id"][:]
        assert sorted(ids.tolist()) == list(range(graph.nodes))
        everything = np.ones(graph.nodes, dtype=bool)
        whole = loader.load_whole(file, Role.VALIDATION)
        for role in (Role.TRAIN, Role.VALIDATION, Role.TEST):
            assert seen(loader.share_graph(file, whole, role), ids) == induced(graph, everything, role)
        assert file.validation_counts.sum() == (graph.role == Role.VALIDATION).sum()
        assert file.validation_counts.tolist() == [
            int((graph.role[source_ids(file, [part])] == Role.VALIDATION).sum()) for part in range(parts)
        ]


@pytest.fixture(scope="module")
def sixty() -> Iterator[GraphFile]:
    """A graph of 60 nodes in 6 parts, a third of its nodes for validation."""
    roles = [Role.TRAIN, Role.VALIDATION, Role.TEST] * 20
    with stored(arbitrary.graph(random_structure(60, 240), roles), 6) as file:
        yield file


def test_order_of_the_chosen_parts_is_no_matter(sixty: GraphFile) -> None:
    one, other = (loader.load_union(sixty, chosen, Role.TRAIN) for chosen in ([5, 0, 1], [0, 1, 5]))
    assert torch.equal(one.graph.x, other.graph.x)
    assert torch.equal(one.graph.adjacency.indices, other.graph.adjacency.indices)
    assert torch.equal(one.targets, other.targets)


@pytest.mark.parametrize(
    ("chosen", "message"), [([0, 6], "no part 6"), ([-1], "no part -1"), ([2, 0, 2], "part 2 is chosen twice")]
)
def test_unknown_or_repeated_part_is_named(sixty: GraphFile, chosen: list[int], message: str) -> None:
    with pytest.raises(PartError, match=message):
        loader.load_union(sixty, chosen, Role.TRAIN)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12).filter(any), st.integers(1, 12), arbitrary.SEEDS)
def test_draws_are_without_replacement_and_hold_a_validation_node(counts: list[int], size: int, seed: int) -> None:
    size = min(size, len(counts))
    drawn = list(islice(loader.draw_unions(np.array(counts), size, np.random.default_rng(seed)), 20))
    for chosen in drawn:
        assert len(set(chosen)) == size
        assert set(chosen) <= set(range(len(counts)))
        assert sum(counts[part] for part in chosen) > 0
    assert drawn == list(islice(loader.draw_unions(np.array(counts), size, np.random.default_rng(seed)), 20))


@given(graphs(), st.data())
def test_the_compiled_union_is_the_dense_submatrix_with_entries_in_their_order(
    graph: Graph, data: st.DataObject
) -> None:
    ranges = data.draw(st.lists(st.booleans(), min_size=graph.nodes, max_size=graph.nodes).filter(any), label="inside")
    inside = np.flatnonzero(ranges)
    spans = np.split(inside, np.flatnonzero(np.diff(inside) > 1) + 1)
    starts, stops = np.array([run[0] for run in spans]), np.array([run[-1] + 1 for run in spans])
    shifts = starts - np.concatenate([[0], np.cumsum(stops - starts)[:-1]])
    indptr = np.zeros(len(inside) + 1, dtype=np.int32)
    pieces = [
        graph.indices[graph.indptr[start] : graph.indptr[stop]] for start, stop in zip(starts, stops, strict=True)
    ]
    none = np.zeros((len(graph.indices), 0), dtype=np.float32)
    memory, read, kept = np.concatenate(pieces).astype(data.draw(st.sampled_from([np.int32, np.int64]))), 0, 0
    for start, stop, piece in zip(starts, stops, pieces, strict=True):
        raw = memory[read : read + len(piece)]
        bounds = graph.indptr[start : stop + 1]
        kept = localise(
            bounds,
            raw,
            starts,
            stops,
            shifts,
            indptr,
            start - shifts[runs_before(starts, start)],
            memory,
            kept,
            none.reshape(-1),
            none.reshape(-1),
            none,
            none,
        )
        read += len(piece)
    wanted = [
        [int(np.searchsorted(inside, v)) for v in graph.indices[a:b] if ranges[v]] for a, b in rows_of(graph, inside)
    ]
    assert [memory[a:b].tolist() for a, b in pairwise(indptr.tolist())] == wanted


def runs_before(starts: np.ndarray, start: int) -> int:
    return int(np.searchsorted(starts, start))


def rows_of(graph: Graph, nodes: np.ndarray) -> list[tuple[int, int]]:
    return [(int(graph.indptr[v]), int(graph.indptr[v + 1])) for v in nodes]


def summary(batch: Batch) -> tuple[object, ...]:
    """All that a batch has, copied, for its memory is used again."""
    structure = batch.graph.adjacency
    parts = (batch.graph.x, structure.indptr, structure.indices, batch.seeds, batch.targets)
    return tuple(part.tolist() for part in parts)


DRAWN = [[0, 3], [1, 2], [4, 5], [0, 5], [2, 3]]


def readers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("unions")]


@pytest.mark.parametrize("prefetch", [True, False])
def test_a_stream_gives_the_unions_in_their_order(sixty: GraphFile, prefetch: bool) -> None:
    wanted = [summary(loader.load_union(sixty, chosen, Role.VALIDATION)) for chosen in DRAWN]
    assert list(loader.stream_unions(sixty, DRAWN, Role.VALIDATION, summary, prefetch)) == wanted
    assert list(loader.stream_unions(sixty, [], Role.VALIDATION, summary, prefetch)) == []
    assert readers() == []


@pytest.mark.parametrize("prefetch", [True, False])
def test_a_batch_that_is_kept_is_never_written_over(sixty: GraphFile, prefetch: bool) -> None:
    wanted = [summary(loader.load_union(sixty, chosen, Role.VALIDATION)) for chosen in DRAWN]
    kept = list(loader.stream_unions(sixty, DRAWN, Role.VALIDATION, lambda batch: batch, prefetch))
    assert [summary(batch) for batch in kept] == wanted


def test_no_more_than_two_unions_of_features_are_in_memory(sixty: GraphFile) -> None:
    net = Architecture("sage", 2, sixty.features, 4, sixty.classes)
    for ready, most in ((lambda batch: batch, 2), (partial(CompiledEngine().plan, net), 1)):
        pools = []

        def seen(batch: Batch, ready: Callable[[Batch], object] = ready, pools: list[object] = pools) -> object:
            pools.append(batch.graph.pool)
            return ready(batch)

        made = loader.stream_unions(sixty, DRAWN * 4, Role.VALIDATION, seen)
        for one in made:
            for _ in range(1000):  # the next one is read meanwhile
                if pools[0].buffers("x") == most:
                    break
                time.sleep(0.001)
            del one
        assert len({id(pool) for pool in pools}) == 1
        assert pools[0].buffers("x") == most
        assert pools[0].buffers("first") <= 1


@pytest.mark.parametrize("prefetch", [True, False])
def test_what_is_wrong_comes_to_the_consumer_in_its_turn(sixty: GraphFile, prefetch: bool) -> None:
    made = loader.stream_unions(sixty, [[0, 1], [2, 6], [3, 4]], Role.VALIDATION, summary, prefetch)
    next(made)
    with pytest.raises(PartError, match="no part 6"):
        next(made)
    assert readers() == []


def test_a_stream_that_is_left_early_leaves_no_thread(sixty: GraphFile) -> None:
    made = loader.stream_unions(sixty, cycle(DRAWN), Role.VALIDATION, summary)
    next(made)
    assert len(readers()) == 1
    made.close()
    assert readers() == []
    again = loader.stream_unions(sixty, cycle(DRAWN), Role.TRAIN, summary)
    next(again)
    with pytest.raises(ZeroDivisionError):
        again.throw(ZeroDivisionError())
    assert readers() == []


def test_a_consumer_that_raises_leaves_no_thread(trained: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def fails(*_: object) -> None:
        seen.extend(readers())
        raise ZeroDivisionError

    monkeypatch.setattr(SoupContext, "loss_and_gradient", fails)
    with runs.open_mixtures(trained) as mixtures:
        with pytest.raises(ZeroDivisionError):
            PartitionLearned(trained.soup.pls).run(runs.make_context(mixtures))
        assert len(seen) == 1
        assert readers() == []


def test_draws_reach_every_part() -> None:
    drawn = islice(loader.draw_unions(np.ones(8, dtype=np.int64), 2, np.random.default_rng(0)), 200)
    count = Counter(part for chosen in drawn for part in chosen)
    assert set(count) == set(range(8))
    assert max(count.values()) < 2 * min(count.values())
