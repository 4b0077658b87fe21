"""Runs on bags of words: features that stay sparse from the source to the engine, beside the same kept dense."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.sparse as sp
import torch

from gnnsoup_hpc.__main__ import main
from gnnsoup_hpc.analysis.report.contents import read_contents
from gnnsoup_hpc.config import METHOD_NAMES, Job
from gnnsoup_hpc.data import loader
from gnnsoup_hpc.engine import TorchEngine, choose_engine
from gnnsoup_hpc.engine.out_of_core.layers import make_layerwise
from gnnsoup_hpc.errors import FileError, JobError
from gnnsoup_hpc.graph import identity
from gnnsoup_hpc.graph.identity import MOST_FILLED
from gnnsoup_hpc.io import graph as graph_store
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.memory import estimate
from gnnsoup_hpc.memory.estimate import Sizes
from gnnsoup_hpc.models.base import Model
from gnnsoup_hpc.models.registry import make_model
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.types import Role
from tests import runs, tiny
from tests.comms import run_ranks
from tests.ranks.souping import run_case

NODES, WORDS, OF_A_NODE, CLASSES = 400, 240, 6, 3


def count_words(seed: int = 0) -> dict[str, np.ndarray]:
    """Half of a node's words are its class's; the graph is homophilous."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, CLASSES, NODES)
    words = rng.integers(0, WORDS, (NODES, OF_A_NODE))
    words[:, ::2] = words[:, ::2] // CLASSES * CLASSES + y[:, None]
    ends = rng.integers(0, NODES, (2, 10 * NODES))
    ends = ends[:, (y[ends[0]] == y[ends[1]]) | (rng.random(ends.shape[1]) < 0.3)]
    counts = rng.integers(1, 4, words.size).astype(np.float32)
    x = sp.csr_matrix((counts, words.ravel(), np.arange(0, words.size + 1, OF_A_NODE)), (NODES, WORDS))
    x.sum_duplicates()
    parts = {"x_indptr": x.indptr, "x_indices": x.indices, "x_data": x.data, "num_features": np.array(WORDS)}
    return {**parts, "y": y, "edge_index": ends}


def job_in(folder: Path, *overrides: str, kind: str = "gcn") -> Job:
    tiny.write_job(folder, kind=kind, ingredients=2)
    np.savez(folder / "tiny.npz", **count_words())
    return runs.load_job(folder, "graph.features=scale", *overrides)


def prepare_run(folder: Path, *overrides: str, kind: str = "gcn") -> Job:
    job = job_in(folder, *overrides, kind=kind)
    runs.prepare(job, runs.ALONE, runs.QUIET)
    return job


@contextmanager
def open_model(job: Job) -> Iterator[tuple[GraphFile, Model]]:
    with graph_store.open_graph(RunDir.of(job).graph, job, verify=True) as graph:
        yield graph, make_model(job.model, graph.features, graph.classes, graph.count_degrees, graph.weighted)


@pytest.fixture(scope="module", params=["gcn", "sage", "gat"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Job:
    job = prepare_run(tmp_path_factory.mktemp(request.param), "train.epochs=40", kind=request.param)
    runs.train(job)
    return job


@pytest.mark.parametrize("features", ["none", "row-normalise", "scale"])
def test_a_file_without_zeros_holds_the_same_features(features: str, tmp_path: Path) -> None:
    sparse, dense = (
        prepare_run(tmp_path / layout, f"graph.features={features}", f"graph.feature_layout={layout}")
        for layout in ("auto", "dense")
    )
    with open_model(sparse) as (graph, _), open_model(dense) as (full, _):
        assert (graph.sparse, full.sparse) == (True, False)
        assert graph.values == np.count_nonzero(full.x(0, NODES)) < MOST_FILLED * NODES * WORDS
        assert graph.sha256 != full.sha256
        assert full.facts is not None
        assert "graph.feature_layout" not in identity.without_effect(dense, full.facts)
        np.testing.assert_array_equal(graph.x(3, 90), full.x(3, 90))
        ids = np.array([7, 1, 399, 7])
        np.testing.assert_array_equal(graph.x_of(ids), full.x_of(ids))
        pieces = graph.sparse_x([(0, 5), (100, 100), (390, 400)])
        np.testing.assert_array_equal(pieces.toarray(), np.concatenate([full.x(0, 5), full.x(390, 400)]))
        batch, other = (loader.load_union(each, [1, 4, 5], Role.VALIDATION) for each in (graph, full))
        assert sp.issparse(batch.graph.features)
        assert torch.equal(batch.graph.x, other.graph.x)
        part = batch.graph.x.double()
        if features == "row-normalise":
            torch.testing.assert_close(part.abs().sum(1), torch.ones(len(part), dtype=torch.float64))
        elif features == "scale":
            whole = graph.x(0, NODES).astype(np.float64)
            np.testing.assert_allclose(whole.std(0)[whole.any(0)], 1.0, rtol=1e-5)


def test_standardised_features_are_dense_and_that_is_said(tmp_path: Path) -> None:
    job = prepare_run(tmp_path, "graph.features=standardise")
    with open_model(job) as (graph, _):
        assert not graph.sparse
        assert any("% of the values are not zero; graph.features = 'standardise'" in note for note in graph.notes)
    with pytest.raises(JobError, match="feature_layout = 'sparse' keeps zeros, and features = 'standardise'"):
        job_in(tmp_path, "graph.features=standardise", "graph.feature_layout=sparse")


def test_features_that_are_mostly_filled_stay_dense_unless_asked(tmp_path: Path) -> None:
    tiny.write_job(tmp_path)
    found = []
    for layout in ("auto", "sparse"):
        job = runs.load_job(tmp_path, "graph.features=none", f"graph.feature_layout={layout}", f"name={layout}")
        runs.prepare(job, runs.ALONE, runs.QUIET)
        with open_model(job) as (graph, _):
            found.append((graph.sparse, graph.x(0, graph.nodes), graph.facts))
    (dense, x, facts), (sparse, same, _) = found
    assert (dense, sparse) == (False, True)
    np.testing.assert_array_equal(x, same)
    assert facts is not None
    assert facts.filled is None  # as in files of earlier versions


def test_a_run_is_trained_souped_and_predicted_with(trained: Job, tmp_path: Path) -> None:
    job = runs.copy_run(trained, tmp_path)
    runs.soup_run(job)
    found = read_contents(RunDir.of(job).root)
    assert {soup.method for soup in found.soups} == set(METHOD_NAMES)
    assert min(soup.validation_accuracy for soup in found.soups) > 0.5
    source = str(Path(job.graph.source.partition(":")[2]))
    root, scores = str(RunDir.of(job).root), [str(tmp_path / name) for name in ("own.npy", "other.npy")]
    assert main(["predict", root, "--method", "uniform", "--to", scores[0]]) == 0
    assert main(["predict", root, "--method", "uniform", "--graph", f"npz:{source}", "--to", scores[1]]) == 0
    np.testing.assert_allclose(*map(np.load, scores), rtol=1e-4, atol=1e-5)


def test_training_is_that_on_dense_features(trained: Job, tmp_path: Path) -> None:
    """But for rounding, which a few epochs do not make much of."""
    how = ("train.epochs=3", "train.ingredients=1", "train.dropout=0.3")
    states = []
    for layout in ("sparse", "dense"):
        job = prepare_run(tmp_path / layout, f"graph.feature_layout={layout}", *how, kind=trained.model.kind)
        runs.train(job)
        states.append(ingredient_store.read(RunDir.of(job).ingredient(0)).state)
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][name], rtol=1e-2, atol=1e-3, msg=name)


