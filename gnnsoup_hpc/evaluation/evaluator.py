"""Exact accuracies of given weights: on the whole graph in memory where it fits, else layer by layer.

Both ways give the same predictions, and so the same accuracies, but where two scores are equal to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from gnnsoup_hpc import engine
from gnnsoup_hpc.data import loader
from gnnsoup_hpc.data.sources.ogb import catalogue
from gnnsoup_hpc.engine import Ready
from gnnsoup_hpc.engine.compiled.plan import Plan
from gnnsoup_hpc.engine.out_of_core import Layerwise, make_layerwise
from gnnsoup_hpc.engine.sharding import NodeShare
from gnnsoup_hpc.graph.subgraph import Batch
from gnnsoup_hpc.io import files
from gnnsoup_hpc.io.graph import GraphFile
from gnnsoup_hpc.io.records import EvalResult
from gnnsoup_hpc.memory import estimate
from gnnsoup_hpc.memory.estimate import Sizes
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.types import BoolArray, IntArray, Precision, Role, State

NO_CLASS = -1  # predicted where scores are not finite


@dataclass(frozen=True)
class Predictions:
    """Accuracy on some nodes, and which of them are right, (n,); none is where a score is not finite."""

    accuracy: float
    right: BoolArray


@torch.no_grad()
def logits(architecture: Architecture, state: State, view: Batch) -> Tensor:
    """Class scores of the view's nodes, (n, C)."""
    return architecture.forward(state, view.graph)[view.nodes]


def accuracy(scores_nC: Tensor, labels_n: Tensor) -> float:
    """Share of nodes whose highest score is their label's; the first of equal scores counts.

    Scores that are not finite are no prediction: such a model is right nowhere.
    """
    classes = predict(scores_nC)
    return 0.0 if bool((classes == NO_CLASS).any()) else int((classes == labels_n).sum()) / len(labels_n)


def of_weights(architecture: Architecture, state: State, view: Batch) -> float:
    """Accuracy of one model on a view's nodes."""
    return accuracy(logits(architecture, state, view), view.labels)


def of_ensemble(architecture: Architecture, states: Iterable[State], view: Batch) -> float:
    """Accuracy of the mean of the models' softmax outputs; one model at a time on the graph."""
    return accuracy(_mean_output(architecture, states, view), view.labels)


