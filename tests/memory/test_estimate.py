"""What phases are predicted to hold: exact on small cases, growing with what they are a function of."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from gnnsoup_hpc.config import Job
from gnnsoup_hpc.engine import ENGINES, TorchEngine
from gnnsoup_hpc.engine.compiled.engine import PLAN_NODE, WEIGHTED_NODE, CompiledEngine
from gnnsoup_hpc.engine.memory import Extent, Memory, estimate_frontiers, total
from gnnsoup_hpc.engine.torch import STRUCTURE_ENTRY, STRUCTURE_NODE
from gnnsoup_hpc.io import graph as graph_store
from gnnsoup_hpc.memory import estimate
from gnnsoup_hpc.memory.estimate import MIB, Sizes
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.models.registry import make_model
from gnnsoup_hpc.runtime.run_dir import RunDir

GPU = torch.device("cuda")
NET = Architecture("sage", layers=3, features=100, hidden=128, classes=47, norm="layer")
PRODUCTS = Sizes(
    NET,
    part_nodes=np.full(32, 76_532),
    part_entries=np.linspace(2_000_000, 5_800_000, 32).astype(np.int64),
    part_seeds=np.full(32, 1_229),
    cut=0.15,
)
PHASES = {
    "ls": lambda sizes: estimate.ls(sizes, 8),
    "pls": lambda sizes: estimate.pls(sizes, 8, 4),
    "distil": lambda sizes: estimate.distil(sizes, 8, 4),
    "in memory": estimate.inference,
    "layer by layer": lambda sizes: estimate.least_inference(sizes)[1],
    "full": lambda sizes: estimate.full_batches(sizes, sizes.engine),
    "full, torch": lambda sizes: estimate.full_batches(sizes, TorchEngine()),
    "cluster, torch": lambda sizes: estimate.cluster_batches(sizes, TorchEngine(), 2),
    "cluster": lambda sizes: estimate.cluster_batches(sizes, sizes.engine, 2),
    "neighbour": lambda sizes: estimate.neighbour_batches(sizes, sizes.engine, 1024, (10, 10, 10)),
}
every_phase = pytest.mark.parametrize("phase", PHASES.values(), ids=PHASES)


def grown(sizes: Sizes, **model: Any) -> Sizes:
    return replace(sizes, net=replace(sizes.net, **model))


def test_sizes_are_those_of_the_graph(trained: Job) -> None:
    with graph_store.open_graph(RunDir.of(trained).graph, trained) as graph:
        net = make_model(trained.model, graph.features, graph.classes)
        sizes = Sizes.of(graph, net)
        assert sizes.whole == Extent(graph.nodes, graph.edges, graph.edges, int(graph.validation_counts.sum()))
        for part in range(graph.parts):
            degree, _ = graph.rows(int(graph.ptr[part]), int(graph.ptr[part + 1]))
            assert sizes.part_nodes[part] == len(degree)
            assert sizes.part_entries[part] == degree.sum()
        inner = 0
        for part in range(graph.parts):
            start, stop = int(graph.ptr[part]), int(graph.ptr[part + 1])
            _, neighbours = graph.rows(start, stop)
            inner += int(((neighbours >= start) & (neighbours < stop)).sum())
        assert sizes.cut == pytest.approx(1 - inner / graph.edges)


def test_a_union_of_all_parts_is_the_whole_graph() -> None:
    assert PRODUCTS.union(32) == PRODUCTS.whole
    assert PRODUCTS.union(40) == PRODUCTS.whole


def test_a_union_is_the_largest_of_its_size() -> None:
    two = PRODUCTS.union(2)
    assert two.read == PRODUCTS.part_entries[-2:].sum()
    assert two.nodes == 2 * 76_532
    assert two.entries == round(two.read * (1 - 0.15 * (1 - 1 / 31)))
    assert PRODUCTS.union(1).entries == round(5_800_000 * 0.85)


def test_mixing_is_exact() -> None:
    count = 128 * 200 + 128 + 128 * 256 + 128 + 47 * 256 + 47 + 4 * 128
    assert estimate.parameters(NET) == count
    assert estimate.mixing(NET, 8) == count * (4 * 12 + 16)


def test_nodes_within_reach_on_small_cases() -> None:
    assert estimate_frontiers(Extent(100, 400, 400, 100), 2) == [100, 100, 100]
    assert estimate_frontiers(Extent(100, 0, 0, 10), 2) == [10, 10, 10]
    (seeds, near) = estimate_frontiers(Extent(1000, 4000, 4000, 100), 1)
    assert (seeds, near) == (100, 1000 - round(900 * 0.9**4))


def test_the_nodes_within_reach_are_about_those_of_a_random_graph() -> None:
    rng = np.random.default_rng(0)
    nodes, seeds = 20_000, 300
    ends = rng.integers(0, nodes, (nodes * 6, 2))
    there = np.zeros(nodes, dtype=bool)
    there[rng.choice(nodes, seeds, replace=False)] = True
    expected = estimate_frontiers(Extent(nodes, len(ends), len(ends), seeds), 2)
    for count in expected[1:]:
        there[ends[there[ends[:, 0]], 1]] = True
        assert there.sum() == pytest.approx(count, rel=0.1)


def fit(net: Architecture, extent: Extent) -> Memory:
    return CompiledEngine().memory(net, extent, mode="fit")


def evaluate(net: Architecture, extent: Extent) -> Memory:
    return CompiledEngine().memory(net, extent, mode="evaluate")


SMALL = Architecture("sage", layers=2, features=5, hidden=3, classes=2)
TWO = Extent(nodes=2, read=4, entries=3, seeds=2)


def test_reading_on_a_small_case() -> None:
    assert estimate.reading(SMALL, TWO) == 4 * 5 * 2 + 4 * 4 + estimate.READ_NODE * 2


def test_the_compiled_engine_on_a_small_case() -> None:
    """Two nodes, both seeds, three entries: all shapes by hand."""
    hidden, scores, nodes = 4 * 2 * 3, 4 * 2 * 2, PLAN_NODE * 2
    assert fit(SMALL, TWO).plan == {"first hop": 4 * 2 * (2 * 5), "structure": 2 * 4 * 3 + nodes}
    products = 2 * scores  # of neighbours' states and of own ones: the last layer narrows
    assert fit(SMALL, TWO).states == {"states": hidden + products + 4 * scores, "gradients": 32 * 4 * 5 * 3 * 2}
    assert evaluate(SMALL, TWO).states == {"states": products + scores + 2 * scores}
    normed = replace(SMALL, norm="layer")
    assert fit(normed, TWO).states == fit(SMALL, TWO).states
    wide = replace(SMALL, classes=4)  # whose last layer sums up states, and keeps the sums
    assert fit(wide, TWO).states["states"] == hidden + hidden + 4 * 2 * scores
    assert fit(replace(wide, norm="layer"), TWO).states["states"] == hidden + hidden + hidden + 4 * 2 * scores
    assert evaluate(wide, TWO).states["states"] == hidden + 2 * scores + 2 * 2 * scores
    gcn = replace(SMALL, kind="gcn")
    assert fit(gcn, TWO).plan == {"first hop": 4 * 2 * 5, "structure": 2 * 4 * (3 + 2) + nodes}
    one = replace(SMALL, layers=1)
    assert fit(one, TWO).plan["structure"] == nodes  # the first aggregation needs no entry any more
    gat = replace(SMALL, kind="gat", hidden=4, heads=2)
    assert fit(gat, TWO).plan["structure"] == 3 * 4 * (3 + 2) + nodes


def test_weights_of_edges_are_counted() -> None:
    """Beside each entry, of the transpose too, which has places; and a copy of the structure while they are made."""
    for kind, loops in (("sage", 0), ("gcn", 2)):
        plain = replace(SMALL, kind=kind)
        net, entries = replace(plain, weighted=True), 3 + loops
        copy = (4 + 4) * entries + WEIGHTED_NODE * 2
        assert estimate.reading(net, TWO) == estimate.reading(plain, TWO) + 4 * 4
        assert fit(net, TWO).plan["structure"] == fit(plain, TWO).plan["structure"] + (4 + 4 + 4) * entries + copy
        assert evaluate(net, TWO).plan["structure"] == evaluate(plain, TWO).plan["structure"] + 4 * entries + copy
        assert fit(net, TWO).states == fit(plain, TWO).states
    weighted = grown(PRODUCTS, weighted=True)
    for ranks in (1, 4):
        assert estimate.ls(weighted, 8, ranks) > estimate.ls(PRODUCTS, 8, ranks) + 4 * PRODUCTS.whole.entries


def test_only_gradients_need_the_transpose() -> None:
    nodes = PLAN_NODE * 2
    gat = replace(SMALL, kind="gat", hidden=4, heads=2)
    assert evaluate(SMALL, TWO).plan == fit(SMALL, TWO).plan | {"structure": 4 * 3 + nodes}
    for net in (replace(SMALL, kind="gcn"), gat):
        assert evaluate(net, TWO).plan == fit(net, TWO).plan | {"structure": 4 * (3 + 2) + nodes}


def test_entries_between_ranks_are_attentions_alone() -> None:
    shared, gat = replace(TWO, crossing=6), replace(SMALL, kind="gat", hidden=4, heads=2)
    assert fit(gat, shared).plan["structure"] == fit(gat, TWO).plan["structure"] + 2 * 4 * 6
    assert evaluate(gat, shared).plan == evaluate(gat, TWO).plan
    assert fit(gat, shared).states["states"] - fit(gat, TWO).states["states"] == 4 * 2 * 6
    for kind in ("gcn", "sage"):
        net = replace(SMALL, kind=kind)
        assert fit(net, shared) == fit(net, TWO)
        assert evaluate(net, shared) == evaluate(net, TWO)


def test_the_torch_engine_on_a_small_case() -> None:
    """All rows of all layers: features and the first aggregation, copies of the states, numbers of entries."""
    structure, widths = STRUCTURE_ENTRY * 3 + STRUCTURE_NODE * 2, 3 + 2
    for mode, copies in (("train", 8), ("fit", 8), ("evaluate", 3)):
        found = TorchEngine().memory(SMALL, TWO, mode=mode)  # type: ignore[arg-type]
        assert found.plan == {"features": 2 * 4 * 5 * 2, "structure": structure}
        assert found.states == {"states": copies * 4 * 2 * widths, "entries": 0}
        gat = replace(SMALL, kind="gat", hidden=4, heads=2)
        found = TorchEngine().memory(gat, TWO, mode=mode)  # type: ignore[arg-type]
        assert found.plan == {"features": 4 * 5 * 2, "structure": structure}
        assert found.states == {"states": copies * 4 * 2 * (4 + 2), "entries": 4 * 15 * 2 * 3 * 2}


@pytest.mark.parametrize("kind", ["gcn", "sage", "gat"])
def test_ranks_that_share_a_graph_need_less_each(kind: str) -> None:
    sizes = grown(PRODUCTS, kind=kind, heads=2 if kind == "gat" else 1)
    for needed in (
        [estimate.ls(sizes, 8, ranks) for ranks in (1, 2, 4, 8)],
        [estimate.inference(sizes, line=True, ranks=ranks) for ranks in (1, 2, 4, 8)],
    ):
        assert needed == sorted(needed, reverse=True)
        assert len(set(needed)) == 4
    away = replace(sizes, device=GPU)
    assert estimate.ls(away, 8, 8) == estimate.ls(away, 8, 1)


def test_a_line_is_linear_in_its_ratio_but_not_of_attention() -> None:
    gat = grown(PRODUCTS, kind="gat", heads=4)
    assert estimate.inference(gat, line=True) == estimate.inference(gat)


def test_phases_are_sums_of_their_terms() -> None:
    def terms(extent: Extent) -> tuple[int, int, int, int]:
        held, reads, needed = estimate.mixing(NET, 8), estimate.reading(NET, extent), fit(NET, extent)
        assert needed.total == total(needed.plan) + total(needed.states)
        return held, reads, total(needed.plan), total(needed.states)

    held, reads, planned, kept = terms(PRODUCTS.union(4))
    assert estimate.pls(PRODUCTS, 8, 4) == estimate.BASE + held + reads + planned + kept
    exact = estimate.pls(PRODUCTS, 8, 4, exact=True) - estimate.pls(PRODUCTS, 8, 4)
    assert exact == 4 * NET.features * PRODUCTS.union(4).nodes
    held, reads, planned, kept = terms(PRODUCTS.whole)
    assert estimate.ls(PRODUCTS, 8) == estimate.BASE + held + planned + max(reads, kept)
    line = estimate.inference(PRODUCTS, line=True) - estimate.inference(PRODUCTS)
    assert line == 2 * 4 * NET.hidden * PRODUCTS.whole.nodes


@every_phase
def test_everything_larger_needs_more(phase: Any) -> None:
    least = phase(PRODUCTS)
    assert phase(replace(PRODUCTS, part_nodes=PRODUCTS.part_nodes * 2, part_seeds=PRODUCTS.part_seeds * 2)) > least
    assert phase(replace(PRODUCTS, part_entries=PRODUCTS.part_entries * 2)) >= least
    for model in ({"hidden": 256}, {"features": 200}, {"layers": 4}):
        assert phase(grown(PRODUCTS, **model)) >= least


def test_a_union_of_more_parts_needs_more() -> None:
    sizes = [estimate.pls(PRODUCTS, 8, size) for size in range(1, 33)]
    assert sizes == sorted(sizes)
    clusters = [estimate.cluster_batches(PRODUCTS, PRODUCTS.engine, size) for size in range(1, 33)]
    assert clusters == sorted(clusters)
    taught = [estimate.distil(PRODUCTS, 8, size) for size in range(1, 33)]
    assert taught == sorted(taught)
    assert taught[3] > estimate.pls(PRODUCTS, 8, 4)  # of which validation nodes alone are seeds


def test_more_ingredients_need_their_rows() -> None:
    more = estimate.pls(PRODUCTS, 50, 1) - estimate.pls(PRODUCTS, 10, 1)
    assert more == 40 * 4 * estimate.parameters(NET)


def test_attention_needs_more_than_sums() -> None:
    gat = grown(PRODUCTS, kind="gat", heads=4)
    assert estimate.ls(gat, 8) > estimate.ls(grown(PRODUCTS, kind="gcn"), 8)
    for engine in ENGINES:
        assert estimate.full_batches(gat, engine) > estimate.full_batches(grown(PRODUCTS, kind="gcn"), engine)


def test_a_gpu_leaves_the_host_to_read() -> None:
    away = replace(PRODUCTS, device=GPU)
    assert estimate.ls(away, 8) < estimate.ls(PRODUCTS, 8)
    assert estimate.full_batches(away, away.engine) < estimate.full_batches(PRODUCTS, PRODUCTS.engine)
    assert estimate.inference(away) < estimate.inference(PRODUCTS)


def test_layer_by_layer_is_for_graphs_that_do_not_fit() -> None:
    assert estimate.least_inference(PRODUCTS)[1] < 300 * MIB < 3000 * MIB < estimate.inference(PRODUCTS)
