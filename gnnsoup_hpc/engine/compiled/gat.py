"""One pass of GAT over a plan, forward and backward.

Attention is told from two numbers a node and head: x v, with v = W^T a. What is summed up is what is narrower: the
states x, multiplied by W after (a hidden layer: its rows are fewer than its columns, and no matrix of the columns'
size is made), or the values x W^T (most last layers).

A chunk of rows goes through all of a layer block by block, and prepares what the next layer attends to while it is in
the core's cache. Training keeps states, which become their gradients, and edge weights; inference keeps no states of a
layer that the next one does not sum up.

Where ranks split the rows, each tells the others of its halo what it attends to and, on the way back, the gradients
of rows and the weights of entries that attend to theirs; every row and every column is summed up by one rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain

import numpy as np

from gnnsoup_hpc.engine.compiled.kernels import attention as kernels
from gnnsoup_hpc.engine.compiled.kernels import rowwise
from gnnsoup_hpc.engine.compiled.kernels.dropout import drop_entries, drop_states
from gnnsoup_hpc.engine.compiled.kernels.features import add_gradients, write_products
from gnnsoup_hpc.engine.compiled.plan import CompiledPlan, choose_product, find_masks, sum_pieces
from gnnsoup_hpc.engine.threads import Span, ThreadTeam, blocks
from gnnsoup_hpc.models.base import CountedDropout
from gnnsoup_hpc.models.convolutions.gat import NEGATIVE_SLOPE
from gnnsoup_hpc.models.gnn import EPS, find_norm
from gnnsoup_hpc.types import Dense

Totals = dict[str, Dense]  # gradients by name
ROWS = 256  # of a block: what one step writes the next finds in the core's own cache


class GatLayer:
    """One layer's parameters and what it attends to. H heads, C channels of each; `width` channels go in.

    Shapes: weight (H, C, in), flat (H C, in); vectors (2 H, in): v of each head, as source and as destination; states
    (columns, in), no columns where only values are needed; scores (columns, 2 H); values (columns, H, C), no columns
    where states are summed up; summed: either, (columns, H, C) or for all heads (columns, 1, in); norm: weight and
    shift (H C,) of the layer norm after it, if there is one. Kept for gradients, of no rows without `keep`: weights (E,
    H) of the entries, and what dropout makes of them, `mixing`; normed (rows, H C), rows before the norm's weight and
    shift; deviations (rows,): 1 over them.
    """

    def __init__(
        self,
        plan: CompiledPlan,
        number: int,
        state: Mapping[str, Dense],
        keep: bool,
        dropout: CountedDropout | None,
    ) -> None:
        names = ("lin.weight", "att_src", "att_dst", "bias")
        self.flat, source, destination, self.bias = (state[f"convs.{number}.{name}"] for name in names)
        self.plan, self.multiply = plan, choose_product(plan.precision)
        self.number, self.heads, self.dropout = number, plan.net.heads, dropout
        self.last = number == plan.net.layers - 1
        self.weight = self.flat.reshape(self.heads, -1, self.flat.shape[1])
        _, self.channels, self.width = self.weight.shape
        self.attention = np.concatenate([source[0], destination[0]])  # (2 H, C)
        self.vectors = np.matmul(self.attention[:, None], np.concatenate([self.weight, self.weight]))[:, 0]
        self.sparse = number == 0 and plan.features is not None  # whether it attends to sparse features
        self.by_value = self.sparse or len(self.flat) < self.width
        self.norm = find_norm(state, number)

        columns, rows = plan.columns(number), plan.rows[number] if keep else 0
        stated = columns if keep or not self.by_value else 0
        if number or self.sparse:
            self.states = self.empty(stated if number else 0, self.width)
        else:
            self.states = plan.first.numpy()
        self.scores = self.empty(columns, 2 * self.heads)
        self.values = self.empty(columns if self.by_value else 0, self.heads, self.channels)
        self.summed = self.values if self.by_value else self.states[:, None]
        self.weights = self.empty(int(plan.start[rows]), self.heads)
        self.mixing = np.empty_like(self.weights) if dropout else self.weights
        self.normed = self.empty(rows if self.norm else 0, len(self.flat))
        self.deviations = self.empty(len(self.normed))

    def empty(self, *shape: int) -> Dense:
        """Of the parameters' type."""
        return np.empty(shape, self.flat.dtype)

    def zeros(self, shapes: Mapping[str, tuple[int, ...]]) -> Totals:
        """Of the parameters' type, to add gradients to."""
        return {name: np.zeros(shape, self.flat.dtype) for name, shape in shapes.items()}

    def room_for_sums(self) -> Dense:
        """A block's sums of states, (ROWS, H, in); none where values are summed up."""
        return self.empty(0 if self.by_value else ROWS, self.heads, self.width)

    def attend_to(self, first: int, states: Dense) -> None:
        """Scores and, where needed, values of the columns from `first` on."""
        end = first + len(states)
        np.matmul(states, self.vectors.T, out=self.scores[first:end])
        if self.by_value:
            self.multiply(states, self.flat.T, self.values[first:end].reshape(len(states), -1))

    def attend_to_features(self, first: int, end: int) -> None:
        """The same of sparse features."""
        x = self.plan.features
        for weights, out in ((self.vectors, self.scores), (self.flat, self.values.reshape(len(self.values), -1))):
            write_products(first, end, x.indptr, x.indices, x.data, np.ascontiguousarray(weights.T), out)

    def convolve(self, first: int, sums: Dense, out: Dense) -> None:
        """The layer's rows from `first` on, (n, H, C), but for the bias; `sums` is `room_for_sums`."""
        end = first + len(out)
        start, indices = self.plan.start, self.plan.indices
        shift, weights, mixing = 0, self.weights, self.mixing
        if not len(weights):  # this block's alone
            shift = int(start[first])
            weights = mixing = self.empty(int(start[end]) - shift, self.heads)
        kernels.write_edge_weights(first, end, start, indices, self.scores, NEGATIVE_SLOPE, weights, shift)
        if self.dropout:
            masks = find_masks(self.dropout, self.number, entries=True)
            drop_entries(first, end, start, indices, self.plan.nodes, *masks, weights, shift, mixing)
        into = out if self.by_value else sums[: len(out)]
        kernels.write_head_sums(first, end, start, start[1:], indices, indices[:0], mixing, shift, self.summed, into)
        if not self.by_value:
            for head in range(self.heads):
                self.multiply(into[:, head], self.weight[head].T, out[:, head])

    def make_states(self, first: int, sums: Dense, room: Dense, block: Dense) -> None:
        """The layer's states of the rows from `first` on, into `block`; `room` is as large."""
        end = first + len(block)
        rows = (self.normed[first:end] if len(self.normed) else room) if self.norm else block
        self.convolve(first, sums, rows.reshape(len(rows), self.heads, -1))
        rowwise.finish(rows, rows[:0], self.bias, not self.norm)
        if self.norm:
            rowwise.normalise(rows, EPS, self.deviations[first:end])
            rowwise.activate(rows, *self.norm, block)
        if self.dropout:
            drop_states(self.plan.nodes[first:end], *find_masks(self.dropout, self.number), block)


