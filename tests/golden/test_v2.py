"""graph.h5 of format version 2, written once by make.py: today's readers read in it what was written then."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import h5py
import numpy as np
import pytest

from gnnsoup_hpc.config import loading as jobs
from gnnsoup_hpc.data import loader
from gnnsoup_hpc.io import graph as graph_store
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.types import Role
from tests.golden.make import FIRST, NODES, SECOND

GRAPH_SHA256 = "312fcae5a9a1a2a6cd719883a50c8a7fcc4080916e65f65a49b97669437f7fc9"


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[GraphFile, GraphFile]]:
    """The same graph in version 1 and in version 2."""
    with ExitStack() as stack:
        runs = [RunDir(FIRST), RunDir(SECOND)]
        first, second = (
            stack.enter_context(graph_store.open_graph(run.graph, jobs.load(str(run.job)), verify=True)) for run in runs
        )
        yield first, second


def test_the_file_is_small_of_version_2_and_laid_out_as_documented() -> None:
    path = RunDir(SECOND).graph
    assert path.stat().st_size < 60_000
    with h5py.File(path) as file:
        assert file.attrs["format_version"] == 2
        assert file["provenance"].attrs["host"] == "golden"
        for name in ("nodes/x", "edges/indices"):
            assert file[name].id.get_offset() > 512
            assert file[name].compression is None
        for name in ("nodes/y", "nodes/split", "nodes/original_id", "edges/indptr"):
            assert file[name].fletcher32


def test_what_it_says_of_itself(both: tuple[GraphFile, GraphFile]) -> None:
    first, second = both
    assert first.file.attrs["format_version"] == 1
    assert second.sha256 == GRAPH_SHA256
    assert second.split == "stored ids"
    assert second.notes == ("features that are the same for every node, and say nothing: 1 of 3",)
    assert second.facts is not None
    assert second.made_with["graph.source"] == "npz"
    for name in ("nodes", "edges", "features", "classes", "parts", "cut"):
        assert getattr(first, name) == getattr(second, name), name
    assert second.preparation.mean.tolist() == pytest.approx([7 / 24, 11.5 / 24, 1.0], rel=1e-8)
    np.testing.assert_allclose(first.preparation.scale, second.preparation.scale, rtol=1e-6)


@pytest.mark.parametrize("chosen", [range(4), [3, 1]], ids=["whole", "union"])
@pytest.mark.parametrize("role", [Role.TRAIN, Role.VALIDATION, Role.TEST])
def test_both_versions_hold_the_same_graph(both: tuple[GraphFile, GraphFile], chosen: list[int], role: Role) -> None:
    first, second = (loader.load_union(graph, chosen, role) for graph in both)
    assert first.size == (NODES if len(chosen) == 4 else NODES // 2)
    for one, other in (
        (first.graph.adjacency.indptr, second.graph.adjacency.indptr),
        (first.graph.adjacency.indices, second.graph.adjacency.indices),
        (first.seeds, second.seeds),
        (first.targets, second.targets),
    ):
        assert one.tolist() == other.tolist()
    np.testing.assert_allclose(first.graph.x.numpy(), second.graph.x.numpy(), rtol=1e-5, atol=1e-6)
