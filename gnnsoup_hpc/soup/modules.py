"""Soups of any torch module's states, graph or none: the same algorithms, in memory, on one process.

A state is a state dict. What floats in it is mixed: parameters, and buffers as running means; other buffers, as counts
of batches, are those of the state with the most weight. The algorithms are those of jobs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from gnnsoup_hpc.config import GisJob, LearnedJob
from gnnsoup_hpc.io.records import MixingWeights, Step
from gnnsoup_hpc.models.statistics import Calling, call_with, find_ties, fitting, recompute_statistics
from gnnsoup_hpc.runtime.comm import SERIAL, Comm
from gnnsoup_hpc.runtime.progress import Bar, Log
from gnnsoup_hpc.soup import mixing
from gnnsoup_hpc.soup.context import LossResult
from gnnsoup_hpc.soup.methods.gis import Gis
from gnnsoup_hpc.soup.methods.greedy import Greedy
from gnnsoup_hpc.soup.methods.learned import BatchStream, fit
from gnnsoup_hpc.soup.mixing import ParameterMatrix
from gnnsoup_hpc.soup.mixtures import Candidate
from gnnsoup_hpc.types import Grouping

StateDict = Mapping[str, Tensor]
Score = Callable[[dict[str, Tensor]], float]
Loss = Callable[[nn.Module, Any], Tensor]
CPU = torch.device("cpu")


@dataclass(frozen=True)
class StateSoup:
    """A mixture of N states: its own state dict, and how it was mixed.

    alpha: (G, N) float64, a row for each of `groups` of entries. history: of greedy_soup and gis the best score after
    each step, as `accuracy`; of learned_soup each evaluation's loss.
    """

    state: dict[str, Tensor]
    alpha: Tensor
    groups: tuple[str, ...]
    history: tuple[Step, ...] = ()


def uniform_soup(states: Sequence[StateDict]) -> StateSoup:
    """The mean of all states; looks at no data. Batch statistics want `recompute_statistics` afterwards.

    Raises: ValueError for states that are not of one model, or not finite.
    Source: Wortsman et al., Model soups, ICML 2022, arXiv 2203.05482, section 2.
    """
    stack = _Stack.of(states)
    return stack.soup(MixingWeights(torch.full((1, len(states)), 1.0 / len(states), dtype=torch.float64), ("model",)))


def greedy_soup(states: Sequence[StateDict], score: Score) -> StateSoup:
    """States by falling score, each kept if the mean of the kept ones does not get worse: 2 N - 1 calls of `score`.

    score: of a state dict, on data that no state was trained on; a high one is good.
    Raises: ValueError for states that are not of one model or not finite, and for a score that is not a number.
    Source: Wortsman et al., arXiv 2203.05482, algorithm 1.
    """
    stack = _Stack.of(states)
    return stack.soup(Greedy().run(_StateScores(stack, score)))


def gis(states: Sequence[StateDict], score: Score, granularity: int = 20) -> StateSoup:
    """States by falling score, each mixed in by the best of `granularity` ratios: N + (granularity - 2) (N - 1) calls.

    score and errors: as of `greedy_soup`. Source: Jaiswal et al., Graph Ladling, ICML 2023, arXiv 2306.10466.
    """
    stack = _Stack.of(states)
    return stack.soup(Gis(_check(GisJob, granularity=granularity)).run(_StateScores(stack, score)))


def learned_soup(
    module: nn.Module,
    states: Sequence[StateDict],
    batches: Iterable[Any],
    loss: Loss,
    *,
    progress: bool = False,
    **options: Any,
) -> StateSoup:
    """Shares of the states by gradient descent on a loss: sum over i of alpha[g, i] W_i, for each group g of entries.

    module: of the states' model, which is left as it is; where it is, the mixing is done too. batches: what can
    be gone over again and again, as a list or a DataLoader, of data that no state was trained on. loss: of the module
    and a batch, a mean, differentiable; the module has the mixture's parameters then, dropout off, and the batch's own
    statistics where it has batch norm, whose running ones are recomputed at the end over all batches.
    options: as of [soup.ls] in a job. optimiser = "adam" (the default here), "eg" or "paper" takes a step a batch, and
    "lbfgs" goes over all batches for each evaluation; epochs: most evaluations; alpha = "layer" (a group for each child
    of the module), "tensor" or "model"; weights = "softmax", "affine" or "free"; learning_rate; regularise.
    Raises: ValueError for states or options that are not right; DivergedError where the loss is no number.
    Source: Zuber et al., Enhanced Soups for Graph Neural Networks, arXiv 2503.11612, Learned Souping.
    """
    chosen = _check(LearnedJob, **({"optimiser": "adam", "logit_scale": False} | options))
    if chosen.logit_scale or chosen.holdout:
        raise ValueError("logit_scale and holdout need logits and nodes, and here is but a loss: leave them out")
    stack, whole = _Stack.of(states, module), chosen.optimiser == "lbfgs"
    context = _ModuleLosses(stack, Calling(module, loss), whole, Log(quiet=not progress))
    with fitting(module):
        soup = stack.soup(fit(context, chosen, BatchStream(_repeat(batches, whole), whole=whole), "learned_soup"))
    return replace(soup, state=recompute_statistics(module, soup.state, batches, loss))


def _repeat(batches: Iterable[Any], whole: bool) -> Iterator[Any]:
    """Batch after batch, again and again; or with `whole` all of them, as a list of one, each time."""
    while True:
        count = 0
        for batch in [batches] if whole else batches:
            yield batch
            count += 1
        if not count:
            raise ValueError("batches are empty, or can be gone over only once: give a list or a DataLoader")


def _check(kind: type[Any], **given: Any) -> Any:
    """A section of a job. Raises: ValueError with what is wrong, in one line."""
    try:
        return kind(**given)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(each) for each in first["loc"])
        message = str(first["msg"]).removeprefix("Value error, ")
        raise ValueError(f"{where}: {message}" if where else message) from None


# ---- states


@dataclass(frozen=True)
class _Entries:
    """The entries that are mixed, as a model to `ParameterMatrix`; children: groups "layer", by name."""

    sizes: Mapping[str, tuple[int, ...]]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return dict(self.sizes)

    def groups(self, by: Grouping) -> dict[str, tuple[str, ...]]:
        if by == "model":
            return {"model": tuple(self.sizes)}
        if by == "tensor":
            return {name: (name,) for name in self.sizes}
        found: dict[str, list[str]] = {}
        for name in self.sizes:
            found.setdefault(name.partition(".")[0], []).append(name)
        return {child: tuple(names) for child, names in found.items()}


@dataclass(frozen=True)
class _Stack:
    """N states of one model: what floats as one matrix, in float64 where any of it is, else float32.

    like: entries with the types and places that a mixture gets. same: entries that are another one by another name, as
    a module that ties them has it.
    """

    matrix: ParameterMatrix
    states: Sequence[StateDict]
    like: StateDict
    same: Mapping[str, str]

    @classmethod
    def of(cls, states: Sequence[StateDict], module: nn.Module | None = None) -> _Stack:
        """Raises: ValueError, with the first difference."""
        if not states:
            raise ValueError("there are no states to mix")
        wanted = dict(states[0] if module is None else module.state_dict())
        for number, state in enumerate(states):
            _compare(number, state, wanted, "state 0" if module is None else "the module")
        same = {} if module is None else find_ties(module)
        mixed = {name: tensor for name, tensor in wanted.items() if tensor.is_floating_point() and name not in same}
        if not mixed:
            raise ValueError("nothing in the states floats, so there is nothing to mix")
        kind = torch.float64 if any(tensor.dtype == torch.float64 for tensor in mixed.values()) else torch.float32
        entries: Any = _Entries({name: tuple(tensor.shape) for name, tensor in mixed.items()})
        order = [name for names in entries.groups("layer").values() for name in names]
        rows = [torch.cat([state[name].detach().flatten().to(CPU, kind) for name in order]) for state in states]
        for number, row in enumerate(rows):
            if not bool(row.isfinite().all()):
                raise ValueError(f"state {number} has entries that are not finite numbers")
        place = CPU if module is None else next(iter(mixed.values())).device
        weights = torch.stack(rows).to(place)
        return cls(ParameterMatrix(entries, tuple(range(len(states))), weights), states, wanted, same)

    def mix(self, alpha: Tensor, by: Grouping = "model") -> dict[str, Tensor]:
        """The state dict that alpha (G, N) mixes; other entries are those of the state with the most weight."""
        found = mixing.mix(self.matrix, alpha, by)
        base, other = self.states[int(alpha.sum(0).argmax())], self.same
        mixed = {name: found.get(other.get(name, name), tensor) for name, tensor in base.items()}
        return {name: tensor.detach().to(self.like[name], copy=True) for name, tensor in mixed.items()}

    def soup(self, weights: MixingWeights) -> StateSoup:
        """What a method's weights mix."""
        return StateSoup(self.mix(weights.alpha, weights.by), weights.alpha, weights.groups, weights.history)


