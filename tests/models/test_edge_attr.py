"""Models that take features of edges: PyG's own classes on the same graph, merged from the same source."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch_geometric.nn import GINEConv
from torch_geometric.nn import models as pyg

from gnnsoup_hpc.config import ModelJob
from gnnsoup_hpc.data import loader
from gnnsoup_hpc.engine import TorchEngine, choose_engine, find_engine
from gnnsoup_hpc.engine.memory import Extent
from gnnsoup_hpc.errors import JobError
from gnnsoup_hpc.graph.sparse import Adjacency
from gnnsoup_hpc.graph.subgraph import Batch, Subgraph
from gnnsoup_hpc.memory import estimate
from gnnsoup_hpc.memory.estimate import Sizes
from gnnsoup_hpc.models.kinds import PYG, WITH_EDGE_ATTR
from gnnsoup_hpc.models.module import ModuleModel
from gnnsoup_hpc.models.registry import make_model, read_record
from gnnsoup_hpc.train.batches import dropout_edge
from gnnsoup_hpc.types import Role
from tests.arbitrary import normal, random_state
from tests.data.sources.test_named import MASKS, V, graph
from tests.data.test_edge_attr import merge_dense
from tests.data.test_loader import stored

D, F, C, E, CPU = 5, 3, 3, 60, torch.device("cpu")
RNG = np.random.default_rng(0)
EDGES, ATTR = RNG.integers(0, V, (2, E)), RNG.normal(size=(E, D))  # some twice, some loops
HERE = f"{__name__}:Gine"


class Gine(nn.Module):
    """A module as users write them."""

    def __init__(self, in_channels: int, out_channels: int, edge_dim: int) -> None:
        super().__init__()
        self.conv = GINEConv(nn.Linear(in_channels, out_channels), edge_dim=edge_dim)

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        out: Tensor = self.conv(x, edge_index, edge_attr)
        return out


class Plain(nn.Linear):
    """One that takes none."""

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return super().forward(x)


def make_gat(in_channels: int, out_channels: int) -> nn.Module:
    """Without edge_dim PyG ignores what it is given."""
    return pyg.GAT(in_channels, 4, 2, out_channels)


JOBS: dict[str, dict[str, Any]] = {
    "gat": {"kind": "gat", "layers": 2, "hidden": 8, "heads": 2},
    "gat with layer norm": {"kind": "gat", "layers": 3, "hidden": 8, "norm": "layer"},
    "gatv2": {"kind": "gatv2", "layers": 2, "hidden": 8, "heads": 2},
    "pna": {"kind": "pna", "layers": 2, "hidden": 8},
    "module": {"kind": "module", "factory": HERE},
    "a class of PyG's": {"kind": "module", "factory": "torch_geometric.nn:GAT", "arguments": {"hidden_channels": 4}},
}
JOBS["a class of PyG's"]["arguments"]["num_layers"] = 2


def make(name: str, edge_features: int = D, degrees: tuple[int, ...] = (0, 1)) -> ModuleModel:
    model = make_model(ModelJob(**JOBS[name]), F, C, lambda: degrees, edge_features=edge_features)
    assert isinstance(model, ModuleModel)
    return model


def read_batch() -> tuple[Batch, np.ndarray]:
    """The whole graph as it is read back from graph.h5, in float64, and ids in the source."""
    whole = graph("npz", MASKS | {"edge_index": EDGES, "edge_attr": ATTR}, edge_attr="use", features="none")
    with stored(whole, 4) as file:
        batch, ids = loader.load_whole(file, Role.VALIDATION), file.original_ids(0, V)
    found = batch.graph.adjacency
    assert found.edge_attr is not None
    double = Adjacency(found.indptr, found.indices, dtype=torch.float64, edge_attr=found.edge_attr.double())
    return Batch(Subgraph(batch.graph.x.double(), double), batch.seeds, batch.targets), ids


@pytest.mark.parametrize("name", JOBS)
def test_outputs_and_gradients_are_pygs(name: str) -> None:
    batch, ids = read_batch()
    merged = torch.from_numpy(merge_dense(EDGES, ATTR, V, undirected=True, self_loops="keep")[np.ix_(ids, ids)])
    row, column = (~merged.isnan().any(2)).nonzero().t()
    degrees = tuple(torch.bincount(torch.bincount(row, minlength=V)).tolist())
    model, engine = make(name, degrees=degrees), TorchEngine()
    state = {entry: tensor.double() for entry, tensor in model.init_state(1).items()}
    module = model.to_module().double()
    module.load_state_dict(state, strict=True)
    attr = merged[row, column].float().double()  # as graph.h5 keeps them
    wanted = module.eval()(batch.graph.x, torch.stack([column, row]), edge_attr=attr)[batch.seeds]
    found, pull = engine.vjp(engine.plan(model, batch), state)
    torch.testing.assert_close(found, wanted.detach(), rtol=1e-9, atol=1e-9)
    grad = normal(3, *found.shape)
    wanted.backward(grad)
    pulled = pull(grad)
    for entry, parameter in module.named_parameters():
        torch.testing.assert_close(pulled[entry], parameter.grad, rtol=1e-9, atol=1e-9)
    assert any(tensor.abs().max() > 0 for tensor in pulled.values() if tensor.shape[-1] == D)


@pytest.mark.parametrize("name", JOBS)
def test_records_have_them_where_there_are_any(name: str) -> None:
    model = make(name)
    record = model.record()
    assert (record["edge_features"], "weighted" in record) == (D, False)
    again = read_record(record)
    assert (again, again.record()) == (model, record)
    assert again.describe_module()[1]["edge_dim"] == D
    assert choose_engine(model, CPU).name == "torch"
    with pytest.raises(JobError, match=rf"models of kind '{model.kind}' with features of edges on a CPU here"):
        find_engine("compiled", model, CPU)


def test_kinds_that_take_them_are_those_of_pyg() -> None:
    assert {kind for kind, name in PYG.items() if getattr(pyg, name).supports_edge_attr} == set(WITH_EDGE_ATTR)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"factory": f"{__name__}:Plain", "arguments": {"in_features": F, "out_features": C}}, "takes no edge_attr"),
        ({"factory": "torch_geometric.nn:GIN", "arguments": {"hidden_channels": 4, "num_layers": 2}}, "unexpected"),
        ({"factory": f"{__name__}:make_gat"}, "GAT passes over edge_attr without edge_dim: make it with edge_dim = 5"),
        ({"factory": HERE, "arguments": {"edge_dim": D + 1}}, "the module fails on 3 features, and edge_index, edge_a"),
    ],
)
def test_modules_that_make_nothing_of_them_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(JobError, match=said):
        _ = make_model(ModelJob(kind="module", **options), F, C, edge_features=D).shapes()


def test_memory_counts_them() -> None:
    few, many = make("gat", 1), make("gat", 50)
    extent = Extent(nodes=1000, read=9000, entries=7000, seeds=10)
    for mode in ("train", "evaluate"):
        less, more = (TorchEngine().memory(model, extent, mode=mode) for model in (few, many))  # type: ignore[arg-type]
        assert more.plan["structure"] - less.plan["structure"] == 4 * 49 * 9000
        assert more.states["entries"] > less.states["entries"] + 4 * 49 * 7000  # PyG copies them beside self-loops


PHASES: dict[str, Callable[[Sizes], int]] = {
    "full": lambda sizes: estimate.full_batches(sizes, TorchEngine()),
    "cluster": lambda sizes: estimate.cluster_batches(sizes, TorchEngine(), 4),
    "store": estimate.neighbour_store,
    "ls": lambda sizes: estimate.ls(sizes, 2),
    "pls": lambda sizes: estimate.pls(sizes, 2, 4),
    "in memory": estimate.inference,
}


@pytest.mark.parametrize("phase", PHASES.values(), ids=PHASES)
def test_every_phase_has_room_for_them(phase: Callable[[Sizes], int]) -> None:
    parts = np.full(4, 100), np.full(4, 800), np.full(4, 10)
    few, many = (phase(Sizes(make("gat", width), *parts, 0.2)) for width in (1, 50))
    assert many - few >= 4 * 49 * 4 * 800


def test_edges_that_are_left_keep_theirs() -> None:
    batch, _ = read_batch()
    adjacency = batch.graph.adjacency
    left = dropout_edge(batch, 0.4, 7).graph.adjacency
    assert adjacency.edge_attr is not None
    assert left.edge_attr is not None
    assert 0 < len(left.indices) < len(adjacency.indices)
    ends = zip(adjacency.row.tolist(), adjacency.indices.tolist(), strict=True)
    known = dict(zip(ends, adjacency.edge_attr.tolist(), strict=True))
    assert [known[pair] for pair in zip(left.row.tolist(), left.indices.tolist(), strict=True)] == (
        left.edge_attr.tolist()
    )


def test_a_graph_without_is_no_graph_for_them() -> None:
    model, bare = make("gat"), Adjacency(torch.arange(3), torch.arange(2))
    with pytest.raises(ValueError, match="the graph has none"):
        model.forward(random_state(model), Subgraph(torch.ones(2, F), bare))