class Evaluator:
    """Exact accuracies of models of one architecture on one graph.

    `memory` bounds what the graph and hidden states may fill, in bytes; `home` is the run's folder, which takes what
    must spill. Of OGB's sets the accuracy is their own Evaluator's.
    """

    def __init__(
        self,
        graph: GraphFile,
        architecture: Architecture,
        memory: int,
        home: Path,
        device: torch.device,
        precision: Precision = "float32",
    ) -> None:
        self._graph = graph
        self._net = architecture
        self._memory = memory
        self._home = home
        self._device = device
        sizes = Sizes.of(graph, architecture, device.type == "cuda")
        self._fits = estimate.inference(sizes) <= memory
        self._line_fits = estimate.inference(sizes, line=True) <= memory
        self._precision = precision
        self._whole: Batch | None = None
        self._ready: tuple[tuple[Role, ...], Ready] | None = None

    @property
    def fits(self) -> bool:
        """Whether the whole graph is held in memory."""
        return self._fits

    def warm_up(self) -> None:
        """Load what tells accuracies: ogb's Evaluator, for its sets."""
        self._score(np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64))

    def forget(self) -> None:
        """Give the graph back."""
        self._ready = None

    def keep(self, whole: Batch) -> None:
        """Use a view of the whole graph that is in memory already."""
        self._whole = whole

    def ready(self, roles: Sequence[Role]) -> Ready:
        """What scores of all nodes of some roles are computed on, in memory; kept until others are asked for."""
        if self._ready is None or self._ready[0] != tuple(roles):
            self._ready = None  # before the next one is built
            nodes = self._nodes(roles)
            whole = self._whole or loader.load_whole(self._graph, Role.VALIDATION).to(self._device)
            labels = torch.from_numpy(self._graph.y(0, self._graph.nodes)[nodes])
            view = Batch(whole.graph, torch.from_numpy(nodes), labels).to(self._device)
            self._ready = tuple(roles), engine.plan_batch(self._net, view, precision=self._precision)
        return self._ready[1]

    def accuracies(self, state: State, roles: Sequence[Role]) -> list[float]:
        """Accuracy of one model on the nodes of each role."""
        return self.ensemble_accuracies([state], roles)

    def line_accuracies(
        self, ends: tuple[State, State], between: Iterable[tuple[float, State]], role: Role
    ) -> list[float]:
        """Accuracies of states share * ends[0] + (1 - share) * ends[1], each given with its share.

        Where the graph is in memory, what is linear in the share is computed once for all of them.
        """
        ready = self.ready((role,)) if self._line_fits else None
        if not isinstance(ready, Plan):
            return [self.accuracies(state, (role,))[0] for _, state in between]
        labels = ready.labels.numpy()
        line = engine.LinearInterpolator.between(self._net, *ends, ready)
        found = [self._score(predict(line.scores(self._net, state, share)).numpy(), labels) for share, state in between]
        line.close()
        return found

    def ensemble_accuracies(self, states: Sequence[State], roles: Sequence[Role]) -> list[float]:
        """Accuracy of the mean of the models' softmax outputs, one model at a time on the graph."""
        return [marks.accuracy for marks in self.marks(states, roles)]

    def marks(self, states: Sequence[State], roles: Sequence[Role]) -> list[Predictions]:
        """The same, node by node: the nodes of each role, rising."""
        nodes = self._nodes(roles)
        classes = np.empty(len(nodes), dtype=np.int64)
        for first, scores in self._scores(states, nodes, roles):
            classes[first : first + len(scores)] = predict(scores).cpu().numpy()
        return self.marked(classes, roles)

    def marked(self, classes: IntArray, roles: Sequence[Role]) -> list[Predictions]:
        """What predicted classes of all nodes of some roles, rising, (n,), are worth on each role's."""
        nodes = self._nodes(roles)
        roles_of, labels = self._graph.role(0, self._graph.nodes)[nodes], self._graph.y(0, self._graph.nodes)[nodes]
        return [self._marked(classes[roles_of == role], labels[roles_of == role]) for role in roles]

    def shard(self, roles: Sequence[Role], split: NodeShare) -> Ready:
        """What scores of a rank's own share of the same nodes are computed on; other features are not even read."""
        nodes = self._nodes(roles)
        labels = torch.from_numpy(self._graph.y(0, self._graph.nodes)[nodes])
        view = Batch(loader.load_structure(self._graph, range(self._graph.parts)), torch.from_numpy(nodes), labels)
        return engine.plan_batch(self._net, view, None, self._precision, split, self._graph.x_of)

    def judged(self, state: State, role: Role) -> EvalResult:
        """Accuracy and mean cross-entropy in nats of one model on the nodes of a role.

        The sum runs in float64 over nodes in their order, so it depends on no block and no thread.
        """
        nodes = self._nodes((role,))
        labels = self._graph.y(0, self._graph.nodes)[nodes]
        classes, losses = np.empty(len(nodes), dtype=np.int64), np.empty(len(nodes))
        for first, scores in self._scores([state], nodes, (role,)):
            span = slice(first, first + len(scores))
            classes[span] = predict(scores).cpu().numpy()
            losses[span] = functional.cross_entropy(
                scores.double().cpu(), torch.from_numpy(labels[span]), reduction="none"
            ).numpy()
        return EvalResult(self._score(classes, labels), float(losses.mean()))

    def _nodes(self, roles: Sequence[Role]) -> IntArray:
        """The nodes of some roles, rising."""
        return np.flatnonzero(np.isin(self._graph.role(0, self._graph.nodes), [int(role) for role in roles]))

    def _score(self, classes: IntArray, labels: IntArray) -> float:
        if (classes == NO_CLASS).any():
            return 0.0
        kind, _, name = self._graph.source.partition(":")
        if kind == "ogb":
            return catalogue.accuracy(name, classes, labels)
        return int((classes == labels).sum()) / len(labels)

    def _marked(self, classes: IntArray, labels: IntArray) -> Predictions:
        finite = not (classes == NO_CLASS).any()
        return Predictions(self._score(classes, labels), (classes == labels) & finite)

    def _scores(self, states: Sequence[State], nodes: IntArray, roles: Sequence[Role]) -> Iterator[tuple[int, Tensor]]:
        """(place among `nodes`, scores from there on); of several models, a multiple of their mean output."""
        in_memory = self._whole is not None or (self._ready is not None and self._ready[0] == tuple(roles))
        if in_memory or self.fits:
            yield 0, _all_at_once(self._net, states, self.ready(roles))
            return
        with files.scratch(self._home / "hidden") as folder:
            left = max(1, self._memory - estimate.EVALUATED_NODE * self._graph.nodes)
            ways = make_layerwise(self._graph, self._net, left, folder, self._device, nodes)
            yield from _layer_by_layer(self._net, states, len(nodes), ways)


@torch.no_grad()
def _all_at_once(net: Architecture, states: Sequence[State], ready: Ready) -> Tensor:
    return engine.compute_logits(net, states[0], ready) if len(states) == 1 else _mean_output(net, states, ready)


@torch.no_grad()
def _mean_output(net: Architecture, states: Iterable[State], ready: Ready) -> Tensor:
    """Sum of softmax outputs, (n, C): a multiple of their mean."""
    total = torch.zeros(len(ready.labels), net.classes, device=ready.labels.device)
    for state in states:
        total += engine.compute_logits(net, state, ready).softmax(1)
    return total


def _layer_by_layer(
    net: Architecture, states: Sequence[State], count: int, ways: Layerwise
) -> Iterator[tuple[int, Tensor]]:
    """The same, block by block; sums of softmax outputs spill like hidden states."""
    total = ways.space("total", count, net.classes) if len(states) > 1 else None
    for number, state in enumerate(states, 1):
        for first, scores in ways.scores(state):
            if total is not None:
                scores = scores.softmax(1)
                span = np.arange(first, first + len(scores))
                scores = scores if number == 1 else torch.from_numpy(total.take(span)).to(scores.device) + scores
                total.write(first, scores.cpu().numpy())
            if number == len(states):
                yield first, scores


def predict(scores_nC: Tensor) -> Tensor:
    """The class of the highest score, (n,); NO_CLASS where scores are not finite."""
    finite = torch.isfinite(scores_nC).all(1)
    return torch.where(finite, scores_nC.argmax(1), NO_CLASS)
