"""graph.h5: what it is refused for, what it says of itself. What it holds is compared in tests/test_stream.py."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from gnnsoup_hpc.config import Job
from gnnsoup_hpc.data import sources
from gnnsoup_hpc.data.sources.context import SourceContext
from gnnsoup_hpc.data.transforms import prepare_features
from gnnsoup_hpc.errors import RunError
from gnnsoup_hpc.graph.graph import Graph
from gnnsoup_hpc.io import graph as graph_store
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.types import Role
from gnnsoup_hpc.utils.hashing import content_sha256
from tests import runs


def hash_files(graph: Graph) -> str:
    """The hash of what a model sees, of arrays that are whole in memory."""
    return content_sha256(
        {
            "x": np.asarray(graph.x[:], dtype=np.float32),
            "y": graph.y,
            "indptr": graph.indptr,
            "indices": np.asarray(graph.indices, dtype=np.int64),
            "role": graph.role,
        }
    )


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return runs.prepared(tmp_path_factory.mktemp("graph"))


@pytest.mark.parametrize(
    ("override", "then"),
    [
        ("partition.parts=4", "prepare JOB --again"),
        ("partition.seed=1", "prepare JOB --again"),
        ("graph.split_seed=9", "or remove"),
        ("graph.features=none", "or remove"),
        ("graph.undirected=false", "or remove"),
    ],
)
def test_a_graph_of_another_job_is_refused(job: Job, override: str, then: str) -> None:
    key = override.partition("=")[0]
    with (
        pytest.raises(RunError, match=rf"graph.h5 was made with {key} = .*, the job says .*{then}"),
        graph_store.open_graph(RunDir.of(job).graph, runs.changed(job, override)),
    ):
        pass


@pytest.mark.parametrize("override", ["train.epochs=1", "model.kind=gat", "soup.seed=3", "machine.threads=2"])
def test_what_the_graph_does_not_depend_on_may_change(job: Job, override: str) -> None:
    with graph_store.open_graph(RunDir.of(job).graph, runs.changed(job, override)) as graph:
        assert graph.nodes == 300


def test_a_missing_graph_names_the_command(tmp_path: Path, job: Job) -> None:
    with pytest.raises(RunError, match="run `gnnsoup train JOB` first"), graph_store.open_graph(tmp_path / "g.h5", job):
        pass


def test_the_file_says_what_it_holds(job: Job) -> None:
    source = sources.load(job.graph, SourceContext(Path("no scratch is needed")))
    done, _ = prepare_features(source, job.graph.features)
    with graph_store.open_graph(RunDir.of(job).graph, job) as graph:
        assert (graph.nodes, graph.features, graph.classes, graph.parts) == (300, 12, 3, 8)
        assert graph.edges == len(source.indices)
        assert graph.sha256 == hash_files(done)
        assert graph.cut["parts"] == 8
        assert graph.cut["ufactor"] == 30
        assert 0 < graph.cut["edge_cut"] < graph.cut["undirected_edges"] <= graph.edges / 2
        assert graph.measurement["seconds"] > 0.0
        record = graph.preparation
        assert record.kind == "standardise"
        original = graph.file["nodes/original_id"][:]
        x = np.empty((300, 12), dtype=np.float32)
        graph.x(0, 300, x)
        assert np.array_equal(x, ((source.x[:] - record.mean) / record.scale)[original].astype(np.float32))
        assert graph.file.attrs["source"] == job.graph.source
        assert graph.file.attrs["source_sha256"] == source.source_sha256


def test_rows_are_sorted_and_bulk_data_carries_checksums(job: Job) -> None:
    with h5py.File(RunDir.of(job).graph) as file:
        indptr, indices = file["edges/indptr"][:], file["edges/indices"][:]
        rows = np.repeat(np.arange(300), np.diff(indptr))
        assert (np.diff(rows * 300 + indices) > 0).all()
        for name in ("nodes/x", "nodes/y", "nodes/split", "nodes/original_id", "edges/indptr", "edges/indices"):
            assert file[name].fletcher32, name
        assert (np.bincount(file["nodes/split"][:], minlength=4)[1:] == [180, 60, 60]).all()
        assert file["parts/validation"][:].sum() == 60


def test_neighbouring_parts_are_read_in_one_slice(job: Job) -> None:
    with graph_store.open_graph(RunDir.of(job).graph, job) as graph:
        ptr = graph.ptr.tolist()
        assert graph.runs_of(range(8)) == [(0, 300)]
        assert graph.runs_of([6, 0, 1, 4, 5]) == [(0, ptr[2]), (ptr[4], ptr[7])]
        assert graph.runs_of([3]) == [(ptr[3], ptr[4])]


def test_the_graphs_hash_does_not_depend_on_its_parts(job: Job, tmp_path: Path) -> None:
    other = runs.prepared(tmp_path, "partition.parts=4")
    with (
        graph_store.open_graph(RunDir.of(job).graph, job) as eight,
        graph_store.open_graph(RunDir.of(other).graph, other) as four,
    ):
        assert eight.sha256 == four.sha256
        assert eight.cut["part_sha256"] != four.cut["part_sha256"]


def test_the_graphs_hash_depends_on_all_that_a_model_sees(job: Job) -> None:
    graph, _ = prepare_features(sources.load(job.graph, SourceContext(Path("no scratch is needed"))), "none")
    fields = ("x", "y", "indptr", "indices", "role")
    hashes = {hash_files(graph)}
    for name in fields:
        array = np.array(getattr(graph, name)[:])
        array.flat[-1] += 1
        hashes.add(hash_files(type(graph)(**{**vars(graph), name: array})))
    assert len(hashes) == 1 + len(fields)
    assert Role.VALIDATION in graph.role
