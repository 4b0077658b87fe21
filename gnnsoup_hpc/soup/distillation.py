"""Distillation: one model is trained to give what all ingredients give together, on unions of parts streamed as in PLS.

The mean outputs of all ingredients on all nodes are computed once, exactly, into a file of the run, from which a step
reads the rows of its own union; so memory holds a union, the next one as it is read, and no output of any other node.
Training itself is that of ingredients (train/loop.py).

Sources: Hinton, Vinyals, Dean, arXiv 1503.02531; of graphs: Yang, Liu, Shi, WWW 2021, arXiv 2103.02885, who distil into
students of another kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import repeat

import numpy as np
import torch
from torch import Tensor

from gnnsoup_hpc.config import DistilJob, Job
from gnnsoup_hpc.config.turns import Hyperparameters
from gnnsoup_hpc.data.loader import Roles
from gnnsoup_hpc.engine import Division, Plan
from gnnsoup_hpc.engine.memory import FLOAT
from gnnsoup_hpc.engine.threads import Span
from gnnsoup_hpc.errors import DivergedError, MissingFileError, RunError
from gnnsoup_hpc.io import states
from gnnsoup_hpc.io import teacher as teacher_store
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.io.ingredient import BestEpoch, Origin
from gnnsoup_hpc.io.records import Step
from gnnsoup_hpc.io.teacher import TeacherFile, TeacherRecipe
from gnnsoup_hpc.models.base import Dropout
from gnnsoup_hpc.runtime.comm import Comm
from gnnsoup_hpc.runtime.profiling import Measurement
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.soup.mixtures import Mixtures
from gnnsoup_hpc.train.batches import Edit, PartValidation
from gnnsoup_hpc.train.checkpointing import CheckpointManager, SharedCheckpoints
from gnnsoup_hpc.train.loop import TrainData, Training
from gnnsoup_hpc.types import TRAINED_ROLES, Doubles, FloatArray, Labels, Role, State
from gnnsoup_hpc.utils.out_of_core import BufferPool, blocks
from gnnsoup_hpc.utils.rng import DISTIL, derive_seed

# ---- what is imitated


@contextmanager
def open_teacher(mixtures: Mixtures, temperature: float) -> Iterator[TeacherFile]:
    """Yield the mean outputs of all ingredients, which are made where they are not there. Rank-collective.

    Each rank computes some ingredients' outputs, each into a file of its own, so that what is done stays done; they
    are removed once their mean is there, which does not depend on the number of ranks. Another command that makes the
    same may remove them first: then their mean is there.
    Raises: RunError where there is no room for them, or an output is not finite.
    """
    run, comm, ids = mixtures.run, mixtures.comm, mixtures.ids
    recipe = _make_recipe(mixtures, temperature)
    path = run.teacher(temperature)
    while not comm.bcast(comm.rank == 0 and teacher_store.is_there(path, recipe)):
        for index in ids[comm.rank :: comm.size]:
            _write_outputs(mixtures, index, recipe)
        comm.allgather(None)
        if comm.rank == 0:
            with suppress(MissingFileError):
                _merge(mixtures, recipe)
    if comm.rank == 0:
        _remove_outputs(mixtures.run, recipe)
    with teacher_store.open_file(path, recipe) as teacher:
        yield teacher


def _make_recipe(mixtures: Mixtures, temperature: float) -> TeacherRecipe:
    graph, engine = mixtures.graph, mixtures.evaluator.engine
    return TeacherRecipe(
        graph_sha256=graph.sha256,
        part_sha256=str(graph.cut["part_sha256"]),
        ingredients={f"{index:04d}": states.sha256(mixtures.ingredient(index)) for index in mixtures.ids},
        kind=type(mixtures.evaluator.task).__name__.lower(),
        temperature=temperature,
        engine=engine.name,
    )


def _write_outputs(mixtures: Mixtures, index: int, recipe: TeacherRecipe) -> None:
    """An ingredient's outputs, unless they are there."""
    name = f"{index:04d}"
    path, own = mixtures.run.outputs(name, recipe.temperature), recipe.of(name)
    if not teacher_store.is_there(path, own):
        outputs = _compute_outputs(mixtures, index, recipe.temperature)
        teacher_store.write(path, own, mixtures.graph, mixtures.model.outputs, outputs)


