"""The first hop of the whole graph against dense products, in any memory; its file, and what is wrong with one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gnnsoup_hpc.config import Job
from gnnsoup_hpc.data import loader
from gnnsoup_hpc.engine import ENGINES
from gnnsoup_hpc.engine.out_of_core import first_aggregation
from gnnsoup_hpc.graph.graph import Graph
from gnnsoup_hpc.graph.subgraph import MEAN, NORMALISED_SUM
from gnnsoup_hpc.io import graph as graph_store
from gnnsoup_hpc.io import soup as soup_store
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.soup.methods.learned import PartitionLearned
from gnnsoup_hpc.types import Role
from tests import runs
from tests.arbitrary import Structure, aggregation_matrix, graphs
from tests.data.test_loader import stored

AGGREGATIONS = {each.name: each for each in (MEAN, NORMALISED_SUM)}


def dense(file: GraphFile, graph: Graph, kind: str) -> torch.Tensor:
    """The first hop in the file's order of nodes, (V, F) float64."""
    rows = np.repeat(np.arange(graph.nodes), np.diff(graph.indptr))
    shape = Structure(graph.nodes, tuple(zip(rows.tolist(), graph.indices.tolist(), strict=True)))
    return (aggregation_matrix(kind, shape) @ torch.from_numpy(graph.x).double())[file.file["nodes/original_id"][:]]


def silent(line: str) -> None:
    raise AssertionError(f"nothing is to be said, but {line}")


@settings(max_examples=40)
@given(graphs(), st.sampled_from(["gcn", "sage"]), st.integers(1, 400), st.data())
def test_any_memory_gives_the_dense_product(graph: Graph, kind: str, memory: int, data: st.DataObject) -> None:
    with stored(graph, data.draw(st.integers(1, graph.nodes), label="parts")) as file:
        blocks = list(first_aggregation.compute(file, AGGREGATIONS[kind], memory))
        assert [start for start, _ in blocks] == np.cumsum([0, *(len(block) for _, block in blocks)])[:-1].tolist()
        found = torch.from_numpy(np.concatenate([block for _, block in blocks])).double()
        torch.testing.assert_close(found, dense(file, graph, kind), rtol=1e-5, atol=1e-6)


@settings(max_examples=20)
@given(graphs(), st.sampled_from(["gcn", "sage"]), st.data())
def test_a_union_has_the_whole_graphs_first_aggregation(graph: Graph, kind: str, data: st.DataObject) -> None:
    parts = data.draw(st.integers(1, graph.nodes), label="parts")
    chosen = sorted(data.draw(st.sets(st.integers(0, parts - 1), min_size=1), label="chosen"))
    with (
        stored(graph, parts) as file,
        first_aggregation.open_first_aggregation(
            file, AGGREGATIONS[kind], file.path.with_name("hop.h5"), silent
        ) as hop,
    ):
        nodes = np.concatenate([np.arange(file.ptr[part], file.ptr[part + 1]) for part in chosen])
        batch = loader.load_union(file, chosen, Role.VALIDATION, hop=hop)
        assert batch.graph.hop is not None
        torch.testing.assert_close(batch.graph.hop.double(), dense(file, graph, kind)[nodes], rtol=1e-5, atol=1e-6)
        assert batch.graph.x.shape == (len(nodes), 0 if kind == "gcn" else graph.x.shape[1])
        net = Architecture(kind, 2, graph.x.shape[1], 4, graph.classes)
        wanted = net.forward(net.init_state(0), batch.graph)[batch.seeds]
        for engine in ENGINES:
            torch.testing.assert_close(engine.logits(engine.plan(net, batch), net.init_state(0)), wanted)


@pytest.mark.parametrize("kind", ["gcn", "sage"])
def test_of_all_parts_exact_is_truncated(tmp_path: Path, kind: str) -> None:
    job = runs.train_run(tmp_path, f"model.kind={kind}")
    options = job.soup.pls.model_copy(update={"union": job.partition.parts, "epochs": 5})
    found = [
        runs.run_method(PartitionLearned(options.model_copy(update={"first_hop": hop})), job)
        for hop in ("truncated", "exact")
    ]
    torch.testing.assert_close(found[0].alpha, found[1].alpha, atol=1e-5, rtol=1e-5)
    assert RunDir.of(job).first_hop(kind).exists()


def test_of_few_parts_exact_is_another_thing_and_prefetch_is_not(trained: Job) -> None:
    options = trained.soup.pls.model_copy(update={"union": 2, "epochs": 5})
    changes = ({}, {"first_hop": "exact"}, {"prefetch": False}, {"first_hop": "exact", "prefetch": False})
    plain, exact, alone, both = (
        runs.run_method(PartitionLearned(options.model_copy(update=change)), trained).alpha for change in changes
    )
    assert torch.equal(plain, alone)
    assert torch.equal(exact, both)
    assert not torch.allclose(plain, exact)


@pytest.mark.parametrize("damage", ["truncated", "foreign", "flipped"])
def test_a_file_that_is_not_right_is_made_again_with_a_line(trained: Job, tmp_path: Path, damage: str) -> None:
    said: list[str] = []
    with graph_store.open_graph(RunDir.of(trained).graph, trained) as graph:
        path = tmp_path / "first-hop-sage.h5"
        with first_aggregation.open_first_aggregation(graph, MEAN, path, said.append):
            whole = path.read_bytes()
        assert said == []
        if damage == "truncated":
            path.write_bytes(whole[: len(whole) // 2])
        elif damage == "flipped":
            path.write_bytes(whole[:9000] + bytes([whole[9000] ^ 1]) + whole[9001:])
        else:
            with first_aggregation.open_first_aggregation(graph, NORMALISED_SUM, tmp_path / "other.h5", silent):
                (tmp_path / "other.h5").rename(path)
        with first_aggregation.open_first_aggregation(graph, MEAN, path, said.append) as hop:
            rows = np.empty((graph.nodes, graph.features), dtype=np.float32)
            hop.read_into(0, graph.nodes, rows)
        with first_aggregation.open_first_aggregation(graph, MEAN, path, silent):
            pass
        whole_batch = loader.load_whole(graph, Role.VALIDATION)
    torch.testing.assert_close(torch.from_numpy(rows), whole_batch.graph.mean_x)
    assert len(said) == 1
    assert str(path) in said[0]
    assert said[0].endswith("; made again")


def test_it_is_part_of_the_soups_fingerprint(tmp_path: Path) -> None:
    job = runs.soup_run(runs.train_run(tmp_path, 'soup.methods=["pls"]'))
    path = RunDir.of(job).soup("pls")
    before = soup_store.read_fingerprint(path)
    runs.soup_run(runs.change_job(job, "soup.pls.first_hop=exact"))
    assert soup_store.read_fingerprint(path) != before
