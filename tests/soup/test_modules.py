"""Soups of any torch module's states: against plain torch, and on what is no graph."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, dropout
from torch.optim.swa_utils import update_bn

import gnnsoup_hpc as gs
from gnnsoup_hpc.errors import DivergedError
from gnnsoup_hpc.models.statistics import Calling
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.soup.modules import _ModuleLosses, _Stack

State = dict[str, Tensor]
DOCS = Path(__file__).resolve().parent.parent.parent / "docs" / "python.md"


class Tied(nn.Module):
    """The last layer is the first one, turned round."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6, bias=False), nn.Linear(4, 6, bias=False)
        self.last.weight = self.first.weight
        self.shift = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.first(x)) @ self.last.weight + self.shift


def make_module(norm: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    middle = [nn.BatchNorm1d(8)] if norm else []
    return nn.Sequential(nn.Linear(4, 8), *middle, nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))


def make_states(module: nn.Module, count: int = 3, spread: float = 0.3) -> list[State]:
    """States around the module's own."""
    states = []
    for seed in range(count):
        draw = torch.Generator().manual_seed(seed)
        moved = {
            name: tensor + spread * torch.rand(tensor.shape, generator=draw).to(tensor)
            if tensor.is_floating_point()
            else tensor + seed
            for name, tensor in module.state_dict().items()
        }
        states.append(moved)
    return states


def make_batches(count: int = 3, width: int = 4, kind: torch.dtype = torch.float32) -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(9)
    return [
        (torch.randn(12, width, generator=draw).to(kind), torch.randint(3, (12,), generator=draw)) for _ in range(count)
    ]


