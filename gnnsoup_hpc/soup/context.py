"""What a method may use, and no more: metrics and gradients on validation nodes, batches, seeds, progress.

A context has no test label, so a method cannot leak one by accident. Every rank runs the same method with a context of
its own; what is marked rank-collective all ranks call in the same order, and it gives all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, islice, repeat
from typing import Any, Protocol

import torch
from torch import Tensor

from gnnsoup_hpc.config import DistilJob, Job
from gnnsoup_hpc.data import loader
from gnnsoup_hpc.engine import Division, Plan
from gnnsoup_hpc.engine.out_of_core import first_aggregation
from gnnsoup_hpc.errors import JobError
from gnnsoup_hpc.evaluation.tasks import score
from gnnsoup_hpc.graph.subgraph import Batch
from gnnsoup_hpc.io import soup as soup_store
from gnnsoup_hpc.io.first_aggregation import FirstAggregationFile
from gnnsoup_hpc.io.records import Step
from gnnsoup_hpc.models.base import LayeredModel
from gnnsoup_hpc.runtime.comm import Comm
from gnnsoup_hpc.runtime.profiling import COUNTS, Measurement
from gnnsoup_hpc.runtime.progress import Bar, Log
from gnnsoup_hpc.soup import mixing
from gnnsoup_hpc.soup.distillation import Distillation
from gnnsoup_hpc.soup.mixtures import Candidate, Mixtures
from gnnsoup_hpc.types import Grouping, Role, State
from gnnsoup_hpc.utils.out_of_core import BufferPool
from gnnsoup_hpc.utils.rng import numpy_generator

Trace = Callable[[int, Tensor], None]


@dataclass(frozen=True)
class LossResult:
    """Of a batch. gradient: (G, N) float64, in alpha; metric: on all its nodes; held_out: loss on those held out."""

    loss: float
    gradient: Tensor
    metric: float
    held_out: float


class ScoreContext(Protocol):
    """What methods that choose by scores use; a `SoupContext` is one. Scores: as there."""

    @property
    def ids(self) -> tuple[int, ...]:
        """Of the ingredients, (N,)."""

    @property
    def size(self) -> int:
        """N."""

    def score_each(self) -> list[float]:
        """Of every ingredient, (N,)."""

    def scores(self, candidates: Sequence[Candidate]) -> list[float]:
        """Of mixtures, in their order."""

    def scores_between(self, start: Tensor, end: Tensor, shares: Sequence[float]) -> list[float]:
        """Of share * start + (1 - share) * end, alphas (1, N)."""

    def metric(self, reached: float) -> float:
        """The metric of a score."""

    def bar(self, total: int, title: str) -> Bar:
        """Progress of the method."""


class LossContext(Protocol):
    """What the fit of learned methods uses; a `SoupContext` is one."""

    seed: int
    comm: Comm

    @property
    def ids(self) -> tuple[int, ...]:
        """Of the ingredients, (N,)."""

    @property
    def size(self) -> int:
        """N."""

    def groups(self, by: Grouping) -> tuple[str, ...]:
        """Names of the groups that share one alpha vector, (G,)."""

    def loss_and_gradient(
        self, alpha_GN: Tensor, by: Grouping, batch: Any, fit_scale: bool = False, holdout: Tensor | None = None
    ) -> LossResult:
        """Loss of a mixture on a batch, and its gradient in alpha."""

    def trace(self, number: int, alpha: Tensor, /) -> None:
        """Gets alpha (G, N) after each step."""

    def bar(self, total: int, title: str) -> Bar:
        """Progress of the method."""


class SoupContext:
    """One method's context on this rank; it counts forward and backward passes and books the time of reading.

    size: N; ids: of the ingredients, (N,); parts: K; comm: the ranks that run the method together; device: where alpha
    is; task: what loss and metric mean. trace: gets alpha (G, N) after each step of a learned method. job: whose
    checkpoints are kept of what takes long, under the name `work`; None: there are none. spent: what a method cost that
    may have begun before this command; else None.
    """

    spent: Measurement | None = None

    def __init__(
        self,
        mixtures: Mixtures,
        seed: int,
        log: Log,
        trace: Trace = lambda number, alpha: None,
        job: Job | None = None,
        work: str = "distil",
    ) -> None:
        self._mixtures, self._log, self._job, self._work = mixtures, log, job, work
        self.seed, self.trace = seed, trace
        self.ids, self.size, self.parts = mixtures.ids, len(mixtures.ids), mixtures.graph.parts
        self.comm, self.device = mixtures.comm, mixtures.device
        self.task, self._engine = mixtures.evaluator.task, mixtures.evaluator.engine
        # Ranks compute on a batch together where the engine can; else rank 0 alone does.
        self._takes_part = self.comm.rank == 0 or self._engine.divides
        self._division = Division(self.comm) if self.comm.size > 1 and self._engine.divides else None
        self.counts = dict.fromkeys(COUNTS, 0)

    def groups(self, by: Grouping) -> tuple[str, ...]:
        """Names of the groups of parameters that share one alpha vector, (G,)."""
        return tuple(self._mixtures.matrix.groups(by))

    def scores(self, candidates: Sequence[Candidate]) -> list[float]:
        """Exact validation scores of mixtures on the whole graph, in their order. Rank-collective.

        A score is the task's metric, negative where a low one is good: a high score is good.
        """
        passes = [int((each.alpha[0] != 0).sum()) if each.of == "predictions" else 1 for each in candidates]
        self.counts["forward_whole"] += sum(passes)
        return [score(self.task, metric) for metric in self._mixtures.metrics(candidates)]

    def scores_between(self, start: Tensor, end: Tensor, shares: Sequence[float]) -> list[float]:
        """Exact validation scores of share * start + (1 - share) * end, alphas (1, N). Rank-collective."""
        self.counts["forward_whole"] += len(shares)
        return [score(self.task, metric) for metric in self._mixtures.metrics_between(start, end, shares)]

    def score_each(self) -> list[float]:
        """Validation score of every ingredient, (N,). Rank-collective."""
        return self.scores([Candidate(row[None]) for row in torch.eye(self.size, dtype=torch.float64)])

    def metric(self, reached: float) -> float:
        """The task's metric of a score, as histories and people have it."""
        return score(self.task, reached)

    @contextmanager
    def batches(
        self, parts: int | None = None, steps: int | None = None, prefetch: bool = True, exact: bool = False
    ) -> Iterator[Iterator[Plan | None]]:
        """Yield a stream of batches: of the whole graph for ever, or each of `parts` random parts, `steps` of them.

        Each is this rank's share where ranks compute on a batch together; else rank 0 alone has any, others None. It
        may use the memory of the one before, so only one is kept. With `prefetch`, a thread reads the next one
        meanwhile. With `exact`, the first aggregation is the whole graph's. Time is booked on "graph" while the
        consumer waits.
        """
        if exact and self.comm.rank == 0:  # is made where it is not there
            with self._mixtures.meter.phase("graph"), self._open_first_aggregation():
                pass
        if exact:
            self.comm.bcast(None)
        if not self._takes_part:
            yield repeat(None) if steps is None else repeat(None, steps)
            return
        plan, divided = self._mixtures.evaluator.plan, self._division is not None
        whole = (plan((Role.VALIDATION,), divided) for _ in repeat(None))
        with closing(whole if parts is None else self._unions(parts, steps, prefetch, exact)) as stream:
            yield self._timed(stream)

    def _unions(self, parts: int, steps: int | None, prefetch: bool, exact: bool) -> Generator[Plan]:
        mixtures, device, graph = self._mixtures, self._mixtures.device, self._mixtures.graph
        plan = partial(
            self._engine.plan,
            mixtures.model,
            device=device,
            precision=mixtures.settings.precision,
            division=self._division,
            workspace=BufferPool(),  # of one union after the other
        )

        def ready(batch: Batch) -> Plan:
            made = plan(batch)
            self._engine.expect_gradients(made)
            return made

        with ExitStack() as stack:
            hop = stack.enter_context(self._open_first_aggregation()) if exact else None
            where, source = mixtures.evaluator.hold(Role.VALIDATION, hop)
            if source is not None:
                self._log.say(f"soup: unions are cut out of {where}")
            draws = loader.draw_unions(graph.validation_counts, parts, numpy_generator(self.seed, 1))
            drawn = islice(draws, steps)
            made = loader.stream_unions(graph, drawn, Role.VALIDATION, ready, prefetch, hop, device, source)
            yield from stack.enter_context(closing(made))

    def _open_first_aggregation(self) -> AbstractContextManager[FirstAggregationFile]:
        mixtures, model = self._mixtures, self._mixtures.model
        if not isinstance(model, LayeredModel) or model.aggregation is None:
            raise ValueError(f"a model of kind {model.kind!r} has no first aggregation")
        path, memory = mixtures.run.first_hop(model.aggregation.name), mixtures.settings.memory
        return first_aggregation.open_first_aggregation(
            mixtures.graph, model.aggregation, path, lambda line: self._log.say(f"soup: {line}"), memory
        )

    def _timed(self, stream: Iterator[Plan]) -> Iterator[Plan]:
        """One after the other; each is kept under no name, or its memory could not be used again."""
        while True:
            with self._mixtures.meter.phase("graph"):
                batch = list(islice(stream, 1))
            if not batch:
                return
            yield batch.pop()

    def hold_out(self, share: float, where: str, parts: int | None = None) -> Iterator[Tensor | None]:
        """A mask (n,) of held-out validation nodes for each batch of `batches(parts)`; or None.

        Of every part's n nodes floor(share n), by the seed, so that each part keeps some to fit on.
        Raises: JobError where that is none of all; `where` names the option.
        """
        if not share:
            return repeat(None)
        counts = self._mixtures.graph.validation_counts
        if not (counts * share >= 1.0).any():
            raise JobError(
                f"{where} = {share} keeps out none of the {counts.max()} or fewer validation nodes of each part:"
                " choose a larger share, or 0 for none"
            )
        masks = [torch.zeros(count, dtype=torch.bool) for count in counts.tolist()]
        for part, mask in enumerate(masks):
            order = numpy_generator(self.seed, 2, part).permutation(len(mask))
            mask[order[: int(share * len(mask))]] = True
        masks = [mask.to(self.device) for mask in masks]
        if parts is None:
            return repeat(torch.cat(masks))
        drawn = loader.draw_unions(counts, parts, numpy_generator(self.seed, 1))
        return (torch.cat([masks[part] for part in chosen]) for chosen in drawn)

    def loss_and_gradient(
        self, alpha_GN: Tensor, by: Grouping, batch: Plan | None, fit_scale: bool = False, holdout: Tensor | None = None
    ) -> LossResult:
        """Loss of a mixture on a batch's validation nodes, its gradient in alpha, and the metric. Rank-collective.

        fit_scale: of logits at the temperature with the lowest loss. Nodes of the mask `holdout` (n,) have no part in
        the gradient; their own loss is given beside it.
        """
        divided = self._division is not None
        with nullcontext() if divided else self._mixtures.settings.threads.alone():
            found = None if batch is None else self._compute(alpha_GN, by, batch, fit_scale, holdout)
        found = found if divided else self.comm.bcast(found)
        if found is None:
            raise ValueError("a batch that no rank computes on")
        return found

    def _compute(
        self, alpha_GN: Tensor, by: Grouping, plan: Plan, fit_scale: bool, holdout: Tensor | None
    ) -> LossResult:
        task, targets, comm = self.task, plan.targets, self.comm
        logits, vjp = self._engine.vjp(plan, self._mixtures.mix(alpha_GN, by))
        if self._division is not None:
            logits = torch.cat(comm.allgather(logits))
        leaf = logits.requires_grad_()
        fit, fit_targets = (leaf, targets) if holdout is None else (leaf[~holdout], targets[~holdout])
        scale = task.fit_scale(fit, fit_targets) if fit_scale else 1.0
        loss = task.loss(fit, fit_targets, scale=scale)
        held_out = torch.full_like(loss, torch.nan)
        if holdout is not None:
            held_out = task.loss(leaf.detach()[holdout], targets[holdout], scale=scale)
        for kind in ("forward", "backward"):
            self.counts[f"{kind}_{'whole' if plan.size == self._mixtures.graph.nodes else 'union'}"] += 1
        (grad,) = torch.autograd.grad(loss, leaf)
        gradient = mixing.gradient(self._mixtures.matrix, vjp(grad[slice(*plan.local)].contiguous()), by)
        loss, held_out, gradient, predicted = _read(loss, held_out, gradient, task.predict(leaf.detach()))
        metric = task.metric(predicted.numpy(), plan.host_targets)
        if self._division is not None:
            gradient = torch.from_numpy(comm.sum_in_order(gradient.numpy()))
        return LossResult(float(loss), gradient.to(alpha_GN), metric, float(held_out))

    def distil(self, options: DistilJob) -> tuple[State, tuple[Step, ...]]:
        """A model that was trained to give all ingredients' mean outputs, and its epochs. Rank-collective.

        Raises: DivergedError.
        """
        mixtures, start = self._mixtures, None
        if options.start == "uniform":
            start = mixtures.state(Candidate(torch.full((1, self.size), 1.0 / self.size, dtype=torch.float64)))
        elif options.start_method:
            start = self._read_soup(options.start_method)
        labels = self._job.train.labels if self._job else "training"
        work = Distillation(mixtures, options, self.seed, self._timed, self._log, self._job, self._work, labels)
        state, steps, self.spent = work.run(start)
        self.counts |= work.count_passes(len(steps))
        return state, steps

    def _read_soup(self, method: str) -> State:
        """The weights of another method's soup, from the run. Rank-collective."""
        with self._mixtures.meter.phase("ingredients"):
            path, rank0 = self._mixtures.run.soup(method), self.comm.rank == 0
            state = self.comm.bcast(soup_store.read_state(path) if rank0 else {})
        return {name: tensor.to(self.device) for name, tensor in state.items()}

    def bar(self, total: int, title: str) -> Bar:
        """Progress of the method."""
        return self._log.bar(total, title)


def _read(*found: Tensor) -> Sequence[Tensor]:
    """The same on the host, by one copy, for which a GPU is waited for once."""
    if found[0].device.type == "cpu":
        return [each.detach() for each in found]
    flat = torch.cat([each.detach().double().flatten() for each in found]).cpu()
    ends = list(accumulate(each.numel() for each in found))
    pieces = [flat[end - each.numel() : end] for each, end in zip(found, ends, strict=True)]
    return [piece.view(each.shape).to(each.dtype) for piece, each in zip(pieces, found, strict=True)]