def _compute_outputs(mixtures: Mixtures, index: int, temperature: float) -> Iterator[tuple[int, FloatArray]]:
    """An ingredient's outputs, softened by the temperature, block after block.

    Raises: RunError where one is not finite.
    """
    evaluator, state = mixtures.evaluator, mixtures.ingredient(index)
    for first, logits in evaluator.outputs([state]):
        if not bool(logits.isfinite().all()):
            raise RunError(
                f"ingredient {index:04d} has outputs that are not finite, which nothing can imitate: leave it out"
                f" (--set soup.leave_out = [{index}])"
            )
        yield first, evaluator.task.average(logits / temperature).cpu().numpy()


def _merge(mixtures: Mixtures, recipe: TeacherRecipe) -> None:
    """The mean of all ingredients' outputs, in their order, in float64."""
    run, width, at = mixtures.run, mixtures.model.outputs, recipe.temperature
    with ExitStack() as stack:
        each = [
            stack.enter_context(teacher_store.open_file(run.outputs(name, at), recipe.of(name), verify=False))
            for name in recipe.ingredients
        ]
        means = _average(each, mixtures.graph.nodes, width)
        teacher_store.write(run.teacher(at), recipe, mixtures.graph, width, means)


def _remove_outputs(run: RunDir, recipe: TeacherRecipe) -> None:
    """Those of single ingredients; what another command makes there stays."""
    with suppress(OSError):
        for name in recipe.ingredients:
            run.outputs(name, recipe.temperature).unlink(missing_ok=True)
        run.outputs("", recipe.temperature).parent.rmdir()


def _average(each: Sequence[TeacherFile], nodes: int, width: int) -> Iterator[tuple[int, FloatArray]]:
    for span in blocks(nodes, len(each) * width * FLOAT):
        mean: Doubles = np.mean([one.read(span.start, span.stop) for one in each], 0, dtype=np.float64)
        yield span.start, mean.astype(np.float32)


# ---- what is trained on