class GatLayerBackward:
    """The backward pass of one layer, along its rows, then along its columns: no sum is scattered.

    grad (rows, channels): of its convolution's output. before: the layer before, if there is one; `along_columns`
    overwrites its normed rows, or without a norm the states, with the gradient of its convolution's output. Before it,
    others' rows that attend to own columns must have theirs of `of_scores` and `of_heads`, and of `own.mixing`.
    """

    def __init__(self, own: GatLayer, grad: Dense, before: GatLayer | None) -> None:
        self._own, self._before, self._grad = own, before, grad
        self._scale = own.dropout.scale if own.dropout else 1.0
        by_head = grad.reshape(-1, 1 if own.last else own.heads, own.channels)  # (rows, 1, C) for all heads
        self._per_head = by_head / grad.dtype.type(own.heads) if own.last else by_head
        self.of_heads = self._per_head.reshape(grad.shape)  # a view
        self.of_scores = np.empty_like(own.weights)  # of what the leaky ReLU was given
        self._of_rows = own.empty(len(grad), own.heads)  # their sums along rows
        weight = {"weight": own.weight.shape}
        self.row_shapes = {"bias": own.bias.shape} | ({} if own.by_value else weight)  # of what `along_rows` finds
        self.column_shapes = {"vectors": own.vectors.shape} | (weight if own.by_value else {})
        if own.sparse:
            self.column_shapes = {"vectors": own.vectors.shape[::-1], "weight": own.flat.shape[::-1]}
        if before is not None and before.norm:
            self.column_shapes |= dict.fromkeys(("scale", "shift"), before.bias.shape)

    def along_rows(self, *spans: Span) -> Totals:
        """Gradients of the bias and, where states are summed up, of the weight; those of entries' scores are kept."""
        own, plan, totals = self._own, self._own.plan, self._own.zeros(self.row_shapes)
        room, again, product = own.room_for_sums(), own.room_for_sums(), own.empty(own.channels, own.width)
        apart = range(0 if own.by_value else own.heads)  # heads that multiply sums of states
        for first, end in _blocks(spans):
            rowwise.add_column_sums(self._grad[first:end], totals["bias"])
            mine, of_sums, sums = self._per_head[first:end], room[: end - first], again[: end - first]
            for head in apart:
                own.multiply(mine[:, head % mine.shape[1]], own.weight[head], of_sums[:, head])
            kernels.write_score_gradients(
                *(first, end, plan.start, plan.indices, own.scores, NEGATIVE_SLOPE, own.weights, own.mixing),
                *(self._scale, own.summed, mine if own.by_value else of_sums, self.of_scores, self._of_rows, sums),
            )
            for head in apart:
                own.multiply(mine[:, head % mine.shape[1]].T, sums[:, head], product)
                totals["weight"][head] += product
        return totals

    def along_columns(self, *spans: Span) -> Totals:
        """Gradients of `vectors`, of the norm and, where values are summed up, of the weight."""
        own, totals = self._own, self._own.zeros(self.column_shapes)
        start, ends, rows, places = own.plan.transposes[own.number]
        room, values = own.empty(ROWS, 2 * own.heads), own.empty(ROWS, own.heads, own.channels)
        below, product = own.empty(ROWS, own.width), np.empty_like(own.flat)
        for first, end in _blocks(spans):
            states, of_states, of_values = own.states[first:end], below[: end - first], values[: end - first]
            mine, of_rows = room[: end - first], self._of_rows[first:end]  # columns from `rows` on are no rows
            kernels.write_placed_sums(first, end, start, ends, places, self.of_scores, mine)
            mine[: len(of_rows), own.heads :] = of_rows
            mine[len(of_rows) :, own.heads :] = 0
            if not own.sparse:
                totals["vectors"] += mine.T @ states
            if own.number or own.by_value:
                kernels.write_head_sums(first, end, start, ends, rows, places, own.mixing, 0, self._per_head, of_values)
            flat = of_values.reshape(len(of_values), -1)
            if own.sparse:
                x = own.plan.features
                for grad, total in ((mine, totals["vectors"]), (flat, totals["weight"])):
                    add_gradients(first, end, x.indptr, x.indices, x.data, grad, total)
            elif own.by_value:
                own.multiply(flat.T, states, product)
                totals["weight"] += product.reshape(own.weight.shape)
            if self._before is not None:
                own.multiply(flat, own.flat, of_states)
                of_states += mine @ own.vectors
                rowwise.mask(states, of_states, self._scale)
                self._backpropagate_norm(first, states, self._before, totals)
        return totals

    def _backpropagate_norm(self, first: int, grad: Dense, before: GatLayer, totals: Totals) -> None:
        if before.norm:
            normed, deviations = before.normed[first : first + len(grad)], before.deviations[first : first + len(grad)]
            rowwise.backpropagate_norm(grad, before.norm[0], normed, deviations, totals["scale"], totals["shift"])

    def name_gradients(self, totals: Totals) -> Totals:
        """Gradients of parameters by their names, from the sums over all sections."""
        own, vectors, weight = self._own, totals["vectors"], totals["weight"]
        if own.sparse:
            vectors, weight = vectors.T, weight.T.reshape(own.weight.shape)
        for number, (attention, vector) in enumerate(zip(own.attention, vectors, strict=True)):
            weight[number % own.heads] += np.outer(attention, vector)
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


