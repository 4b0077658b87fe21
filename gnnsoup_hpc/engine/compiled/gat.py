"""The compiled engine's plan of GAT: the frontier of a batch, with exactly one self-loop a node, and its transposes.

A layer's columns are the rows of the layer before; of the first layer, all nodes. The transpose, which only gradients
need, keeps for each entry its place in the structure, where its weight stands.

Of several ranks, layer l of a shard indexes the source nodes (columns) of layer l. Of others' rows that attend to own
columns a rank holds those entries alone; their weights come from the rank that has the row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np

from gnnsoup_hpc.engine.compiled.kernels import attention as kernels
from gnnsoup_hpc.engine.compiled.kernels import rowwise, structure
from gnnsoup_hpc.engine.compiled.plan import CompiledPlan, Product, choose_product, sum_pieces
from gnnsoup_hpc.engine.threads import Span, ThreadTeam, blocks
from gnnsoup_hpc.models.convolutions.gat import NEGATIVE_SLOPE
from gnnsoup_hpc.models.gnn import EPS, Architecture
from gnnsoup_hpc.runtime.comm import Moves
from gnnsoup_hpc.types import Dense, IndexArray


@dataclass(frozen=True)
class Transpose:
    """Of one layer: row = source, entries = the rows that attend to it, places = those entries in the structure.

    Shapes: start, end (columns,), rows, places (E,). Entries of row c are start[c] to end[c] - 1.
    """

    start: IndexArray
    end: IndexArray
    rows: IndexArray
    places: IndexArray


@dataclass(frozen=True)
class GatPlan(CompiledPlan):
    """Of GAT. Its precision is not that of the products that scores come from; it takes nothing from a workspace."""

    @property
    def x(self) -> Dense:
        """Features of the first layer's columns, (U, F)."""
        return self.first.numpy()

    def count_entries(self, layer: int) -> int:
        """Entries of a layer's rows."""
        return int(self.start[self.rows[layer]])

    @cached_property
    def transposes(self) -> tuple[Transpose, ...]:
        """Of each layer."""
        start, rows, places = structure.transpose(self.start, self.indices, len(self.x), True)

        def transpose(layer: int) -> Transpose:
            columns = self.columns(layer)
            end = structure.find_ends_below(start, rows, columns, self.rows[layer])
            return Transpose(start[:columns], end, rows, places)

        return tuple(transpose(layer) for layer in range(len(self.rows)))

    @cached_property
    def crossing(self) -> tuple[Moves, ...]:
        """Of each layer, entries of own rows whose columns are others', and of others' rows whose columns are own."""
        return tuple(self._find_crossing(layer) for layer in range(len(self.rows)))

    def _find_crossing(self, layer: int) -> Moves:
        own = np.zeros(self.columns(layer), dtype=np.bool_)
        for start, stop in self.shard.chunks(layer):
            own[start:stop] = True
        found, shard = [], self.shard
        for (_, _, others), (rank, sent, got) in zip(shard.states[layer], shard.gradients[layer], strict=True):
            halo = np.zeros_like(own)
            halo[others] = True
            given = structure.find_entries_to(self.start, self.indices, sent, halo)
            taken = structure.find_entries_to(self.start, self.indices, got, own)
            found.append((rank, given, taken))
        return found


# ---- layer
# One layer of GAT on blocks of rows: what it attends to, and its convolution.
#
# Attention is told from two numbers a node and head: x v, with v = W^T a. What is summed up is what is narrower: the
# states x, multiplied by W after (a hidden layer: its rows are fewer than its columns, and no matrix of the columns'
# size is made), or the values x W^T (most last layers).

Totals = dict[str, Dense]  # gradients by name
ROWS = 256  # of a block: what one step writes the next finds in the core's own cache


