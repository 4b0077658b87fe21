"""Models against PyG's own classes with the same state dict: names, outputs, gradients; dropout and the start."""

from __future__ import annotations

import gc
import itertools
import weakref

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from gnnsoup_hpc.errors import RunError
from gnnsoup_hpc.graph.subgraph import Subgraph
from gnnsoup_hpc.models.base import CountedDropout, DrawnDropout, Dropout
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.types import State
from tests.arbitrary import SEEDS, Structure, in_double, normal, random_structure, structures

FEATURES, HIDDEN, CLASSES = 5, 8, 3

ARCHITECTURES = [
    Architecture(kind, layers, FEATURES, HIDDEN, CLASSES, heads, norm)
    for (kind, heads), layers, norm in itertools.product(
        [("gcn", 1), ("sage", 1), ("gat", 1), ("gat", 4)], [1, 2, 3], ["none", "layer"]
    )
]
GRAPH = random_structure(30, 90)


def label(net: Architecture) -> str:
    return f"{net.kind}-{net.heads}heads-{net.layers}layers-{net.norm}"


every_architecture = pytest.mark.parametrize("net", ARCHITECTURES, ids=label)
two_layers = pytest.mark.parametrize("net", [a for a in ARCHITECTURES if a.layers == 2], ids=label)


def state_of(net: Architecture, seed: int = 0) -> State:
    """A state whose every entry matters: biases and norms are not at their start."""
    start = net.init_state(seed)
    return {
        name: tensor + 0.1 * normal(number, *tensor.shape, kind=torch.float32)
        for number, (name, tensor) in enumerate(start.items())
    }


def subgraph(shape: Structure, seed: int = 0) -> Subgraph:
    return Subgraph(normal(seed, shape.nodes, FEATURES, kind=torch.float32), shape.adjacency())


def doubles(state: State) -> State:
    return {name: tensor.double().requires_grad_() for name, tensor in state.items()}


def pyg(net: Architecture, state: State, kind: torch.dtype) -> torch.nn.Module:
    model = net.to_module().to(kind).eval()
    model.load_state_dict(state, strict=True)
    return model


@every_architecture
def test_state_is_pygs_by_name_shape_and_order(net: Architecture) -> None:
    theirs = {name: tuple(tensor.shape) for name, tensor in net.to_module().state_dict().items()}
    assert list(theirs.items()) == list(net.shapes().items())
    assert {name: tuple(tensor.shape) for name, tensor in net.init_state(0).items()} == net.shapes()


@every_architecture
def test_outputs_are_pygs(net: Architecture) -> None:
    graph, state = subgraph(GRAPH), state_of(net)
    with torch.no_grad():
        theirs = pyg(net, state, torch.float32)(graph.x, GRAPH.edge_index)
    torch.testing.assert_close(net.forward(state, graph), theirs, atol=1e-5, rtol=1e-5)


@every_architecture
def test_outputs_and_gradients_are_pygs_in_double(net: Architecture) -> None:
    graph, state = in_double(subgraph(GRAPH)), doubles(state_of(net))
    model = pyg(net, state, torch.float64)
    ours, theirs = net.forward(state, graph), model(graph.x, GRAPH.edge_index)
    torch.testing.assert_close(ours, theirs, atol=1e-11, rtol=1e-10)

    into = normal(1, *ours.shape)
    (ours * into).sum().backward()
    (theirs * into).sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(state[name].grad, parameter.grad, atol=1e-10, rtol=1e-9, msg=name)


@two_layers
@settings(max_examples=12)
@given(shape=structures(), seed=SEEDS)
def test_outputs_are_pygs_on_any_graph(shape: Structure, seed: int, net: Architecture) -> None:
    graph, state = in_double(subgraph(shape, seed)), doubles(state_of(net, seed))
    theirs = pyg(net, state, torch.float64)(graph.x, shape.edge_index)
    torch.testing.assert_close(net.forward(state, graph), theirs, atol=1e-11, rtol=1e-10)


@two_layers
def test_dropout_is_a_function_of_its_generator(net: Architecture) -> None:
    graph, state = subgraph(GRAPH), state_of(net)

    def dropped(rate: float, seed: int) -> Tensor:
        return net.forward(state, graph, DrawnDropout(rate, torch.Generator().manual_seed(seed)))

    assert torch.equal(dropped(0.5, 1), dropped(0.5, 1))
    assert not torch.equal(dropped(0.5, 1), dropped(0.5, 2))
    assert torch.equal(dropped(0.0, 1), net.forward(state, graph))


