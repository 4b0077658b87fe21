"""graph.h5: what it is refused for, what it says of itself. What it holds is compared in tests/data/test_loader.py."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest

from gnnsoup_hpc.config import Job
from gnnsoup_hpc.data import loader, sources
from gnnsoup_hpc.data.sources.raw import SourceContext
from gnnsoup_hpc.data.transforms import prepare_features
from gnnsoup_hpc.engine.out_of_core import first_aggregation, layers
from gnnsoup_hpc.errors import FileError, RunError
from gnnsoup_hpc.graph.graph import Graph
from gnnsoup_hpc.graph.subgraph import NORMALISED_SUM
from gnnsoup_hpc.io import graph as graph_store
from gnnsoup_hpc.io.graph import GraphFile
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
    return runs.prepare_run(tmp_path_factory.mktemp("graph"))


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
        graph_store.open_graph(RunDir.of(job).graph, runs.change_job(job, override)),
    ):
        pass


@pytest.mark.parametrize("override", ["train.epochs=1", "model.kind=gat", "soup.seed=3", "machine.threads=2"])
def test_what_the_graph_does_not_depend_on_may_change(job: Job, override: str) -> None:
    with graph_store.open_graph(RunDir.of(job).graph, runs.change_job(job, override)) as graph:
        assert graph.nodes == 300


def test_a_missing_graph_names_the_command(tmp_path: Path, job: Job) -> None:
    with (
        pytest.raises(RunError, match="run `gnnsoup train JOB` first, or `gnnsoup import"),
        graph_store.open_graph(tmp_path / "g.h5", job),
    ):
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


def test_rows_are_sorted_and_large_data_is_contiguous(job: Job) -> None:
    with h5py.File(RunDir.of(job).graph) as file:
        indptr, indices = file["edges/indptr"][:], file["edges/indices"][:]
        rows = np.repeat(np.arange(300), np.diff(indptr))
        assert (np.diff(rows * 300 + indices) > 0).all()
        for name in ("nodes/x", "edges/indices"):
            assert file[name].chunks is None, name
        for name in ("nodes/y", "nodes/split", "nodes/original_id", "edges/indptr"):
            assert file[name].fletcher32, name
        assert (np.bincount(file["nodes/split"][:], minlength=4)[1:] == [180, 60, 60]).all()
        assert file["parts/validation"][:].sum() == 60


@pytest.fixture
def copied(job: Job, tmp_path: Path) -> Path:
    """A copy of the graph that a test may damage."""
    return Path(shutil.copy(RunDir.of(job).graph, tmp_path / "graph.h5"))


@pytest.mark.parametrize("name", ["nodes/x", "edges/indices"])
def test_a_flipped_byte_of_large_data_is_found_by_whoever_verifies(job: Job, copied: Path, name: str) -> None:
    with h5py.File(copied) as file:
        place = file[name].id.get_offset() + 1001
    data = bytearray(copied.read_bytes())
    data[place] ^= 1
    copied.write_bytes(data)
    with pytest.raises(FileError, match=r"graph\.h5 is truncated or damaged"), graph_store.open_file(copied, True):
        pass
    again = r"graph\.h5 is truncated or damaged: .*: run `gnnsoup prepare JOB --again`"
    with pytest.raises(RunError, match=again), graph_store.open_graph(copied, job, verify=True):
        pass


READERS: dict[str, Callable[[GraphFile], object]] = {
    "rows": lambda graph: graph.rows(0, graph.nodes),
    "union": lambda graph: loader.load_union(graph, [0, 2], Role.VALIDATION),
    "structure": lambda graph: loader.load_structure(graph, range(graph.parts)),
    "layer by layer": lambda graph: layers.find_needed_rows(graph, np.array([0]), 3),
    "first aggregation": lambda graph: list(first_aggregation.compute(graph, NORMALISED_SUM, 1 << 20)),
}


@pytest.mark.parametrize("value", [300, -1, 2**31 - 1, -(2**31), "the one before"])
@pytest.mark.parametrize("reader", READERS)
def test_no_kernel_meets_entries_that_are_not_a_graphs(copied: Path, reader: str, value: int | str) -> None:
    """Opened without its seal, as ranks do that rank 0 has verified it for: no crash, but the file and what to do."""
    with h5py.File(copied, "r+") as file:
        entry = int(file["edges/indptr"][np.flatnonzero(np.diff(file["edges/indptr"][:]) > 1)[0]]) + 1
        file["edges/indices"][entry] = file["edges/indices"][entry - 1] if isinstance(value, str) else value
    with (
        graph_store.open_file(copied) as graph,
        pytest.raises(FileError, match=r"graph\.h5 is damaged: edges .* are not those of a graph: run `gnnsoup prep"),
    ):
        READERS[reader](graph)


@pytest.mark.parametrize("together", [1, 2, 3, 7, 1000])
def test_any_entry_that_is_changed_is_seen(copied: Path, together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many entries are checked together, and whichever rows are read; a change that keeps the order is none."""
    monkeypatch.setattr(graph_store, "ENTRIES", together)
    rng = np.random.default_rng(together)
    with h5py.File(copied, "r+") as file:
        whole, bounds = file["edges/indices"][:], file["edges/indptr"][:]
        for _ in range(30):
            start, stop = sorted(rng.choice(301, 2, replace=False).tolist())
            changed, entry = whole.copy(), int(rng.integers(bounds[start], bounds[stop]))
            changed[entry] = rng.integers(-2, 303)
            file["edges/indices"][:] = changed
            rows = [changed[a:b] for a, b in pairwise(bounds[start : stop + 1])]
            sound = all((np.diff(row) > 0).all() and (row >= 0).all() and (row < 300).all() for row in rows)
            graph = GraphFile(copied, file)
            if sound:
                assert np.array_equal(graph.neighbours(bounds[start : stop + 1]), np.concatenate(rows))
            else:
                with pytest.raises(FileError, match="are not those of a graph"):
                    graph.neighbours(bounds[start : stop + 1])


def test_labels_of_two_kinds_are_refused(job: Job, copied: Path) -> None:
    with h5py.File(copied, "r+") as file:
        file["nodes/targets"] = np.ones((3, 2), dtype=np.float32)
    with pytest.raises(FileError, match="has both nodes/y and nodes/targets"), graph_store.open_file(copied):
        pass


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("nodes/targets_mask", "several targets a node"),
    ],
)
def test_what_is_reserved_for_later_is_refused(job: Job, copied: Path, name: str, meaning: str) -> None:
    with h5py.File(copied, "r+") as file:
        file[name] = np.ones(3, dtype=np.float32)
    said = rf"graph\.h5 has {meaning} \({name}\), which gnnsoup_hpc .* makes no use of: use a newer one"
    with pytest.raises(FileError, match=said), graph_store.open_file(copied):
        pass
    with pytest.raises(RunError, match=said), graph_store.open_graph(copied, job):
        pass


def test_neighbouring_parts_are_read_in_one_slice(job: Job) -> None:
    with graph_store.open_graph(RunDir.of(job).graph, job) as graph:
        ptr = graph.ptr.tolist()
        assert graph.runs_of(range(8)) == [(0, 300)]
        assert graph.runs_of([6, 0, 1, 4, 5]) == [(0, ptr[2]), (ptr[4], ptr[7])]
        assert graph.runs_of([3]) == [(ptr[3], ptr[4])]


def test_the_graphs_hash_does_not_depend_on_its_parts(job: Job, tmp_path: Path) -> None:
    other = runs.prepare_run(tmp_path, "partition.parts=4")
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