class GatLayer:
    """One layer's parameters and what it attends to. H heads, C channels of each; `width` channels go in.

    Shapes: weight (H, C, in); vectors (2 H, in): v of each head, as source and as destination; states (columns, in),
    no columns where only values are needed; scores (columns, 2 H); values (columns, H, C), None where states are summed
    up; weights (E, H) of the entries, None where nothing is kept; norm: weight and shift (H C,) of the layer norm after
    it, if there is one; normed (rows, H C): its rows before weight and shift, and deviations (rows,): 1 / deviation, no
    rows where nothing is kept.
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
        _, self.channels, self.width = self.weight.shape
        self.attention = np.concatenate([source[0], destination[0]])  # (2 H, C)
        self.vectors = np.matmul(self.attention[:, None], np.concatenate([self.weight, self.weight]))[:, 0]
        self.by_value = len(weight) < weight.shape[1]
        norm = f"norms.{number}"
        self.norm = (state[f"{norm}.weight"], state[f"{norm}.bias"]) if f"{norm}.weight" in state else ()
        self.normed, self.deviations = self.empty(0, 0), self.empty(0)

    @property
    def summed(self) -> Dense:
        """What is summed up: (columns, H, C), or (columns, 1, in) for all heads."""
        return self.states[:, None] if self.values is None else self.values

    def empty(self, *shape: int) -> Dense:
        """Of the parameters' type."""
        return np.empty(shape, self.weight.dtype)

    def zeros(self, shapes: Mapping[str, tuple[int, ...]]) -> Totals:
        """Of the parameters' type, to add gradients to."""
        return {name: np.zeros(shape, self.weight.dtype) for name, shape in shapes.items()}

    def make_room(self, columns: int, states: bool) -> None:
        """For what it attends to; for the states only if asked."""
        self.states = self.empty(columns if states else 0, self.width)
        self.scores = self.empty(columns, 2 * self.heads)
        self.values = self.empty(columns, self.heads, self.channels) if self.by_value else None

    def keep(self, plan: GatPlan) -> None:
        """Make room for what the backward pass needs."""
        self.weights = self.empty(plan.count_entries(self.number), self.heads)
        if self.norm:
            rows = plan.rows[self.number]
            self.normed, self.deviations = self.empty(rows, len(self.flat)), self.empty(rows)

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

    def activate(self, first: int, block: Dense) -> None:
        """Bias, layer norm where there is one, and ReLU, of the rows from `first` on, in place."""
        rowwise.finish(block, block[:0], self.bias, not self.norm)
        if self.norm:
            end = first + len(block)
            rowwise.normalise(block, *self.norm, EPS, self.normed[first:end], self.deviations[first:end])

    def split_heads(self, grad: Dense) -> Dense:
        """The gradient of the layer's output (n, channels) as one of each head's: (n, H, C), or (n, 1, C) for all."""
        if self.last:
            shared: Dense = grad / grad.dtype.type(self.heads)
            return shared[:, None]
        return grad.reshape(-1, self.heads, self.channels)


# ---- gradients
# The backward pass of one layer of GAT: along its rows, then along its columns. No sum is scattered.