def _compare(number: int, state: StateDict, wanted: StateDict, whose: str) -> None:
    """Raises: ValueError where a state is not of the same model."""
    for name in [*wanted, *state]:
        if name not in state or name not in wanted:
            here, there = (f"state {number}", whose) if name in state else (whose, f"state {number}")
            raise ValueError(f"{here} has an entry {name!r}, and {there} has none")
        if not isinstance(state[name], Tensor) or state[name].is_complex():
            raise ValueError(f"{name!r} of state {number} is no tensor of real numbers, and cannot be mixed")
        if state[name].shape != wanted[name].shape:
            raise ValueError(
                f"{name!r} is {tuple(state[name].shape)} in state {number} and {tuple(wanted[name].shape)} in {whose}"
            )


# ---- what methods use


@dataclass
class _OfStack:
    stack: _Stack

    @property
    def ids(self) -> tuple[int, ...]:
        return self.stack.matrix.ids

    @property
    def size(self) -> int:
        return len(self.ids)


@dataclass
class _StateScores(_OfStack):
    """What greedy soups and GIS use of a context: scores of mixtures."""

    score: Score

    def score_each(self) -> list[float]:
        return self.scores([Candidate(row[None]) for row in torch.eye(self.size, dtype=torch.float64)])

    def scores(self, candidates: Sequence[Candidate]) -> list[float]:
        found = [float(self.score(self.stack.mix(each.alpha))) for each in candidates]
        if any(math.isnan(each) for each in found):
            raise ValueError("the score of a mixture is not a number")
        return found

    def scores_between(self, start: Tensor, end: Tensor, shares: Sequence[float]) -> list[float]:
        return self.scores([Candidate(share * start + (1.0 - share) * end) for share in shares])

    def metric(self, reached: float) -> float:
        return reached

    def bar(self, total: int, title: str) -> Bar:
        return Log("", quiet=True).bar(total, title)


