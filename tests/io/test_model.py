"""Models taken out of a run predict from raw features and edges what the report states."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.sparse as sp
import torch

from gnnsoup_hpc.__main__ import main
from gnnsoup_hpc.config import GraphJob
from gnnsoup_hpc.errors import FileError, GraphError
from gnnsoup_hpc.graph.graph import Preparation
from gnnsoup_hpc.io.model import Trained, read_model
from gnnsoup_hpc.models.gnn import Architecture
from tests import tiny
from tests.golden.make import ring

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "howto" / "take_out.md"
GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "v1"


def blocks(language: str, word: str) -> str:
    """The page's only block of a language that has a word in it."""
    (block,) = [b for b in re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.S) if word in b]
    return block


def raw_graph() -> dict[str, Any]:
    """Features of large and different scales; directed edges, some twice, some loops."""
    arrays = tiny.planted()
    rng = np.random.default_rng(1)
    scale = 10.0 ** rng.uniform(-2, 4, tiny.FEATURES)
    edges = np.concatenate([arrays["edge_index"], arrays["edge_index"][:, :50], np.tile(np.arange(9), (2, 1))], axis=1)
    order = rng.permutation(tiny.NODES)
    roles = {"train_idx": order[:150], "valid_idx": order[150:220], "test_idx": order[220:]}
    return {**arrays, "x": scale * (arrays["x"] + 2.0), "edge_index": edges, **roles}


@pytest.fixture(
    scope="module",
    params=[
        (),
        ("model.kind=sage", "model.heads=1", "model.norm=layer", "graph.undirected=false"),
        ("model.kind=gcn", "model.heads=1", "graph.features=row-normalise", "graph.self_loops=add"),
        ("model.kind=sage", "model.heads=1", "graph.features=none", "graph.undirected=false", "graph.reverse=true"),
        ("model.norm=layer", "graph.self_loops=remove", "graph.undirected=false"),
    ],
    ids=["as on the page", "sage, directed", "gcn, rows, loops added", "sage, raw, reversed", "gat, norm, no loops"],
)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The page's own job, smaller, in the folder of its graph."""
    folder = tmp_path_factory.mktemp("mine")
    small = ("model.hidden=16", "train.ingredients=2", "train.epochs=15", "train.learning_rate=0.02")
    small += ("partition.parts=4", "soup.pls.union=2", "soup.pls.epochs=4", "soup.methods=['pls','ensemble']")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.excepthook", None)
        np.savez("mine.npz", **raw_graph())
        Path("mine.toml").write_text(blocks("toml", 'source = "npz:mine.npz"'))
        words = [word for override in (*small, "machine.threads=1", *request.param) for word in ("--set", override)]
        assert main(["run", "mine.toml", *words]) == 0
        yield folder / "runs" / "mine"


def reported(run: Path, method: str) -> float:
    with h5py.File(run / "soups" / f"{method}.h5") as file:
        return float(file["metrics/test_accuracy"][()])


def test_the_pages_example_has_the_accuracy_of_the_report(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(blocks("python", "load_soup"), PAGE.name, "exec"), {})
    assert float(capsys.readouterr().out) == pytest.approx(reported(run, "pls"), abs=1e-12)


def test_features_and_edges_are_those_of_the_graph_file(run: Path) -> None:
    soup, raw = read_model(run / "soups" / "pls.h5"), raw_graph()
    with h5py.File(run / "graph.h5") as graph:
        ids, indptr = graph["nodes/original_id"][:], graph["edges/indptr"][:]
        wanted = np.stack([ids[graph["edges/indices"][:]], np.repeat(ids, np.diff(indptr))])
        x = soup.features(raw["x"])
        np.testing.assert_allclose(x[ids], graph["nodes/x"][:], rtol=1e-3, atol=1e-4)
    found = soup.edges(raw["edge_index"], len(ids)).numpy()
    assert sorted(map(tuple, found.T.tolist())) == sorted(map(tuple, wanted.T.tolist()))
    for other in (sp.csr_matrix(raw["x"]), torch.from_numpy(raw["x"]), raw["x"].tolist()):
        assert torch.equal(soup.features(other), x)