def test_gat_drops_attention_in_its_last_layer_too() -> None:
    net = Architecture("gat", 1, FEATURES, HIDDEN, CLASSES, heads=4)
    graph, state = subgraph(GRAPH), state_of(net)
    assert not torch.equal(net.forward(state, graph, CountedDropout(0.5, 0)), net.forward(state, graph))


@pytest.mark.parametrize(
    "dropout", [DrawnDropout(0.25, torch.Generator().manual_seed(0)), CountedDropout(0.25, 0)], ids=["drawn", "counted"]
)
def test_dropout_zeroes_a_share_and_scales_the_rest(dropout: Dropout) -> None:
    dropped = dropout(torch.ones(100, 1000), 0)
    assert set(dropped.unique().tolist()) == {0.0, float(torch.tensor(1.0) / 0.75)}
    assert float((dropped == 0.0).float().mean()) == pytest.approx(0.25, abs=0.01)  # five standard errors: 0.007


@every_architecture
def test_initial_state_is_a_function_of_the_seed(net: Architecture) -> None:
    first, again, other = net.init_state(3), net.init_state(3), net.init_state(4)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize(("kind", "heads"), [("gcn", 1), ("sage", 1), ("gat", 4)])
def test_initial_state_is_glorots(kind: str, heads: int) -> None:
    net = Architecture(kind, 2, features=50, hidden=64, classes=40, heads=heads, norm="layer")
    for name, tensor in net.init_state(0).items():
        if name.startswith("norms.") and name.endswith("weight"):
            assert (tensor == 1.0).all()
        elif name.endswith("bias"):
            assert (tensor == 0.0).all()
        else:
            bound = (6.0 / (tensor.shape[-1] + tensor.shape[-2])) ** 0.5
            assert 0.8 * bound < float(tensor.abs().max()) <= bound, name


@pytest.mark.parametrize("by", ["layer", "tensor", "model"])
@pytest.mark.parametrize("net", [*ARCHITECTURES, Architecture("sage", 12, 5, 8, 3, norm="layer")], ids=label)
def test_groups_cover_each_parameter_once(net: Architecture, by: str) -> None:
    groups = net.groups(by)
    names = list(itertools.chain.from_iterable(groups.values()))
    assert sorted(names) == sorted(net.shapes())
    assert len(groups) == {"layer": net.layers, "tensor": len(names), "model": 1}[by]


def test_a_group_of_layers_holds_its_own_norm() -> None:
    groups = Architecture("gcn", 12, 5, 8, 3, norm="layer").groups("layer")
    assert groups["layer 1"] == ("convs.1.bias", "convs.1.lin.weight", "norms.1.weight", "norms.1.bias")
    assert groups["layer 11"] == ("convs.11.bias", "convs.11.lin.weight")


@pytest.mark.parametrize("kind", ["gcn", "sage", "gat"])
def test_a_subgraph_is_gone_as_soon_as_nobody_uses_it(kind: str) -> None:
    """Without Python looking for cycles, which it does rarely: a stream of subgraphs would pile up in memory."""
    net = Architecture(kind, 3, 4, 8, 3)
    state = {name: tensor.requires_grad_() for name, tensor in net.init_state(0).items()}
    subgraph = Subgraph(normal(0, 20, 4, kind=torch.float32), random_structure(20, 60).adjacency())
    left = [weakref.ref(subgraph.x), weakref.ref(subgraph.adjacency), weakref.ref(subgraph.adjacency.indices)]
    gc.disable()
    try:
        loss = net.forward(state, subgraph).sum()
        loss.backward()
        del loss, subgraph
        assert [reference() for reference in left] == [None, None, None]
    finally:
        gc.enable()


def test_a_kind_that_pyg_does_not_stack_is_no_module_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Architecture("gcn", 2, FEATURES, HIDDEN, CLASSES)
    monkeypatch.setattr(type(net.convolution), "module", "")
    with pytest.raises(RunError, match=r"torch_geometric.nn has no class of models of kind 'gcn'"):
        net.to_module()