@dataclass
class _ModuleLosses(_OfStack):
    """What learned soups use of a context: the loss of a mixture on a batch, with its gradient in alpha.

    whole: what is given as a batch is all of them.
    """

    calling: Calling
    whole: bool
    log: Log
    seed: int = 0
    comm: Comm = SERIAL

    def groups(self, by: Grouping) -> tuple[str, ...]:
        return tuple(self.stack.matrix.groups(by))

    def trace(self, number: int, alpha: Tensor, /) -> None:
        """Nobody looks on."""

    def bar(self, total: int, title: str) -> Bar:
        return self.log.bar(total, title)

    def loss_and_gradient(
        self, alpha_GN: Tensor, by: Grouping, batch: Any, fit_scale: bool = False, holdout: Tensor | None = None
    ) -> LossResult:
        """On a batch; or the mean over all."""
        mixed = self.stack.mix(alpha_GN, by)
        leaves = {name: mixed[name].requires_grad_() for name, _ in self.calling.module.named_parameters()}
        places = {
            f"module.{name}": leaves.get(name, tensor) for name, tensor in mixed.items() if name not in self.stack.same
        }
        losses = []
        for each in batch if self.whole else [batch]:
            loss = call_with(self.calling, places, (each,))
            if loss.numel() != 1:
                raise ValueError(f"the loss of a batch is one number, and this one's shape is {tuple(loss.shape)}")
            loss.backward()
            losses.append(float(loss.detach()))
        if not losses:
            raise ValueError("batches are empty, or can be gone over only once: give a list or a DataLoader")
        grads = {
            name: self._read_gradient(leaves.get(name), mixed[name], len(losses)) for name in self.stack.matrix.spans
        }
        gradient = mixing.gradient(self.stack.matrix, grads, by)
        return LossResult(sum(losses) / len(losses), gradient.to(alpha_GN), math.nan, math.nan)

    def _read_gradient(self, leaf: Tensor | None, like: Tensor, count: int) -> Tensor:
        """In float64, of a mean; zero where nothing depends on an entry."""
        if leaf is None or leaf.grad is None:
            return torch.zeros_like(like, dtype=torch.float64)
        return leaf.grad.double() / count