def loss(module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    found: Tensor = cross_entropy(module(batch[0]), batch[1])
    return found


def score_of(module: nn.Module) -> Callable[[State], float]:
    """Falls with the loss; the module is one of its own."""
    own = copy.deepcopy(module)

    def score(state: State) -> float:
        own.load_state_dict(state)
        own.eval()
        with torch.no_grad():
            return -sum(float(loss(own, batch)) for batch in make_batches())

    return score


def snapshot(module: nn.Module) -> tuple[State, list[bool], list[Any]]:
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    parts = list(module.modules())
    return state, [part.training for part in parts], [getattr(part, "momentum", None) for part in parts]


def test_a_uniform_soup_is_the_mean_and_keeps_types() -> None:
    states = make_states(make_module())
    soup = gs.uniform_soup(states)
    assert list(soup.state) == list(states[0])
    for name, tensor in soup.state.items():
        assert tensor.dtype == states[0][name].dtype
        if tensor.is_floating_point():
            mean = torch.stack([state[name] for state in states]).double().mean(0)
            torch.testing.assert_close(tensor.double(), mean, rtol=1e-6, atol=1e-7)
    assert soup.alpha.tolist() == [[1 / 3] * 3]
    soup.state["0.weight"].zero_()
    assert bool(states[0]["0.weight"].any())


def test_greedy_soups_and_gis_are_never_below_the_best_state() -> None:
    module = make_module()
    states, score = make_states(module, 4), score_of(module)
    best = max(score(state) for state in states)
    for soup in (gs.greedy_soup(states, score), gs.gis(states, score, granularity=5)):
        assert score(soup.state) >= best
        assert soup.history[-1].accuracy == score(soup.state)
        assert float(soup.alpha.sum()) == pytest.approx(1.0)
        counts = [int(state["1.num_batches_tracked"]) for state in states]
        assert int(soup.state["1.num_batches_tracked"]) == counts[int(soup.alpha.argmax())]


@pytest.mark.parametrize("by", ["model", "layer", "tensor"])
@pytest.mark.parametrize("make", [make_module, lambda: make_module(norm=False), Tied])
def test_the_gradient_of_alpha_is_autograds(by: Any, make: Callable[[], nn.Module]) -> None:
    module = make().double()
    states, batches = make_states(module), make_batches(kind=torch.float64)
    stack = _Stack.of(states, module)
    groups = stack.matrix.model.groups(by)
    alpha = torch.rand(len(groups), 3, dtype=torch.float64)
    for part in module.modules():
        part.training = isinstance(part, nn.BatchNorm1d)
    wanted = alpha.clone().requires_grad_()
    group_of = {name: number for number, names in enumerate(groups.values()) for name in names}
    first = {"last.weight": "first.weight"} if isinstance(module, Tied) else {}
    mixed = {
        name: sum(wanted[group_of[first.get(name, name)], i] * state[name] for i, state in enumerate(states))
        for name, tensor in states[0].items()
        if tensor.is_floating_point()
    }
    calling, expected = Calling(module, loss), torch.zeros((), dtype=torch.float64)
    names = {name for name, _ in module.named_parameters()}
    for batch in batches:
        own = copy.deepcopy(calling)
        expected = expected + functional_call(own, {f"module.{n}": mixed[n] for n in names}, (batch,)) / len(batches)
    expected.backward()
    found = _ModuleLosses(stack, calling, True, Log(quiet=True)).loss_and_gradient(alpha, by, batches)
    assert found.loss == pytest.approx(float(expected.detach()), rel=1e-12)
    order = [list(groups).index(name) for name in stack.matrix.groups(by)]
    torch.testing.assert_close(found.gradient, wanted.grad[order], rtol=1e-9, atol=1e-12)  # type: ignore[index]


@pytest.mark.parametrize("options", [{}, {"optimiser": "lbfgs"}, {"optimiser": "eg", "alpha": "model"}])
def test_a_learned_soup_lowers_the_loss_and_leaves_the_module_alone(options: dict[str, Any]) -> None:
    module = make_module()
    module.eval()
    states, batches = make_states(module, spread=1.0), make_batches()
    before = snapshot(module)
    soup = gs.learned_soup(module, states, batches, loss, epochs=30, **options)
    after = snapshot(module)
    assert all(torch.equal(after[0][name], tensor) for name, tensor in before[0].items())
    assert after[1:] == before[1:]
    assert len(soup.history) <= 30
    runs = 1 if options.get("optimiser") == "lbfgs" else len(batches)
    lasts = [step.loss for step in soup.history]
    assert sum(lasts[-runs:]) < sum(lasts[:runs])
    torch.testing.assert_close(soup.alpha.sum(1), torch.ones(len(soup.groups), dtype=torch.float64))
    module.load_state_dict(soup.state)
    again = gs.learned_soup(module, states, batches, loss, epochs=30, **options)
    assert all(torch.equal(again.state[name], tensor) for name, tensor in soup.state.items())


def test_statistics_are_those_that_torch_tells() -> None:
    module = make_module()
    state, batches = make_states(module)[1], make_batches()
    found = gs.recompute_statistics(module, state, batches, lambda model, batch: model(batch[0]))
    module.load_state_dict(state)
    for part in module.modules():
        part.training = not isinstance(part, nn.Dropout)
    update_bn([batch[0] for batch in batches], module)
    for name, tensor in module.state_dict().items():
        torch.testing.assert_close(found[name], tensor)
    assert not torch.equal(found["1.running_mean"], state["1.running_mean"])


def test_dropout_of_functions_is_off_too() -> None:
    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(dropout(x, 0.5, training=self.training))

    module, batches = Dropping(), make_batches(1)
    states = make_states(module)
    soups = [gs.learned_soup(module, states, batches, loss, epochs=2) for _ in range(2)]
    assert [step.loss for step in soups[0].history] == [step.loss for step in soups[1].history]
    module.load_state_dict(gs.uniform_soup(states).state)
    module.eval()
    assert soups[0].history[0].loss == pytest.approx(float(loss(module, batches[0]).detach()), rel=1e-6)


def test_entries_that_a_module_ties_stay_tied() -> None:
    module = Tied()
    soup = gs.learned_soup(
        module,
        make_states(module),
        make_batches(),
        lambda model, batch: (model(batch[0]) - batch[0]).square().mean(),
        alpha="tensor",
        epochs=10,
    )
    assert soup.groups == ("shift", "first.weight")
    assert torch.equal(soup.state["first.weight"], soup.state["last.weight"])
    assert soup.state.keys() == module.state_dict().keys()


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_states_of_half_precision_become_the_modules(kind: torch.dtype) -> None:
    module = make_module()
    states = [
        {name: tensor.to(kind) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
        for state in make_states(module)
    ]
    soup = gs.learned_soup(module, states, make_batches(), loss, epochs=3)
    assert soup.state["0.weight"].dtype == torch.float32
    assert gs.uniform_soup(states).state["0.weight"].dtype == kind


class TestWhatIsNotRight:
    """One line each."""

    module = make_module(norm=False)
    states = make_states(module)

    def learn(self, states: list[State] | None = None, batches: Any = None, **options: Any) -> gs.StateSoup:
        return gs.learned_soup(self.module, states or self.states, batches or make_batches(), loss, **options)

    def test_states(self) -> None:
        with pytest.raises(ValueError, match="there are no states"):
            gs.uniform_soup([])
        more = self.states[1] | {"extra": torch.ones(2)}
        with pytest.raises(ValueError, match="state 1 has an entry 'extra', and state 0 has none"):
            gs.uniform_soup([self.states[0], more])
        less = {name: tensor for name, tensor in self.states[1].items() if name != "0.bias"}
        with pytest.raises(ValueError, match=r"the module has an entry .0\.bias., and state 1 has none"):
            self.learn([self.states[0], less])
        wide = self.states[1] | {"0.bias": torch.ones(9)}
        with pytest.raises(ValueError, match=r"'0.bias' is \(9,\) in state 1 and \(8,\) in state 0"):
            gs.uniform_soup([self.states[0], wide])
        with pytest.raises(ValueError, match="state 1 has entries that are not finite"):
            gs.uniform_soup([self.states[0], self.states[1] | {"0.bias": torch.full((8,), torch.nan)}])
        for other in (None, torch.ones(8, dtype=torch.complex64)):
            with pytest.raises(ValueError, match=r"'0\.bias' of state 1 is no tensor of real numbers"):
                gs.uniform_soup([self.states[0], self.states[1] | {"0.bias": other}])  # type: ignore[dict-item]
        with pytest.raises(ValueError, match="nothing in the states floats"):
            gs.uniform_soup([{"count": torch.ones(2, dtype=torch.int64)}])

    def test_scores(self) -> None:
        with pytest.raises(ValueError, match="score of a mixture is not a number"):
            gs.greedy_soup(self.states, lambda state: float("nan"))

    @pytest.mark.parametrize("optimiser", ["adam", "lbfgs"])
    def test_batches(self, optimiser: str) -> None:
        for batches in (iter([]), (batch for batch in make_batches())):
            with pytest.raises(ValueError, match="batches are empty, or can be gone over only once"):
                self.learn(batches=batches, optimiser=optimiser)

    def test_losses(self) -> None:
        with pytest.raises(ValueError, match=r"is one number, and this one's shape is \(12, 3\)"):
            gs.learned_soup(self.module, self.states, make_batches(), lambda model, batch: model(batch[0]))
        with pytest.raises(DivergedError, match="learned_soup diverged: its loss is not a number from evaluation 1"):
            gs.learned_soup(
                self.module, self.states, make_batches(), lambda model, batch: model(batch[0]).sum() * torch.nan
            )

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"optimiser": "sgd"}, "optimiser: Input should be 'paper', 'lbfgs', 'adam' or 'eg'"),
            ({"step": 3}, "step: Extra inputs are not permitted"),
            ({"logit_scale": True}, "here is but a loss"),
            ({"epochs": 0}, "epochs: Input should be greater than or equal to 1"),
        ],
    )
    def test_options(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            self.learn(**options)

    def test_names(self) -> None:
        with pytest.raises(AttributeError, match=r"no attribute 'souper'; it has Job, Run, StateSoup, Trained"):
            gs.souper  # type: ignore[attr-defined]  # noqa: B018


def test_an_import_loads_and_changes_nothing() -> None:
    code = (
        "import os, sys; before = dict(os.environ); import gnnsoup_hpc;"
        " sys.exit('torch' in sys.modules or dict(os.environ) != before)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_page_has_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    """Its example, on molecules, lowers the loss."""
    *_, code = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.S)
    found: dict[str, Any] = {}
    exec(compile(code, str(DOCS), "exec"), found)
    assert found["soup"].history[-1].loss < found["soup"].history[0].loss
    assert capsys.readouterr().out.startswith("tensor([[")