@dataclass(frozen=True)
class TeacherBatches(PartValidation):
    """Unions of random parts, of which all nodes are seeds; an epoch goes once over all parts.

    Targets are (n, C + T): the teacher's outputs, and labels, NaN but of nodes of `role`. A rank that does not compute
    has as many batches, with nothing in them.
    """

    teacher: TeacherFile
    computes: bool = field(default=True, kw_only=True)
    role: Roles = field(default=Role.TRAIN, kw_only=True)
    timed: Callable[[Iterator[Plan]], Iterator[Plan]] = field(kw_only=True)

    def epoch(self, generator: np.random.Generator, edit: Edit | None = None) -> Iterator[Plan | None]:
        """Unions in random order."""
        order, counts = generator.permutation(self.graph.parts), np.diff(self.graph.ptr)
        if not self.computes:
            return repeat(None, -(-self.graph.parts // self.clusters))
        return self.timed(self._unions(order, counts, self._find_seeds, edit))

    def draw_bag(self, share: float, key: int) -> TeacherBatches:
        """There is none: outputs of all nodes are imitated. Raises: ValueError."""
        raise ValueError("a bag of nodes of which all are imitated")

    def _find_seeds(self, graph: GraphFile, runs: Sequence[Span]) -> tuple[Tensor, Tensor]:
        pieces = []
        for start, stop in runs:
            own = torch.from_numpy(graph.y(start, stop)).float().view(stop - start, -1)
            trained = torch.from_numpy(np.isin(graph.role(start, stop), self.role))
            own[~trained] = torch.nan
            pieces.append(torch.cat([torch.from_numpy(self.teacher.read(start, stop)), own], 1))
        targets = torch.cat(pieces)
        return torch.arange(len(targets)), targets


@dataclass(frozen=True)
class DistilData(TrainData):
    """As for training, but the loss is the distance to the teacher's outputs, and ranks compute each step together."""

    options: DistilJob
    comm: Comm

    def differentiate(self, plan: Plan | None, state: State, dropout: Dropout) -> tuple[float, int]:
        """As `TrainData.differentiate`, at rank 0's state, so that unlike processors cannot drift apart."""
        for tensor in state.values() if self.comm.size > 1 else ():
            tensor.data.copy_(self.comm.bcast(tensor.detach().cpu()))
        names = [name for name, tensor in state.items() if tensor.requires_grad]
        found = None if plan is None else self._compute(plan, state, dropout)
        divided = self.engine.divides
        found = found if divided else self.comm.bcast(found)
        if found is None:
            raise ValueError("a batch that no rank computes on")
        loss, nodes, grads = found
        if divided and self.comm.size > 1:
            flat = np.concatenate([[loss], *(grads[name].numpy().ravel() for name in names)])
            summed = torch.from_numpy(self.comm.sum_in_order(flat))
            pieces = torch.split(summed[1:], [grads[name].numel() for name in names])
            loss, grads = float(summed[0]), {n: piece.view_as(grads[n]) for n, piece in zip(names, pieces, strict=True)}
        for name in names:
            state[name].grad = grads[name].to(state[name])
        return loss, nodes

    def _compute(self, plan: Plan, state: State, dropout: Dropout) -> tuple[float, int, Mapping[str, Tensor]]:
        """This rank's share of the loss and of its gradient, and the number of all nodes."""
        logits, vjp = self.engine.vjp(plan, state, mode="train", dropout=dropout)
        leaf = logits.detach().requires_grad_()
        loss = self._share_of_loss(leaf, plan)
        (grad,) = torch.autograd.grad(loss, leaf)
        grads = vjp(grad.contiguous())
        if self.comm.size > 1:  # who sends them to the others
            grads = {name: gradient.cpu() for name, gradient in grads.items()}
        return float(loss.detach()), len(plan.targets), grads

    def _share_of_loss(self, logits: Tensor, plan: Plan) -> Tensor:
        """What this rank's nodes add to the mean over all of the union."""
        task, share, width = self.evaluator.task, self.options.label_share, self.model.outputs
        targets = plan.targets[slice(*plan.local)]
        total = logits.sum() * 0.0
        if len(targets):
            away = task.imitation_loss(logits, targets[:, :width], self.options.temperature)
            total = total + (1.0 - share) * away * (len(targets) / len(plan.targets))
        if not share:
            return total
        known, count = (~each[:, width:].isnan().all(1) for each in (targets, plan.targets))
        if bool(known.any()):
            own = task.loss(logits[known], task.unpack(targets[known, width:]), train=True)
            total = total + share * own * (int(known.sum()) / int(count.sum()))
        return total

    @torch.no_grad()
    def validate(self, state: Mapping[str, Tensor]) -> float:
        """As `TrainData.validate`."""
        task, comm = self.evaluator.task, self.comm
        divided = self.engine.divides
        computes = divided or comm.rank == 0
        predicted, targets = [], []
        for plan in self.batches.validation() if computes else ():
            predicted.append(task.predict(self.engine.logits(plan, state)).cpu().numpy())
            targets.append(plan.targets.cpu().numpy())
        if divided:
            predicted = [piece for union in zip(*comm.allgather(predicted), strict=True) for piece in union]
        reached = task.metric(np.concatenate(predicted), np.concatenate(targets)) if computes else 0.0
        return comm.bcast(reached)


# ---- the course


@dataclass(frozen=True)
class Distillation:
    """What a model is distilled with. timed: a stream of batches whose reading is booked.

    job: whose checkpoints are kept, under the name `work`; None: there are none. labels: "all": those of validation
    nodes are trained on too, so no epoch is chosen by them, and the last is kept.
    """

    mixtures: Mixtures
    options: DistilJob
    seed: int
    timed: Callable[[Iterator[Plan]], Iterator[Plan]]
    log: Log
    job: Job | None = None
    work: str = "distil"
    labels: Labels = "training"

    def run(self, start: State | None) -> tuple[State, tuple[Step, ...], Measurement]:
        """The state of the best validation epoch, or the last; each epoch, and what all cost, before a checkpoint too.

        start: which counts as epoch 0; None: from scratch. Rank-collective. Raises: DivergedError; Preempted.
        """
        options, mixtures = self.options, self.mixtures
        how = Hyperparameters(
            epochs=options.epochs,
            learning_rate=options.learning_rate,
            weight_decay=options.weight_decay,
            dropout=options.dropout,
            schedule=options.schedule,
            patience=options.patience,
            labels=self.labels,
        )
        with open_teacher(mixtures, options.temperature) as teacher, self.log.stop.later():
            data = self._prepare(teacher)
            first = mixtures.model.init_state(derive_seed(self.seed, DISTIL)) if start is None else start
            training = Training(data, first, how, self.seed, DISTIL)
            if start is not None and self.labels == "training":
                training.best = BestEpoch(0, data.validate(start), start)
            checkpoints, bar = self._keep_checkpoints(how, first), self.log.bar(how.epochs, "distil")
            diverged, spent = training.run_within(mixtures.meter, bar, checkpoints)
        bar.close()
        if training.best is None:
            raise DivergedError(f"distil {diverged}: lower soup.distil.learning_rate = {options.learning_rate:g}")
        steps = [
            Step(each.epoch, each.loss, each.validation_accuracy, how.compute_rate(each.epoch), each.seconds)
            for each in training.history
        ]
        return training.best.state, tuple(steps), spent

    def count_passes(self, epochs: int) -> dict[str, int]:
        """Passes that so many epochs take, in this command or before: the teacher's, of steps, to judge each epoch."""
        graph, size = self.mixtures.graph, self.options.union
        firsts = np.arange(0, graph.parts, size)
        judged = int((np.add.reduceat(graph.validation_counts, firsts) > 0).sum())
        kind, begins = "whole" if size == graph.parts else "union", self.options.start != "scratch"
        validations = epochs + begins if self.labels == "training" else 1
        passes = {f"forward_{kind}": epochs * len(firsts) + validations * judged}
        passes |= {f"backward_{kind}": epochs * len(firsts)}
        return passes | {"forward_whole": passes.get("forward_whole", 0) + len(self.mixtures.ids)}

    def _keep_checkpoints(self, how: Hyperparameters, first: State) -> SharedCheckpoints | None:
        mixtures, comm = self.mixtures, self.mixtures.comm
        if self.job is None:
            return None
        if comm.rank > 0:
            return SharedCheckpoints(None, comm, self.log)
        teacher = _make_recipe(mixtures, self.options.temperature)
        origin = Origin(
            graph_sha256=mixtures.graph.sha256,
            initial_sha256=states.sha256(first),
            architecture=mixtures.model,
            batch="distil",
            seed=self.seed,
            index=DISTIL,
            hyperparameters=how,
            batches={f"soup.distil.{name}": value for name, value in self.options.model_dump(mode="json").items()}
            | {"teacher": teacher.sha256, "soup.precision": mixtures.settings.precision},
            engine=mixtures.evaluator.engine.name,
            task=mixtures.graph.resolve_task(self.job.task).values,
        )
        where = {"ranks": comm.size, "threads": torch.get_num_threads(), "device": str(mixtures.device)}
        path = mixtures.run.checkpoint(self.work)
        manager = CheckpointManager(path, "distil", origin, self.job, None, self.log, where, "soup")
        return SharedCheckpoints(manager, comm, self.log)

    def _prepare(self, teacher: TeacherFile) -> DistilData:
        mixtures, evaluator, comm = self.mixtures, self.mixtures.evaluator, self.mixtures.comm
        engine, device = evaluator.engine, mixtures.device
        plan = partial(
            engine.plan,
            mixtures.model,
            train=True,
            device=device,
            precision=mixtures.settings.precision,
            division=Division(comm) if engine.divides and comm.size > 1 else None,
            workspace=BufferPool(),
        )
        computes = engine.divides or comm.rank == 0
        where = mixtures.graph, self.options.union, plan, teacher
        role = TRAINED_ROLES[self.labels]
        batches = TeacherBatches(*where, device=device, computes=computes, timed=self.timed, role=role)
        return DistilData(mixtures.model, engine, batches, evaluator, device, self.options, comm)