def test_ingredients_are_read_the_same_way_and_make_the_ensemble(run: Path) -> None:
    raw, total = raw_graph(), torch.zeros(())
    for index in range(2):
        one = read_model(run / "ingredients" / f"{index:04d}.h5")
        with torch.no_grad():
            x = one.features(raw["x"])
            total = total + one.as_pyg()(x, one.edges(raw["edge_index"], len(x))).softmax(1)
    right = (total.argmax(1).numpy() == raw["y"])[raw["test_idx"]]
    assert right.mean() == pytest.approx(reported(run, "ensemble"), abs=1e-12)
    with pytest.raises(FileError, match=r"ensemble.h5 is an ensemble, .* average their softmax outputs"):
        read_model(run / "soups" / "ensemble.h5")


def test_a_soup_of_an_older_version_is_taken_out() -> None:
    soup, source = read_model(GOLDEN / "soups" / "pls.h5"), ring()
    with h5py.File(GOLDEN / "graph.h5") as graph, torch.no_grad():
        x = soup.features(source["x"])
        right = soup.as_pyg()(x, soup.edges(source["edge_index"], len(x))).argmax(1).numpy() == source["y"]
        assert np.abs(x.numpy()[graph["nodes/original_id"][:]] - graph["nodes/x"][:]).max() < 1e-6
    assert right[source["test_idx"]].mean() == 4 / 7


def trained(kind: str = "standardise", dtype: type = np.float64, **graph: Any) -> Trained:
    net = Architecture("sage", 2, 3, 4, 2)
    moments = [np.array(values, dtype) for values in ([1.0, 2.0, 3.0], [2.0, 4.0, 8.0])]
    if kind != "standardise":
        moments = [np.empty(0, dtype)] * 2
    return Trained(net, net.init_state(0), Preparation(kind, *moments), GraphJob(**graph))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_moments_are_read_in_either_precision(dtype: type) -> None:
    assert trained(dtype=dtype).features([[3.0, 2.0, 19.0]]).tolist() == [[1.0, 0.0, 2.0]]
    assert trained("row-normalise", dtype).features([[1, -1, 2], [0, 0, 0]]).tolist() == [[0.25, -0.25, 0.5], [0, 0, 0]]
    assert trained("none", dtype).features([[1, 2, 3]]).dtype == torch.float32


def test_large_offsets_keep_their_digits() -> None:
    """Seconds since 1970 have ten digits before what tells them apart; float32 has seven."""
    moments = np.array([1.7e9]), np.array([2.0])
    assert Preparation("standardise", *moments).apply(np.array([[1.7e9 + 1.0]])).tolist() == [[0.5]]


@pytest.mark.parametrize("raw", [[1.0, 2.0, 3.0], [[1.0, 2.0]], np.ones((2, 3, 1))])
def test_features_of_another_shape_are_refused(raw: Any) -> None:
    with pytest.raises(GraphError, match=r"trained on 3 features a node: give raw features of shape \(V, 3\)"):
        trained().features(raw)


def test_edges_that_are_none_are_refused() -> None:
    with pytest.raises(GraphError, match=r"edges have shape \(3, 2\): give sources and destinations"):
        trained().edges([[0, 1], [1, 2], [2, 0]], 3)
    for wrong in ([[0], [3]], [[-1], [0]]):
        with pytest.raises(GraphError, match="out of range for 3 nodes"):
            trained().edges(wrong, 3)
    assert trained(self_loops="add").edges(np.empty((2, 0)), 2).tolist() == [[0, 1], [0, 1]]


def test_a_preparation_of_a_newer_version_is_refused() -> None:
    with pytest.raises(GraphError, match="prepared by 'whiten', which this version does not know"):
        trained("whiten").features([[1.0, 2.0, 3.0]])


def test_an_ingredient_beside_another_graph_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "ingredients").mkdir()
    path = tmp_path / "ingredients" / "0000.h5"
    path.write_bytes((run / "ingredients" / "0000.h5").read_bytes())
    with pytest.raises(FileError, match=r"graph.h5 does not exist"):
        read_model(path)
    (tmp_path / "graph.h5").write_bytes((GOLDEN / "graph.h5").read_bytes())
    with pytest.raises(FileError, match="was trained on another graph than"):
        read_model(path)
