"""The forward and the backward pass of GAT. Training keeps states, which become their gradients, and edge weights.

A chunk of rows goes through all of a layer block by block, and prepares what the next layer attends to while it is in
the core's cache. Inference keeps no states of a layer that the next one does not sum up.

Where ranks split the rows, each tells the others of its halo what it attends to and, on the way back, the gradients
of rows and the weights of entries that attend to theirs; every row and every column is summed up by one rank.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gnnsoup_hpc.engine.compiled.dense import choose_product
from gnnsoup_hpc.engine.compiled.gat.gradients import GatBackward, KeptNorm, sum_totals
from gnnsoup_hpc.engine.compiled.gat.layer import ROWS, GatLayer
from gnnsoup_hpc.engine.compiled.gat.plan import GatPlan
from gnnsoup_hpc.engine.compiled.kernels import rowwise
from gnnsoup_hpc.engine.compiled.threads import ThreadTeam, blocks
from gnnsoup_hpc.models.gnn import EPS
from gnnsoup_hpc.types import Dense


class GatForwardBackward:
    """One forward pass and, if `keep`, its backward pass.

    Ranks that share the batch exchange halo rows between layers: then both passes are rank-collective.
    """

    def __init__(self, plan: GatPlan, state: Mapping[str, Dense], keep: bool) -> None:
        self.net, self._plan, self._state, self._keep = plan.net, plan, state, keep
        self._layers: list[GatLayer] = []
        self._norms: list[KeptNorm] = []

    def forward(self) -> Dense:
        """Class scores of this rank's asked nodes, (n, C)."""
        with ThreadTeam() as team:
            self._layers.append(self._first(team))
            self._tell(self._layers[-1])
            for _ in range(self.net.layers - 1):
                self._layers.append(self._next(team, self._layers[-1]))
                self._tell(self._layers[-1])
                if not self._keep:
                    del self._layers[0]
            return self._scores(team, self._layers[-1])[slice(*self._plan.shard.own)]

    def _tell(self, layer: GatLayer) -> None:
        """Other ranks what their rows of a layer attend to; features they have."""
        seen = self._plan.seen(layer.number)
        self._plan.comm.exchange(layer.scores, seen)
        if layer.values is not None:
            self._plan.comm.exchange(layer.values.reshape(-1, len(layer.flat)), seen)
        elif layer.number:
            self._plan.comm.exchange(layer.states, seen)

    def _layer(self, number: int) -> GatLayer:
        return GatLayer(self.net, number, self._state, choose_product(self._plan.precision))

    def _first(self, team: ThreadTeam) -> GatLayer:
        layer = self._layer(0)
        layer.make_room(len(self._plan.x), states=False)
        layer.states = self._plan.x

        def chunk(start: int, stop: int) -> None:
            for first, end in blocks(start, stop, ROWS):
                layer.attend_to(first, layer.states[first:end])

        team.each(chunk, self._plan.shard.chunks(0))
        return layer

    def _next(self, team: ThreadTeam, own: GatLayer) -> GatLayer:
        """The layer after `own`, with what it attends to."""
        rows, width = self._plan.rows[own.number], self.net.hidden
        following = self._layer(own.number + 1)
        following.make_room(rows, states=self._keep or not following.by_value)
        self._make_room(own)

        def chunk(start: int, stop: int) -> None:
            sums, spare = own.room_for_sums(), own.empty(ROWS, width)
            for first, end in blocks(start, stop, ROWS):
                block = following.states[first:end] if len(following.states) else spare[: end - first]
                own.convolve(self._plan, first, sums, block.reshape(len(block), own.heads, -1))
                self._activate(own, first, block)
                following.attend_to(first, block)

        team.each(chunk, self._plan.shard.chunks(own.number + 1))
        return following

    def _scores(self, team: ThreadTeam, own: GatLayer) -> Dense:
        """Class scores, (rows, C): the mean of the heads."""
        self._make_room(own)
        out = own.empty(self._plan.rows[-1], own.channels)

        def chunk(start: int, stop: int) -> None:
            sums, room = own.room_for_sums(), own.empty(ROWS, own.heads, own.channels)
            for first, end in blocks(start, stop, ROWS):
                heads = room[: end - first]
                own.convolve(self._plan, first, sums, heads)
                np.mean(heads, 1, out=out[first:end])
                out[first:end] += own.bias

        team.each(chunk, self._plan.shard.chunks(self.net.layers))
        return out

    def _make_room(self, own: GatLayer) -> None:
        """For what the backward pass needs."""
        if not self._keep:
            return
        own.weights = own.empty(self._plan.count_entries(own.number), own.heads)
        if self.net.norm == "layer" and not own.last:
            rows = self._plan.rows[own.number]
            self._norms.append(
                KeptNorm(self._norm_of(own, "weight"), own.empty(rows, self.net.hidden), own.empty(rows))
            )

    def _norm_of(self, own: GatLayer, name: str) -> Dense:
        return self._state[f"norms.{own.number}.{name}"]

    def _activate(self, own: GatLayer, first: int, block: Dense) -> None:
        """Bias, layer norm where there is one, and ReLU, in place."""
        norm = self.net.norm == "layer"
        rowwise.finish(block, block[:0], own.bias, not norm)
        if norm:
            end = first + len(block)
            kept, scales = own.empty(0, 0), own.empty(0)
            if self._keep:
                kept, scales = self._norms[-1].states[first:end], self._norms[-1].scales[first:end]
            rowwise.normalise(block, self._norm_of(own, "weight"), self._norm_of(own, "bias"), EPS, kept, scales)

    def backward(self, grad: Dense) -> dict[str, Dense]:
        """Gradients of all parameters, float64, given that of the scores (n, C): what this rank's rows add to them."""
        grads: dict[str, Dense] = {}
        grad = self._spread(grad)
        with ThreadTeam() as team:
            while self._layers:
                own = self._layers.pop()
                norm = self._norms.pop() if own.number and self._norms else None
                grads |= self._back(team, own, grad, norm)
                grad = own.states
        return grads

    def _spread(self, grad: Dense) -> Dense:
        """The gradient of the scores, in the places of the last layer's rows."""
        start, stop = self._plan.shard.own
        if stop - start == self._plan.rows[-1]:
            return grad
        out = np.zeros((self._plan.rows[-1], grad.shape[1]), grad.dtype)  # others' are put in place when they come
        out[start:stop] = grad
        return out

    def _back(self, team: ThreadTeam, own: GatLayer, grad: Dense, norm: KeptNorm | None) -> dict[str, Dense]:
        """Gradients of one layer's parameters, given that of its convolution's output, (rows, channels)."""
        shard, crossing = self._plan.shard, self._plan.crossing[own.number]
        back = GatBackward(self._plan, own, grad, norm)
        totals = sum_totals(back.of_rows(), team.each(back.along_rows, shard.sections_of(own.number + 1)))
        self._plan.comm.exchange(back.of_scores, crossing)
        if own.weights is not None and (own.number or own.by_value):  # else columns need no gradient through values
            self._plan.comm.exchange(own.weights, crossing)
            self._plan.comm.exchange(back.of_heads, self._plan.seeing(own.number))
        totals |= sum_totals(back.of_columns(), team.each(back.along_columns, shard.sections_of(own.number)))
        return back.named(totals)