def test_ranks_make_what_one_makes(trained: Job, tmp_path: Path) -> None:
    for case in ("ls", "gis"):
        alone = run_case(runs.SERIAL, trained, case)
        for each in run_ranks(2, lambda comm, case=case: run_case(comm, trained, case, home=tmp_path / str(comm.rank))):
            np.testing.assert_allclose(each.alpha, alone.alpha, atol=1e-6)
            assert each.metrics == alone.metrics


def test_layer_by_layer_is_the_whole_graph(trained: Job, tmp_path: Path) -> None:
    with open_model(trained) as (graph, net):
        state, wanted = net.init_state(3), np.arange(0, graph.nodes, 2)
        found = make_layerwise(graph, net, 100_000, tmp_path, runs.CPU, wanted).scores(state)
        whole = net.forward(state, loader.load_whole(graph, Role.VALIDATION).graph)
        torch.testing.assert_close(torch.cat([scores for _, scores in found]), whole[wanted], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "how",
    [
        ("train.batch=cluster", "train.drop_edges=0.1", "train.drop_features=0.1"),
        ("train.batch=cluster", "train.first_hop=exact"),
        ("train.batch=neighbour", "train.sampler=compiled"),
        ("train.batch=neighbour", "train.sampler=own"),
        ("train.engine=torch",),
        ("model.kind=gin", "graph.features=row-normalise", "train.epochs=30"),
    ],
    ids=" ".join,
)
def test_every_way_of_training_takes_them(how: tuple[str, ...], tmp_path: Path) -> None:
    job = prepare_run(tmp_path, "train.ingredients=1", "train.batch_size=64", *how)
    runs.train(job)
    assert ingredient_store.read(RunDir.of(job).ingredient(0)).validation_accuracy > 0.6


def test_memory_is_counted_by_values_where_an_engine_keeps_them(trained: Job) -> None:
    with open_model(trained) as (graph, net):
        sizes = Sizes.of(graph, net)
        assert sizes.whole.values == graph.values
        assert sizes.union(3).values <= graph.values
        whole, engine = sizes.whole, choose_engine(net, runs.CPU)
        zeros = 4 * NODES * WORDS
        assert estimate.reading(net, replace(whole, dense=True)) - estimate.reading(net, whole) == zeros
        kept, dense = (estimate.training(sizes, engine, each) for each in (whole, replace(whole, dense=True)))
        assert dense - kept > zeros
        assert estimate.training(sizes, TorchEngine(), whole) == estimate.training(
            sizes, TorchEngine(), replace(whole, dense=True)
        )


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    job = prepare_run(tmp_path)
    copied = tmp_path / "copied.h5"
    shutil.copy(RunDir.of(job).graph, copied)
    with h5py.File(copied, "r+") as file:
        file["nodes/x_indices"][-1] = WORDS
    with graph_store.open_file(copied) as graph:
        graph.x(0, 10)
        with pytest.raises(FileError, match=r"copied.h5 is damaged: values \d+ to \d+ are not those of features"):
            graph.x(0, NODES)