class GatBackward:
    """Of one layer, given the gradient of its convolution's output, (rows, channels).

    `before` is the layer before, if there is one. `along_columns` overwrites the states with the gradient of what that
    one gave to its activation; before it, others' rows that attend to own columns must have theirs of `of_scores` and
    `of_heads`, and of `own.weights`.
    """

    def __init__(self, plan: GatPlan, own: GatLayer, grad: Dense, before: GatLayer | None) -> None:
        self._plan, self._own, self._before = plan, own, before
        self.transpose = plan.transposes[own.number]
        self._grad, self._per_head = grad, own.split_heads(grad)
        self.of_scores = own.empty(plan.count_entries(own.number), own.heads)  # of what the leaky ReLU was given
        self._of_rows = own.empty(len(grad), own.heads)  # their sums along rows
        weight = {"weight": own.weight.shape}
        self.row_shapes = {"bias": own.bias.shape} | ({} if own.by_value else weight)  # of what `along_rows` finds
        self.column_shapes = {"vectors": own.vectors.shape} | (weight if own.by_value else {})
        if before is not None and before.norm:
            self.column_shapes |= dict.fromkeys(("scale", "shift"), before.bias.shape)

    @property
    def of_heads(self) -> Dense:
        """Gradients of what each head, or all, made of the rows: a view, (rows, channels)."""
        return self._per_head.reshape(-1, self._grad.shape[1])

    def along_rows(self, *spans: Span) -> Totals:
        """Gradients of the bias and, where states are summed up, of the weight; those of entries' scores are kept."""
        own, totals = self._own, self._own.zeros(self.row_shapes)
        room, again, product = own.room_for_sums(), own.room_for_sums(), own.empty(*own.weight.shape[1:])
        for first, end in _blocks(spans):
            rowwise.add_column_sums(self._grad[first:end], totals["bias"])
            mine, sums = self._per_head[first:end], again[: end - first]
            of_sums = mine if own.by_value else self._multiply_back(mine, room)
            kernels.write_score_gradients(
                *(first, end, self._plan.start, self._plan.indices, own.scores, NEGATIVE_SLOPE, own.weights),
                *(own.summed, of_sums, self.of_scores, self._of_rows, sums),
            )
            if not own.by_value:
                for head in range(own.heads):
                    own.multiply(mine[:, head % mine.shape[1]].T, sums[:, head], product)
                    totals["weight"][head] += product
        return totals

    def _multiply_back(self, mine: Dense, room: Dense) -> Dense:
        """Gradient of a block's sums of states, (n, H, in)."""
        found = room[: len(mine)]
        for head in range(self._own.heads):
            self._own.multiply(mine[:, head % mine.shape[1]], self._own.weight[head], found[:, head])
        return found

    def along_columns(self, *spans: Span) -> Totals:
        """Gradients of `vectors`, of the norm and, where values are summed up, of the weight."""
        own, totals = self._own, self._own.zeros(self.column_shapes)
        both, values = own.empty(ROWS, 2 * own.heads), own.empty(ROWS, own.heads, own.channels)
        below, product = own.empty(ROWS, own.width), np.empty_like(own.flat)
        for first, end in _blocks(spans):
            states, mine = own.states[first:end], both[: end - first]
            self._sum_score_gradients(first, mine)
            totals["vectors"] += mine.T @ states
            if own.number or own.by_value:
                flat = self._sum_value_gradients(first, values[: end - first])
                if own.by_value:
                    own.multiply(flat.T, states, product)
                    totals["weight"] += product.reshape(own.weight.shape)
                if own.number:
                    own.multiply(flat, own.flat, below[: end - first])
                    below[: end - first] += mine @ own.vectors
                    self._pass_activation(first, below[: end - first], totals)
        return totals

    def _sum_score_gradients(self, first: int, out: Dense) -> None:
        """Gradients of the scores of columns from `first` on, (n, 2 H)."""
        end, heads, rows = first + len(out), self._own.heads, self._of_rows[first : first + len(out)]
        places = self.transpose
        kernels.write_placed_sums(first, end, places.start, places.end, places.places, self.of_scores, out)
        out[: len(rows), heads:] = rows
        out[len(rows) :, heads:] = 0

    def _sum_value_gradients(self, first: int, out: Dense) -> Dense:
        """Gradient of the values of columns from `first` on, but for that through scores, (n, H C)."""
        by, end = self.transpose, first + len(out)
        kernels.write_head_sums(
            *(first, end, by.start, by.end, by.rows, by.places, self._own.weights, 0, self._per_head, out)
        )
        return out.reshape(len(out), -1)

    def _pass_activation(self, first: int, below: Dense, totals: Totals) -> None:
        """Back through ReLU and the layer norm; the states are overwritten."""
        end = first + len(below)
        states, before = self._own.states[first:end], self._before
        rowwise.mask(states, below)
        if before is not None and before.norm:
            kept, deviations = before.normed[first:end], before.deviations[first:end]
            rowwise.backpropagate_norm(states, before.norm[0], kept, deviations, totals["scale"], totals["shift"])

    def name_gradients(self, totals: Totals) -> Totals:
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
        if "scale" in totals:
            norm = f"norms.{own.number - 1}"
            found |= {f"{norm}.weight": totals["scale"], f"{norm}.bias": totals["shift"]}
        return found


def _blocks(spans: Iterable[Span]) -> Iterator[Span]:
    return chain.from_iterable(blocks(*span, ROWS) for span in spans)


# ---- passes
# The forward and the backward pass of GAT. Training keeps states, which become their gradients, and edge weights.
#
# A chunk of rows goes through all of a layer block by block, and prepares what the next layer attends to while it is in
# the core's cache. Inference keeps no states of a layer that the next one does not sum up.
#
# Where ranks split the rows, each tells the others of its halo what it attends to and, on the way back, the gradients
# of rows and the weights of entries that attend to theirs; every row and every column is summed up by one rank.


