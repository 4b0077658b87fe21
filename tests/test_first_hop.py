"""The first hop of the whole graph against dense products, in any memory; its file, and what is wrong with one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gnnsoup_hpc import engine, first_hop, stream
from gnnsoup_hpc import job as jobs
from gnnsoup_hpc.errors import JobError
from gnnsoup_hpc.job import Job
from gnnsoup_hpc.models import Architecture
from gnnsoup_hpc.records import Graph, Role
from gnnsoup_hpc.run_dir import RunDir
from gnnsoup_hpc.soup.methods.partition_learned import PartitionLearned
from gnnsoup_hpc.store import soup as soup_store
from gnnsoup_hpc.store.graph import GraphFile
from gnnsoup_hpc.subgraph import View
from tests import pantry
from tests.arbitrary import Structure, graphs
from tests.test_plan import operator
from tests.test_stream import stored


def dense(file: GraphFile, graph: Graph, kind: str) -> torch.Tensor:
    """The first hop in the file's order of nodes, (V, F) float64."""
    rows = np.repeat(np.arange(graph.nodes), np.diff(graph.indptr))
    shape = Structure(graph.nodes, tuple(zip(rows.tolist(), graph.indices.tolist(), strict=True)))
    return (operator(kind, shape) @ torch.from_numpy(graph.x).double())[file.file["nodes/original_id"][:]]


def silent(line: str) -> None:
    raise AssertionError(f"nothing is to be said, but {line}")


@settings(max_examples=40)
@given(graphs(), st.sampled_from(["gcn", "sage"]), st.integers(1, 400), st.data())
def test_any_memory_gives_the_dense_product(graph: Graph, kind: str, memory: int, data: st.DataObject) -> None:
    with stored(graph, data.draw(st.integers(1, graph.nodes), label="parts")) as file:
        blocks = list(first_hop.computed(file, kind, memory))
        assert [start for start, _ in blocks] == np.cumsum([0, *(len(block) for _, block in blocks)])[:-1].tolist()
        found = torch.from_numpy(np.concatenate([block for _, block in blocks])).double()
        torch.testing.assert_close(found, dense(file, graph, kind), rtol=1e-5, atol=1e-6)


@settings(max_examples=20)
@given(graphs(), st.sampled_from(["gcn", "sage"]), st.data())
def test_a_union_shows_the_whole_graphs_first_hop(graph: Graph, kind: str, data: st.DataObject) -> None:
    parts = data.draw(st.integers(1, graph.nodes), label="parts")
    chosen = sorted(data.draw(st.sets(st.integers(0, parts - 1), min_size=1), label="chosen"))
    with stored(graph, parts) as file, first_hop.opened(file, kind, file.path.with_name("hop.h5"), silent) as hop:
        nodes = np.concatenate([np.arange(file.ptr[part], file.ptr[part + 1]) for part in chosen])
        view = stream.union_of_parts(file, chosen, Role.VALIDATION, hop=hop)
        assert view.graph.hop is not None
        torch.testing.assert_close(view.graph.hop.double(), dense(file, graph, kind)[nodes], rtol=1e-5, atol=1e-6)
        assert view.graph.x.shape == (len(nodes), 0 if kind == "gcn" else graph.x.shape[1])
        net = Architecture(kind, 2, graph.x.shape[1], 4, graph.classes)
        plain = net.logits(net.initial_state(0), view.graph)[view.nodes]
        torch.testing.assert_close(engine.scores(net, net.initial_state(0), engine.prepared(net, view)), plain)


@pytest.mark.parametrize("kind", ["gcn", "sage"])
def test_of_all_parts_exact_is_truncated(tmp_path: Path, kind: str) -> None:
    job = pantry.stocked(tmp_path, f"model.kind={kind}")
    options = job.soup.pls.model_copy(update={"union": job.partition.parts, "epochs": 5})
    found = [
        pantry.cook(PartitionLearned(options.model_copy(update={"first_hop": hop})), job)
        for hop in ("truncated", "exact")
    ]
    torch.testing.assert_close(found[0].alpha, found[1].alpha)
    assert RunDir.of(job).first_hop(kind).exists()


def test_of_few_parts_exact_is_another_thing_and_prefetch_is_not(stock: Job) -> None:
    options = stock.soup.pls.model_copy(update={"union": 2, "epochs": 5})
    changes = ({}, {"first_hop": "exact"}, {"prefetch": False}, {"first_hop": "exact", "prefetch": False})
    plain, exact, alone, both = (
        pantry.cook(PartitionLearned(options.model_copy(update=change)), stock).alpha for change in changes
    )
    assert torch.equal(plain, alone)
    assert torch.equal(exact, both)
    assert not torch.allclose(plain, exact)


@pytest.mark.parametrize("damage", ["truncated", "foreign", "flipped"])
def test_a_file_that_is_not_right_is_made_again_with_a_line(stock: Job, tmp_path: Path, damage: str) -> None:
    said: list[str] = []
    with pantry.station(stock) as station:
        path = tmp_path / "first-hop-sage.h5"
        with first_hop.opened(station.graph, "sage", path, said.append):
            whole = path.read_bytes()
        assert said == []
        if damage == "truncated":
            path.write_bytes(whole[: len(whole) // 2])
        elif damage == "flipped":
            path.write_bytes(whole[:9000] + bytes([whole[9000] ^ 1]) + whole[9001:])
        else:
            with first_hop.opened(station.graph, "gcn", tmp_path / "other.h5", silent):
                (tmp_path / "other.h5").rename(path)
        with first_hop.opened(station.graph, "sage", path, said.append) as hop:
            rows = np.empty((station.graph.nodes, station.graph.features), dtype=np.float32)
            hop.into(0, station.graph.nodes, rows)
        with first_hop.opened(station.graph, "sage", path, silent):
            pass
        view: View = stream.whole(station.graph, Role.VALIDATION)
    torch.testing.assert_close(torch.from_numpy(rows), view.graph.mean_x)
    assert len(said) == 1
    assert str(path) in said[0]
    assert said[0].endswith("; made again")


def test_gat_has_no_first_hop_to_keep(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text('name = "a"\n[model]\nkind = "gat"\n[soup.pls]\nfirst_hop = "exact"\n')
    with pytest.raises(JobError, match=r"soup\.pls\.first_hop = 'exact' cannot be had with model\.kind = 'gat'"):
        jobs.load(str(path), [])


def test_it_is_part_of_the_soups_recipe(tmp_path: Path) -> None:
    job = pantry.souped(pantry.stocked(tmp_path, 'soup.methods=["pls"]'))
    path = RunDir.of(job).soup("pls")
    before = soup_store.recipe_of(path)
    pantry.souped(pantry.changed(job, "soup.pls.first_hop=exact"))
    assert soup_store.recipe_of(path) != before