class GatForwardBackward:
    """One forward pass and, if `keep`, its backward pass.

    Ranks that share the batch exchange halo rows between layers: then both passes are rank-collective.
    """

    def __init__(
        self, plan: CompiledPlan, state: Mapping[str, Dense], keep: bool, dropout: CountedDropout | None = None
    ) -> None:
        self._plan, self._state, self._keep, self._dropout = plan, state, keep, dropout
        self._layers: list[GatLayer] = []

    def forward(self) -> Dense:
        """Class scores of this rank's seed nodes, (n, C)."""
        with ThreadTeam() as team:
            for number in range(self._plan.net.layers):
                layer = GatLayer(self._plan, number, self._state, self._keep, self._dropout)
                self._attend(team, layer, self._layers[-1] if number else None)
                self._layers = [*self._layers, layer] if self._keep else [layer]
                self._exchange(layer)
            return self._make_scores(team, layer)[slice(*self._plan.shard.own)]

    def _attend(self, team: ThreadTeam, layer: GatLayer, below: GatLayer | None) -> None:
        """What a layer attends to: of the features, or of rows of the layer below, which are computed here."""

        def chunk(start: int, stop: int) -> None:
            if layer.sparse:
                layer.attend_to_features(start, stop)
                return
            sums = below.room_for_sums() if below else layer.empty(0)
            spare, room = layer.empty(ROWS, layer.width), layer.empty(ROWS, layer.width)
            for first, end in blocks(start, stop, ROWS):
                block = layer.states[first:end] if len(layer.states) else spare[: end - first]
                if below:
                    below.make_states(first, sums, room[: end - first], block)
                layer.attend_to(first, block)

        team.each(chunk, self._plan.shard.chunks(layer.number))

    def _exchange(self, layer: GatLayer) -> None:
        """Tell other ranks what their rows of a layer attend to; features they have."""
        seen = self._plan.shard.states[layer.number]
        self._plan.comm.exchange(layer.scores, seen)
        if layer.by_value:
            self._plan.comm.exchange(layer.values.reshape(-1, len(layer.flat)), seen)
        elif layer.number:
            self._plan.comm.exchange(layer.states, seen)

    def _make_scores(self, team: ThreadTeam, own: GatLayer) -> Dense:
        """Class scores, (rows, C): the mean of the heads."""
        out = own.empty(self._plan.rows[-1], own.channels)

        def chunk(start: int, stop: int) -> None:
            sums, room = own.room_for_sums(), own.empty(ROWS, own.heads, own.channels)
            for first, end in blocks(start, stop, ROWS):
                heads = room[: end - first]
                own.convolve(first, sums, heads)
                np.mean(heads, 1, out=out[first:end])
                out[first:end] += own.bias

        team.each(chunk, self._plan.shard.chunks(own.number + 1))
        return out

    def backward(self, grad: Dense) -> dict[str, Dense]:
        """Gradients of all parameters, float64, given that of the scores (n, C): what this rank's rows add to them."""
        grads: dict[str, Dense] = {}
        grad = self._plan.spread(grad)
        with ThreadTeam() as team:
            while self._layers:
                own = self._layers.pop()
                grads |= self._back(team, own, grad)
                grad = self._layers[-1].normed if self._layers and self._layers[-1].norm else own.states
        return grads

    def _back(self, team: ThreadTeam, own: GatLayer, grad: Dense) -> dict[str, Dense]:
        """Gradients of one layer's parameters, given that of its convolution's output, (rows, channels)."""
        comm, shard, crossing = self._plan.comm, self._plan.shard, self._plan.crossing[own.number]
        back = GatLayerBackward(own, grad, self._layers[-1] if self._layers else None)
        totals = sum_pieces(back.row_shapes, team.each(back.along_rows, shard.sections_of(own.number + 1)))
        comm.exchange(back.of_scores, crossing)
        if own.number or own.by_value:  # else columns need no gradient through values
            comm.exchange(own.mixing, crossing)
            comm.exchange(back.of_heads, shard.gradients[own.number])
        totals |= sum_pieces(back.column_shapes, team.each(back.along_columns, shard.sections_of(own.number)))
        return back.name_gradients(totals)
