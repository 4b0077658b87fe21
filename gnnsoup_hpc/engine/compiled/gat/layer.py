"""One layer of GAT on blocks of rows: what it attends to, and its convolution.

Attention is told from two numbers a node and head: x v, with v = W^T a. What is summed up is what is narrower: the
states x, multiplied by W after (a hidden layer: its rows are fewer than its columns, and no matrix of the columns' size
is made), or the values x W^T (most last layers).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gnnsoup_hpc.engine.compiled.dense import Product
from gnnsoup_hpc.engine.compiled.gat.plan import GatPlan
from gnnsoup_hpc.engine.compiled.kernels import attention as kernels
from gnnsoup_hpc.models.convolutions.gat import NEGATIVE_SLOPE
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.types import Dense

ROWS = 256  # of a block: what one step writes the next finds in the core's own cache


class GatLayer:
    """One layer's parameters and what it attends to. H heads, C channels of each.

    Shapes: weight (H, C, in); vectors (2 H, in): v of each head, as source and as destination; states (columns, in),
    no columns where only values are needed; scores (columns, 2 H); values (columns, H, C), None where states are summed
    up; weights (E, H) of the entries, None where nothing is kept.
    """

    states: Dense
    scores: Dense
    values: Dense | None = None
    weights: Dense | None = None

    def __init__(self, net: Architecture, number: int, state: Mapping[str, Dense], multiply: Product) -> None:
        names = ("lin.weight", "att_src", "att_dst", "bias")
        weight, source, destination, self.bias = (state[f"convs.{number}.{name}"] for name in names)
        self.multiply = multiply
        self.number, self.heads = number, net.heads
        self.last = number == net.layers - 1
        self.flat = weight  # (H C, in)
        self.weight = weight.reshape(net.heads, -1, weight.shape[1])
        self.attention = np.concatenate([source[0], destination[0]])  # (2 H, C)
        self.vectors = np.matmul(self.attention[:, None], np.concatenate([self.weight, self.weight]))[:, 0]
        self.by_value = len(weight) < weight.shape[1]

    @property
    def channels(self) -> int:
        """C."""
        return self.weight.shape[1]

    @property
    def width(self) -> int:
        """Channels that go in."""
        return self.weight.shape[2]

    @property
    def summed(self) -> Dense:
        """What is summed up: (columns, H, C), or (columns, 1, in) for all heads."""
        return self.states[:, None] if self.values is None else self.values

    def empty(self, *shape: int) -> Dense:
        """Of the parameters' type."""
        return np.empty(shape, self.weight.dtype)

    def make_room(self, columns: int, states: bool) -> None:
        """For what it attends to; for the states only if asked."""
        self.states = self.empty(columns if states else 0, self.width)
        self.scores = self.empty(columns, 2 * self.heads)
        self.values = self.empty(columns, self.heads, self.channels) if self.by_value else None

    def room_for_sums(self) -> Dense:
        """A block's sums of states, (ROWS, H, in); none where values are summed up."""
        return self.empty(0 if self.by_value else ROWS, self.heads, self.width)

    def attend_to(self, first: int, states: Dense) -> None:
        """Scores and, where needed, values of the columns from `first` on."""
        end = first + len(states)
        np.matmul(states, self.vectors.T, out=self.scores[first:end])
        if self.values is not None:
            self.multiply(states, self.flat.T, self.values[first:end].reshape(len(states), -1))

    def convolve(self, plan: GatPlan, first: int, sums: Dense, out: Dense) -> None:
        """The layer's rows from `first` on, (n, H, C), but for the bias; `sums` is `room_for_sums`."""
        end = first + len(out)
        start, indices = plan.start, plan.indices
        shift, weights = 0, self.weights
        if weights is None:  # this block's alone
            shift = int(start[first])
            weights = self.empty(int(start[end]) - shift, self.heads)
        kernels.write_edge_weights(first, end, start, indices, self.scores, NEGATIVE_SLOPE, weights, shift)
        into = out if self.by_value else sums[: len(out)]
        kernels.write_head_sums(first, end, start, start[1:], indices, indices[:0], weights, shift, self.summed, into)
        if not self.by_value:
            for head in range(self.heads):
                self.multiply(into[:, head], self.weight[head].T, out[:, head])

    def per_head(self, grad: Dense) -> Dense:
        """The gradient of the layer's output (n, channels) as one of each head's: (n, H, C), or (n, 1, C) for all."""
        if self.last:
            shared: Dense = grad / grad.dtype.type(self.heads)
            return shared[:, None]
        return grad.reshape(-1, self.heads, self.channels)
