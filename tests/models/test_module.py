"""Any torch module: its state, what it computes against itself in plain PyG, its groups, its reach, what is refused."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

import gnnsoup_hpc as gs
from gnnsoup_hpc.config import ModelJob
from gnnsoup_hpc.engine import TorchEngine
from gnnsoup_hpc.engine.measure import measure_slopes
from gnnsoup_hpc.engine.memory import Extent
from gnnsoup_hpc.errors import JobError, RunError
from gnnsoup_hpc.graph.subgraph import Subgraph
from gnnsoup_hpc.models.base import CountedDropout
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.models.module import ModuleModel
from gnnsoup_hpc.models.registry import make_model, read_record
from gnnsoup_hpc.soup.mixing import ParameterMatrix, mix
from gnnsoup_hpc.types import State
from tests.arbitrary import normal, random_structure
from tests.models import modules

FEATURES, OUTPUTS = 5, 3
GRAPH = random_structure(40, 150)
HERE = "tests.models.modules"


def subgraph(seed: int = 0) -> Subgraph:
    return Subgraph(normal(seed, GRAPH.nodes, FEATURES, kind=torch.float32), GRAPH.adjacency())


def module_of(name: str, **options: Any) -> ModuleModel:
    found = make_model(ModelJob(kind="module", factory=f"{HERE}:{name}", **options), FEATURES, OUTPUTS)
    assert isinstance(found, ModuleModel)
    return found


def state_of(model: ModuleModel, seed: int = 0) -> State:
    """Nothing is at its start."""
    start = model.init_state(seed)
    return {
        name: tensor + 0.1 * normal(number, *tensor.shape, kind=torch.float32).abs()
        if tensor.is_floating_point()
        else tensor + 3 + seed
        for number, (name, tensor) in enumerate(start.items())
    }


PLAIN: list[dict[str, Any]] = [
    {"kind": "gcn", "norm": "batch"},
    {"kind": "gcn", "arguments": {"act": "elu", "jk": "cat"}},
    {"kind": "sage", "norm": "graph"},
    {"kind": "sage", "arguments": {"aggr": "max"}},
    {"kind": "gat", "norm": "batch", "heads": 2},
    {"kind": "gatv2", "heads": 2},
    {"kind": "gin", "norm": "batch"},
    {"kind": "gin", "takes": "sparse"},
    {"kind": "pna"},
    {"kind": "edgecnn", "layers": 2},
]


def label(options: dict[str, Any]) -> str:
    return "-".join(map(str, options.values()))


@pytest.mark.parametrize("options", PLAIN, ids=label)
def test_pygs_classes_compute_what_they_do_alone(options: dict[str, Any]) -> None:
    degrees = tuple(torch.bincount(GRAPH.adjacency().indptr.diff()).tolist())
    model = make_model(ModelJob(**({"layers": 3, "hidden": 8} | options)), FEATURES, OUTPUTS, lambda: degrees)
    assert isinstance(model, ModuleModel)
    assert model.hops == options.get("layers", 3)
    graph, state = subgraph(), state_of(model)
    plain = model.to_module()
    plain.load_state_dict(state, strict=True)
    given = graph.adjacency.matrix if options.get("takes") else graph.adjacency.edge_index
    wanted = plain.eval()(graph.x, given)
    torch.testing.assert_close(model.forward(state, graph), wanted, rtol=0, atol=0)
    assert wanted.isfinite().all()
    # In training, by the same draws.
    for part in plain.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.4
        elif hasattr(part, "heads"):
            part.dropout = 0.4
    torch.manual_seed(7)
    drawn = plain.train()(graph.x, given)
    copy = {name: tensor.clone() for name, tensor in state.items()}
    found = model.forward(copy, graph, CountedDropout(0.4, 7), "train")
    torch.testing.assert_close(found, drawn, rtol=0, atol=0)
    assert not torch.equal(drawn, wanted)
    again = read_record(model.record())
    assert again == model
    assert again.record() == model.record()
    torch.testing.assert_close(again.forward(state, graph), wanted, rtol=0, atol=0)
    assert set(itertools.chain.from_iterable(model.groups("layer").values())) == set(state) - model.integers


def test_plain_options_keep_the_fast_engines() -> None:
    for kind, norm in itertools.product(("gcn", "sage", "gat"), ("none", "layer")):
        assert isinstance(make_model(ModelJob(kind=kind, norm=norm), FEATURES, OUTPUTS), Architecture)


def test_a_state_has_each_entry_once_and_knows_what_is_trained() -> None:
    model = module_of("Tied")
    names = ["shift", "first.weight", "first.bias", "second.bias", "head.weight", "head.bias", "scale"]
    assert sorted(model.shapes()) == sorted(names)
    assert model.parameters == set(names) - {"shift", "scale"}
    state = state_of(model)
    graph = subgraph()
    plain = model.to_module()
    plain.load_state_dict(model.complete(state), strict=True)
    torch.testing.assert_close(model.forward(state, graph), plain(graph.x, None), rtol=0, atol=0)
    plan = TorchEngine().plan(model, _batch(graph), train=True)
    logits, vjp = TorchEngine().vjp(plan, state)
    gradients = vjp(torch.ones_like(logits))
    plain(graph.x, None).sum().backward()
    for name, tensor in plain.named_parameters():
        wanted = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
        torch.testing.assert_close(gradients[name], wanted.double())
    assert not gradients["scale"].any()


def test_parts_by_two_names_are_trained_and_computed_once() -> None:
    model, graph = module_of("Twice"), subgraph()
    state = state_of(model)
    assert not any(name.startswith(("again", "other")) for name in state)
    assert {name for name in state if name.startswith("first")} <= model.parameters
    for _ in range(2):  # the module is as it was after each call
        plain = model.to_module()
        plain.load_state_dict(model.complete(state), strict=True)
        wanted = plain.eval()(graph.x, graph.adjacency.edge_index)
        torch.testing.assert_close(model.forward(state, graph), wanted, rtol=0, atol=0)
        with torch.no_grad():
            torch.testing.assert_close(model.forward(state, graph), wanted, rtol=0, atol=0)
        assert model.parameters == {name for name, _ in plain.named_parameters()}
        assert all(isinstance(tensor, nn.Parameter) for tensor in model.template.parameters())
    logits, vjp = TorchEngine().vjp(TorchEngine().plan(model, _batch(graph), train=True), state)
    gradients = vjp(torch.ones_like(logits))
    plain.train()(graph.x, graph.adjacency.edge_index).sum().backward()
    for name, tensor in plain.named_parameters():
        assert tensor.grad is not None
        torch.testing.assert_close(gradients[name], tensor.grad.double(), rtol=1e-4, atol=1e-4)
    assert gradients["first.lin.weight"].any()
    found = model.recompute(state, iter([graph]))
    plain.load_state_dict(model.complete(state))
    update_bn([graph.x], _Edges(plain, graph))
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, plain.state_dict()[name])


class _Edges(nn.Module):
    def __init__(self, inner: nn.Module, graph: Subgraph) -> None:
        super().__init__()
        self.inner, self.graph = inner, graph

    def forward(self, x: Tensor) -> Any:
        return self.inner(x, self.graph.adjacency.edge_index)


def test_soups_of_states_know_parts_by_two_names() -> None:
    module, graph = modules.Twice(FEATURES, OUTPUTS), subgraph()
    states = []
    for seed in range(3):
        torch.manual_seed(seed)
        states.append(modules.Twice(FEATURES, OUTPUTS).state_dict())
    targets = torch.arange(GRAPH.nodes) % OUTPUTS

    def loss(each: nn.Module, batch: Subgraph) -> Tensor:
        return nn.functional.cross_entropy(each(batch.x, batch.adjacency.edge_index), targets)

    soup = gs.learned_soup(module, states, [graph], loss, epochs=6, alpha="tensor")
    shares = dict(zip(soup.groups, soup.alpha, strict=True))
    assert float((shares["first.lin.weight"] - 1 / 3).abs().max()) > 1e-3
    assert torch.equal(soup.state["first.lin.weight"], soup.state["again.lin.weight"])
    assert torch.equal(soup.state["norm.running_mean"], soup.state["other_norm.running_mean"])
    module.load_state_dict(soup.state)
    assert all(isinstance(tensor, nn.Parameter) for tensor in module.parameters())


def _batch(graph: Subgraph) -> Any:
    from gnnsoup_hpc.graph.subgraph import Batch

    return Batch(graph, torch.arange(GRAPH.nodes), torch.zeros(GRAPH.nodes, dtype=torch.int64))


def test_a_lazy_module_takes_its_shape_from_the_features() -> None:
    model = module_of("Lazy", takes="sparse", arguments={"more": 1})
    assert model.shapes() == {"head.weight": (OUTPUTS, FEATURES), "head.bias": (OUTPUTS,)}
    graph, state = subgraph(), state_of(model)
    sums = GRAPH.dense.float() @ graph.x
    torch.testing.assert_close(model.forward(state, graph), sums @ state["head.weight"].t() + state["head.bias"])


def test_states_begin_as_the_module_does_and_leave_torchs_generator_alone() -> None:
    model = module_of("make")
    before = torch.random.get_rng_state()
    first, again, other = model.init_state(1), model.init_state(1), model.init_state(2)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(1)
    plain = modules.make(FEATURES, OUTPUTS).state_dict()
    for name, tensor in plain.items():
        assert torch.equal(first[name], tensor)
        assert torch.equal(again[name], tensor)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_training_brings_statistics_up_to_date_and_a_fit_does_not() -> None:
    model, graph = module_of("make"), subgraph()
    state = state_of(model)
    plain = model.to_module()
    plain.load_state_dict(state)
    kept = {name: tensor.clone() for name, tensor in state.items()}
    fitted = model.forward(state, graph, mode="fit")
    assert all(torch.equal(state[name], kept[name]) for name in state)
    plain.rate = 0.0  # no dropout, the batch's own statistics
    torch.testing.assert_close(plain.train()(graph.x, graph.adjacency.edge_index), fitted, rtol=0, atol=0)
    before = torch.random.get_rng_state()
    model.forward(state, graph, CountedDropout(0.5, 3), "train")
    assert torch.equal(before, torch.random.get_rng_state())
    changed = {name for name in state if not torch.equal(state[name], kept[name])}
    assert changed == model.statistics
    assert model.integers == {f"norms.{layer}.num_batches_tracked" for layer in range(2)}


def test_statistics_are_recomputed_as_update_bn_does() -> None:
    model, graphs = module_of("make", arguments={"rate": 0.0}), [subgraph(seed) for seed in range(3)]
    state = state_of(model)
    plain = model.to_module()
    plain.load_state_dict(state)

    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = plain

        def forward(self, number: Tensor) -> Tensor:
            graph = graphs[int(number)]
            out: Tensor = self.inner(graph.x, graph.adjacency.edge_index)
            return out

    update_bn([torch.tensor(number) for number in range(3)], Loop())
    found = model.recompute(state, iter(graphs))
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(found[name], tensor)
    assert not torch.equal(found["norms.0.running_mean"], state["norms.0.running_mean"])


def test_a_mixture_mixes_what_floats_and_counts_as_its_heaviest_ingredient() -> None:
    model = module_of("make")
    states = [state_of(model, seed) for seed in range(3)]
    matrix = ParameterMatrix.of(model, (0, 1, 2), states, torch.device("cpu"))
    for by in ("model", "layer", "tensor"):
        groups = len(matrix.groups(by))
        alpha = torch.tensor([[0.2, 0.5, 0.3]], dtype=torch.float64).repeat(groups, 1)
        mixed = mix(matrix, alpha, by)
        assert list(mixed) == list(model.shapes())
        for name, tensor in mixed.items():
            if name in model.integers:
                assert torch.equal(tensor, states[1][name])
            else:
                torch.testing.assert_close(
                    tensor, 0.2 * states[0][name] + 0.5 * states[1][name] + 0.3 * states[2][name]
                )
    for number, state in enumerate(states):
        one = matrix.ingredient(number)
        assert all(torch.equal(one[name], state[name]) for name in state)


def test_groups_follow_children_or_what_the_job_lists() -> None:
    assert list(module_of("make").groups("layer")) == [
        "first",
        "head",
        *(f"{name}.{layer}" for name in ("convs", "skips", "norms") for layer in range(2)),
    ]
    listed = module_of("make", groups=["convs.0", "convs", "norms"]).groups("layer")
    assert list(listed) == ["first", "head", "convs.0", "convs", "skips", "norms"]
    assert listed["convs"] == ("convs.1.bias", "convs.1.lin.weight")
    with pytest.raises(
        JobError, match=r"model.groups: no entry of a state begins with 'conv'; there are: first.weight,"
    ):
        module_of("make", groups=["conv"]).groups("layer")
    plain = make_model(ModelJob(kind="gin", layers=2, hidden=4, arguments={"jk": "cat"}), FEATURES, OUTPUTS)
    assert list(plain.groups("layer")) == ["layer 0", "layer 1", "lin"]


def test_how_far_it_reaches_is_tried() -> None:
    assert module_of("make", hops=2).find_far_reach() == ""
    assert "does not say how far it reaches: give model.hops" in module_of("make").find_far_reach()
    assert "looks at nodes beyond its 1 hops (model.hops = 1)" in module_of("make", hops=1).find_far_reach()
    assert "1 hops, for norm (GraphNorm) normalises over all nodes" in module_of("Whole", hops=1).find_far_reach()


@pytest.mark.parametrize("mode", ["evaluate", "fit", "train"])
@pytest.mark.parametrize("name", ["make", "Pairs"])
def test_memory_is_extrapolated_from_small_graphs(name: str, mode: Any) -> None:
    model = module_of(name)
    slopes = measure_slopes(model, mode)
    assert (slopes.pair > 0) == (name == "Pairs")
    from gnnsoup_hpc.engine import measure

    nodes, degree = 3000, 4
    found = slopes.extrapolate(Extent(nodes, nodes * degree, nodes * degree, 10))
    peak = measure._measure_peak(model, mode, nodes, degree)
    assert peak <= sum(found.values()) <= 1.3 * slopes.margin * peak


WRONG = [
    ("nowhere.at_all:make", "cannot be imported: ModuleNotFoundError: No module named 'nowhere'"),
    (f"{HERE}:made", "has no 'made'"),
    (f"{HERE}:NUMBER", "is a int: name a function, or a class, that makes a module"),
    (f"{HERE}:make_text", "makes a str, where a torch.nn.Module is wanted"),
    (
        f"{HERE}:fail",
        r"makes no module of in_channels = 5, .*: RuntimeError: of the user's own \(.*modules.py, line \d+\)$",
    ),
    (
        f"{HERE}:fail_without_words",
        r"makes no module of in_channels = 5, .*: AssertionError: assert in_channels < 0 \(.*modules.py, line \d+\)$",
    ),
    (f"{HERE}:make_cached", "has cached = True, and would keep its first graph"),
    (f"{HERE}:make_pairs", "of 8 nodes the module makes tuple, where one tensor of shape"),
    (f"{HERE}:make_wide", r"of 8 nodes the module makes \(8, 4\), where one tensor of shape \(8, 3\) is wanted"),
    (f"{HERE}:make_narrow", "the module fails on 5 features, and edge_index: RuntimeError: mat1 and mat2"),
    (f"{HERE}:Unsteady", "gives other scores the second time, in evaluation mode: let its dropout"),
    (f"{HERE}:make_complex", "'phase' of the module's state is no tensor of real numbers"),
]


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_what_makes_no_model_is_one_line(text: str, message: str) -> None:
    model = make_model(ModelJob(kind="module", factory=text), FEATURES, OUTPUTS)
    with pytest.raises(JobError, match=f"^model.factory = '{text}'.*{message}") as told:
        model.shapes()
    assert "\n" not in str(told.value)


def test_an_assertion_of_pyg_is_told_with_its_line_and_the_class() -> None:
    model = make_model(ModelJob(kind="gcn", arguments={"jk": "concat"}), FEATURES, OUTPUTS)
    said = r"^model.kind = 'gcn' \(PyG's GCN\) makes no module of .*, jk = 'concat': AssertionError: assert .*'cat'"
    with pytest.raises(JobError, match=said):
        model.shapes()


def test_arguments_that_it_does_not_take_are_told() -> None:
    model = module_of("make", arguments={"hiden": 3})
    with pytest.raises(
        JobError,
        match=r"makes no module of .*, hiden = 3: TypeError: make\(\) got an unexpected",
    ):
        model.shapes()


def test_the_code_is_in_the_record_and_may_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = Path(modules.__file__).read_text(encoding="utf-8")
    monkeypatch.setattr(sys, "path", list(sys.path))

    def record(name: str, change: str, **options: Any) -> dict[str, Any]:
        (tmp_path / f"{name}.py").write_text(text + change, encoding="utf-8")
        job = ModelJob(kind="module", factory=f"{name}:make", folder=str(tmp_path), **options)
        found = make_model(job, FEATURES, OUTPUTS).record()
        return {key: value for key, value in found.items() if key != "factory"}

    first = record("first", "")
    assert record("second", "") == first
    changed = record("third", "# changed\n")
    assert {key for key in first if first[key] != changed[key]} == {"code"}
    assert record("fourth", "# changed\n", revision=first["code"]) == first
    assert first["arguments"] == {}
    with pytest.raises(
        RunError, match=f"the code of model.factory = 'third:make' is another .* set model.revision = '{first['code']}'"
    ):
        read_record(first | {"factory": "third:make"}, str(tmp_path))
    assert (
        read_record(first | {"factory": "third:make"}, str(tmp_path), first["code"]).record()["code"] == first["code"]
    )
