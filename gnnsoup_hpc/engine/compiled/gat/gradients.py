"""The backward pass of one layer of GAT: along its rows, then along its columns. No sum is scattered."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np

from gnnsoup_hpc.engine.compiled.gat.layer import ROWS, GatLayer
from gnnsoup_hpc.engine.compiled.gat.plan import GatPlan
from gnnsoup_hpc.engine.compiled.kernels import attention as kernels
from gnnsoup_hpc.engine.compiled.kernels import rowwise
from gnnsoup_hpc.engine.compiled.threads import Span, blocks
from gnnsoup_hpc.models.convolutions.gat import NEGATIVE_SLOPE
from gnnsoup_hpc.types import Dense

Totals = dict[str, Dense]


@dataclass(frozen=True)
class KeptNorm:
    """The layer norm before a layer: weight (C,), states (rows, C) before weight and shift, scales (rows,)."""

    weight: Dense
    states: Dense
    scales: Dense


class GatBackward:
    """Of one layer, given the gradient of its convolution's output, (rows, channels).

    `norm` is that of the layer before. `along_columns` overwrites the states with the gradient of what the layer before
    gave to its activation; before it, others' rows that attend to own columns must have theirs of `of_scores` and
    `of_heads`, and of `own.weights`.
    """

    def __init__(self, plan: GatPlan, own: GatLayer, grad: Dense, norm: KeptNorm | None) -> None:
        self._plan, self._own, self._norm = plan, own, norm
        self.transpose = plan.transposes[own.number]
        self._grad, self._per_head = grad, own.per_head(grad)
        self.of_scores = own.empty(plan.count_entries(own.number), own.heads)  # of what the leaky ReLU was given
        self._of_rows = own.empty(len(grad), own.heads)  # their sums along rows

    @property
    def of_heads(self) -> Dense:
        """Gradients of what each head, or all, made of the rows: a view, (rows, channels)."""
        return self._per_head.reshape(-1, self._grad.shape[1])

    def of_rows(self) -> Totals:
        """Zeros for what `along_rows` finds."""
        own = self._own
        totals = {"bias": np.zeros_like(own.bias)}
        return totals if own.by_value else totals | {"weight": np.zeros_like(own.weight)}

    def along_rows(self, *spans: Span) -> Totals:
        """Gradients of the bias and, where states are summed up, of the weight; those of entries' scores are kept."""
        own, totals = self._own, self.of_rows()
        room, again, product = own.room_for_sums(), own.room_for_sums(), own.empty(*own.weight.shape[1:])
        for first, end in _blocks(spans):
            rowwise.add_column_sums(self._grad[first:end], totals["bias"])
            mine, sums = self._per_head[first:end], again[: end - first]
            of_sums = mine if own.by_value else self._of_sums(mine, room)
            kernels.write_score_gradients(
                *(first, end, self._plan.start, self._plan.indices, own.scores, NEGATIVE_SLOPE, own.weights),
                *(own.summed, of_sums, self.of_scores, self._of_rows, sums),
            )
            if not own.by_value:
                for head in range(own.heads):
                    own.multiply(mine[:, head % mine.shape[1]].T, sums[:, head], product)
                    totals["weight"][head] += product
        return totals

    def _of_sums(self, mine: Dense, room: Dense) -> Dense:
        """Gradient of a block's sums of states, (n, H, in)."""
        found = room[: len(mine)]
        for head in range(self._own.heads):
            self._own.multiply(mine[:, head % mine.shape[1]], self._own.weight[head], found[:, head])
        return found

    def along_columns(self, *spans: Span) -> Totals:
        """Gradients of `vectors`, of the norm and, where values are summed up, of the weight."""
        own, totals = self._own, self.of_columns()
        both, values = own.empty(ROWS, 2 * own.heads), own.empty(ROWS, own.heads, own.channels)
        below, product = own.empty(ROWS, own.width), np.empty_like(own.flat)
        for first, end in _blocks(spans):
            states, mine = own.states[first:end], both[: end - first]
            self._of_both(first, mine)
            totals["vectors"] += mine.T @ states
            if own.number or own.by_value:
                flat = self._of_values(first, values[: end - first])
                if own.by_value:
                    own.multiply(flat.T, states, product)
                    totals["weight"] += product.reshape(own.weight.shape)
                if own.number:
                    own.multiply(flat, own.flat, below[: end - first])
                    below[: end - first] += mine @ own.vectors
                    self._activated(first, below[: end - first], totals)
        return totals

    def of_columns(self) -> Totals:
        """Zeros for what `along_columns` finds."""
        own = self._own
        totals = {"vectors": np.zeros_like(own.vectors)}
        if own.by_value:
            totals["weight"] = np.zeros_like(own.weight)
        if self._norm is not None:
            totals |= {name: np.zeros_like(self._norm.weight) for name in ("scale", "shift")}
        return totals

    def _of_both(self, first: int, out: Dense) -> None:
        """Gradients of the scores of columns from `first` on, (n, 2 H)."""
        end, heads, rows = first + len(out), self._own.heads, self._of_rows[first : first + len(out)]
        places = self.transpose
        kernels.write_placed_sums(first, end, places.start, places.end, places.places, self.of_scores, out)
        out[: len(rows), heads:] = rows
        out[len(rows) :, heads:] = 0

    def _of_values(self, first: int, out: Dense) -> Dense:
        """Gradient of the values of columns from `first` on, but for that through scores, (n, H C)."""
        by, end = self.transpose, first + len(out)
        kernels.write_head_sums(
            *(first, end, by.start, by.end, by.rows, by.places, self._own.weights, 0, self._per_head, out)
        )
        return out.reshape(len(out), -1)

    def _activated(self, first: int, below: Dense, totals: Totals) -> None:
        """Back through ReLU and the layer norm; the states are overwritten."""
        end = first + len(below)
        states, norm = self._own.states[first:end], self._norm
        rowwise.mask(states, below)
        if norm is not None:
            kept, scales = norm.states[first:end], norm.scales[first:end]
            rowwise.backpropagate_norm(states, norm.weight, kept, scales, totals["scale"], totals["shift"])

    def named(self, totals: Totals) -> Totals:
        """Gradients of parameters by their names, from the sums over all sections."""
        own, vectors, weight = self._own, totals["vectors"], totals["weight"]
        for half in (0, own.heads):
            for head in range(own.heads):
                weight[head] += np.outer(own.attention[half + head], vectors[half + head])
        weights = np.concatenate([own.weight, own.weight])
        source, destination = np.split(np.matmul(weights, vectors[..., None])[..., 0], 2)
        grads = {"bias": totals["bias"], "lin.weight": weight.reshape(own.flat.shape)}
        grads |= {"att_src": source[None], "att_dst": destination[None]}
        found = {f"convs.{own.number}.{name}": grad for name, grad in grads.items()}
        if self._norm is not None:
            names = {"scale": "weight", "shift": "bias"}
            found |= {f"norms.{own.number - 1}.{name}": totals[key] for key, name in names.items()}
        return found


def _blocks(spans: Iterable[Span]) -> Iterator[Span]:
    return chain.from_iterable(blocks(*span, ROWS) for span in spans)


def sum_totals(zeros: Totals, pieces: list[Totals]) -> Totals:
    """The sections' sums in float64, where the order of so few does not tell."""
    totals = {name: zero.astype(np.float64) for name, zero in zeros.items()}
    for piece in pieces:
        for name, mine in piece.items():
            totals[name] += mine
    return totals