class GatForwardBackward:
    """One forward pass and, if `keep`, its backward pass.

    Ranks that share the batch exchange halo rows between layers: then both passes are rank-collective.
    """

    def __init__(self, plan: GatPlan, state: Mapping[str, Dense], keep: bool) -> None:
        self.net, self._plan, self._state, self._keep = plan.net, plan, state, keep
        self._layers: list[GatLayer] = []

    def forward(self) -> Dense:
        """Class scores of this rank's seed nodes, (n, C)."""
        with ThreadTeam() as team:
            self._layers.append(self._attend_to_features(team))
            self._exchange(self._layers[-1])
            for _ in range(self.net.layers - 1):
                self._layers.append(self._compute_next(team, self._layers[-1]))
                self._exchange(self._layers[-1])
                if not self._keep:
                    del self._layers[0]
            return self._make_scores(team, self._layers[-1])[slice(*self._plan.shard.own)]

    def _exchange(self, layer: GatLayer) -> None:
        """Tell other ranks what their rows of a layer attend to; features they have."""
        seen = self._plan.shard.states[layer.number]
        self._plan.comm.exchange(layer.scores, seen)
        if layer.values is not None:
            self._plan.comm.exchange(layer.values.reshape(-1, len(layer.flat)), seen)
        elif layer.number:
            self._plan.comm.exchange(layer.states, seen)

    def _layer(self, number: int) -> GatLayer:
        return GatLayer(self.net, number, self._state, choose_product(self._plan.precision))

    def _attend_to_features(self, team: ThreadTeam) -> GatLayer:
        layer = self._layer(0)
        layer.make_room(len(self._plan.x), states=False)
        layer.states = self._plan.x

        def chunk(start: int, stop: int) -> None:
            for first, end in blocks(start, stop, ROWS):
                layer.attend_to(first, layer.states[first:end])

        team.each(chunk, self._plan.shard.chunks(0))
        return layer

    def _compute_next(self, team: ThreadTeam, own: GatLayer) -> GatLayer:
        """The layer after `own`, with what it attends to."""
        rows, width = self._plan.rows[own.number], self.net.hidden
        following = self._layer(own.number + 1)
        following.make_room(rows, states=self._keep or not following.by_value)
        if self._keep:
            own.keep(self._plan)

        def chunk(start: int, stop: int) -> None:
            sums, spare = own.room_for_sums(), own.empty(ROWS, width)
            for first, end in blocks(start, stop, ROWS):
                block = following.states[first:end] if len(following.states) else spare[: end - first]
                own.convolve(self._plan, first, sums, block.reshape(len(block), own.heads, -1))
                own.activate(first, block)
                following.attend_to(first, block)

        team.each(chunk, self._plan.shard.chunks(own.number + 1))
        return following

    def _make_scores(self, team: ThreadTeam, own: GatLayer) -> Dense:
        """Class scores, (rows, C): the mean of the heads."""
        if self._keep:
            own.keep(self._plan)
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

    def backward(self, grad: Dense) -> dict[str, Dense]:
        """Gradients of all parameters, float64, given that of the scores (n, C): what this rank's rows add to them."""
        grads: dict[str, Dense] = {}
        grad = self._plan.spread(grad)
        with ThreadTeam() as team:
            while self._layers:
                own = self._layers.pop()
                grads |= self._back(team, own, grad)
                grad = own.states
        return grads

    def _back(self, team: ThreadTeam, own: GatLayer, grad: Dense) -> dict[str, Dense]:
        """Gradients of one layer's parameters, given that of its convolution's output, (rows, channels)."""
        shard, crossing = self._plan.shard, self._plan.crossing[own.number]
        back = GatBackward(self._plan, own, grad, self._layers[-1] if self._layers else None)
        totals = sum_pieces(back.row_shapes, team.each(back.along_rows, shard.sections_of(own.number + 1)))
        self._plan.comm.exchange(back.of_scores, crossing)
        if own.weights is not None and (own.number or own.by_value):  # else columns need no gradient through values
            self._plan.comm.exchange(own.weights, crossing)
            self._plan.comm.exchange(back.of_heads, self._plan.shard.gradients[own.number])
        totals |= sum_pieces(back.column_shapes, team.each(back.along_columns, shard.sections_of(own.number)))
        return back.name_gradients(totals)
