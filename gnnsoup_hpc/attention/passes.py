"""The forward and the backward pass of GAT. Training keeps states, which become their gradients, and edge weights.

A lane of rows goes through all of a layer block by block, and prepares what the next layer attends to while it is in
the core's cache. Inference keeps no states of a layer that the next one does not sum up.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gnnsoup_hpc.attention.gradients import Backward, Norm, summed
from gnnsoup_hpc.attention.layer import ROWS, Layer
from gnnsoup_hpc.attention.plan import AttentionPlan
from gnnsoup_hpc.compiled import rowwise
from gnnsoup_hpc.crew import Crew, blocks
from gnnsoup_hpc.dense import product_in
from gnnsoup_hpc.models import Architecture
from gnnsoup_hpc.records import Dense

_EPS = 1e-5  # of layer norm, as in models.py


class Pass:
    """One forward pass and, if `keep`, its backward pass."""

    def __init__(self, net: Architecture, plan: AttentionPlan, state: Mapping[str, Dense], keep: bool) -> None:
        self.net, self._plan, self._state, self._keep = net, plan, state, keep
        self._layers: list[Layer] = []
        self._norms: list[Norm] = []

    def forward(self) -> Dense:
        """Class scores, (n, C)."""
        with Crew() as crew:
            self._layers.append(self._first(crew))
            for _ in range(self.net.layers - 1):
                self._layers.append(self._next(crew, self._layers[-1]))
                if not self._keep:
                    del self._layers[0]
            return self._scores(crew, self._layers[-1])

    def _layer(self, number: int) -> Layer:
        return Layer(self.net, number, self._state, product_in(self._plan.precision))

    def _first(self, crew: Crew) -> Layer:
        layer = self._layer(0)
        layer.make_room(len(self._plan.x), states=False)
        layer.states = self._plan.x

        def lane(start: int, stop: int) -> None:
            for first, end in blocks(start, stop, ROWS):
                layer.attend_to(first, layer.states[first:end])

        crew.each(lane, self._plan.lanes[0])
        return layer

    def _next(self, crew: Crew, own: Layer) -> Layer:
        """The layer after `own`, with what it attends to."""
        rows, width = self._plan.rows[own.number], self.net.hidden
        following = self._layer(own.number + 1)
        following.make_room(rows, states=self._keep or not following.by_value)
        self._make_room(own)

        def lane(start: int, stop: int) -> None:
            sums, spare = own.room_for_sums(), own.empty(ROWS, width)
            for first, end in blocks(start, stop, ROWS):
                block = following.states[first:end] if len(following.states) else spare[: end - first]
                own.convolve(self._plan, first, sums, block.reshape(len(block), own.heads, -1))
                self._activate(own, first, block)
                following.attend_to(first, block)

        crew.each(lane, self._plan.lanes[own.number + 1])
        return following

    def _scores(self, crew: Crew, own: Layer) -> Dense:
        """Class scores: the mean of the heads."""
        self._make_room(own)
        out = own.empty(self._plan.rows[-1], own.channels)

        def lane(start: int, stop: int) -> None:
            sums, room = own.room_for_sums(), own.empty(ROWS, own.heads, own.channels)
            for first, end in blocks(start, stop, ROWS):
                heads = room[: end - first]
                own.convolve(self._plan, first, sums, heads)
                np.mean(heads, 1, out=out[first:end])
                out[first:end] += own.bias

        crew.each(lane, self._plan.lanes[-1])
        return out

    def _make_room(self, own: Layer) -> None:
        """For what the backward pass needs."""
        if not self._keep:
            return
        own.weights = own.empty(self._plan.entries(own.number), own.heads)
        if self.net.norm == "layer" and not own.last:
            rows = self._plan.rows[own.number]
            self._norms.append(Norm(self._norm_of(own, "weight"), own.empty(rows, self.net.hidden), own.empty(rows)))

    def _norm_of(self, own: Layer, name: str) -> Dense:
        return self._state[f"norms.{own.number}.{name}"]

    def _activate(self, own: Layer, first: int, block: Dense) -> None:
        """Bias, layer norm where there is one, and ReLU, in place."""
        norm = self.net.norm == "layer"
        rowwise.finished(block, block[:0], own.bias, not norm)
        if norm:
            end = first + len(block)
            kept, scales = own.empty(0, 0), own.empty(0)
            if self._keep:
                kept, scales = self._norms[-1].states[first:end], self._norms[-1].scales[first:end]
            rowwise.normed(block, self._norm_of(own, "weight"), self._norm_of(own, "bias"), _EPS, kept, scales)

    def backward(self, grad: Dense) -> dict[str, Dense]:
        """Gradients of all parameters, given that of the scores (n, C)."""
        grads: dict[str, Dense] = {}
        with Crew() as crew:
            while self._layers:
                own = self._layers.pop()
                norm = self._norms.pop() if own.number and self._norms else None
                back = Backward(self._plan, own, grad, norm)
                totals = summed(crew.each(back.along_rows, self._plan.lanes[own.number + 1]))
                totals |= summed(crew.each(back.along_columns, back.transpose.lanes))
                grads |= back.named(totals)
                grad = own.states
        return grads
