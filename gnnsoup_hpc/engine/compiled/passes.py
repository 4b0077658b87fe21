"""One pass of GCN or GraphSAGE over a plan, forward and backward: gradients of the weights alone, in bounded memory.

Both models are one computation: a layer adds up products of a matrix with a weight matrix, [mean(h) | h] of GraphSAGE,
GCN's normalised sum of h. A chunk of rows goes through all of a layer block by block: aggregated, multiplied, activated
while it is in the core's cache. Training keeps what the backward pass needs (aggregated and hidden states), which that
pass overwrites with their gradients. Where ranks split the rows, each tells the others of its halo between two
layers, and has its own share of the gradients. Its oracle is the torch engine.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gnnsoup_hpc.engine.compiled.kernels import rowwise
from gnnsoup_hpc.engine.compiled.kernels.dropout import drop_states
from gnnsoup_hpc.engine.compiled.kernels.sums import write_scaled_sums
from gnnsoup_hpc.engine.compiled.plan import CompiledPlan, choose_product, find_masks, sum_pieces
from gnnsoup_hpc.engine.threads import Span, ThreadTeam, blocks
from gnnsoup_hpc.models.base import CountedDropout
from gnnsoup_hpc.models.gnn import EPS, find_norm, layer_of, name_bias, name_weights
from gnnsoup_hpc.types import Dense

ROWS = 1536  # of a block: what one step writes the next finds in the core's own cache
Interpolation = tuple[float, Dense, Dense]  # share, and of two states what their first weights make of the first hop


class ForwardBackward:
    """One forward pass and, if `keep`, its backward pass. hidden[l] is what layer l has made, (rows[l], C).

    first: share * start + (1 - share) * end, (rows[0], C) each, in place of the first layer's products.
    Ranks that share the batch exchange halo rows between layers: then both passes are rank-collective.
    """

    def __init__(
        self,
        plan: CompiledPlan,
        state: Mapping[str, Dense],
        keep: bool,
        first: Interpolation | None = None,
        dropout: CountedDropout | None = None,
    ) -> None:
        self.net, self.plan, self.state, self.keep, self._first = plan.net, plan, state, keep, first
        self._dropout = dropout
        self._multiply = choose_product(plan.precision)
        self._dtype = next(iter(state.values())).dtype
        self._hidden: list[Dense] = []
        self._aggregated: list[Dense] = []  # of the layers after the first
        self._normed: list[tuple[Dense, Dense]] = []  # before layer norm's weight, 1 / deviation

    def forward(self) -> Dense:
        """Class scores of this rank's seed nodes, (n, C)."""
        with ThreadTeam() as team:
            for layer in range(self.net.layers):
                out = self._layer(team, layer)
                if layer and not self.keep:
                    self._hidden.pop()
                self._hidden.append(out)
                if layer < self.net.layers - 1:
                    self.plan.comm.exchange(out, self.plan.shard.states[layer])
        return self._hidden.pop()[slice(*self.plan.shard.own)]

    def _layer(self, team: ThreadTeam, layer: int) -> Dense:
        rows, last = self.plan.rows[layer], layer == self.net.layers - 1
        weights, bias = self._matrices(layer), self.state[name_bias(self.net, layer)]
        norm = find_norm(self.state, layer)
        out = self._empty(rows, len(bias)) if last else self._take(rows)
        if layer and self.keep:
            self._aggregated.append(self._take(rows))
        if norm and self.keep:
            kept, scales = self._take(rows), self._empty(rows)
        else:
            kept, scales = self._empty(0, 0), self._empty(0)
        self._normed.append((kept, scales))
        drop = () if last or not self._dropout else find_masks(self._dropout, layer)

        def chunk(start: int, stop: int) -> None:
            scratch = self._empty(ROWS, self.net.hidden if layer else 0)
            other = self._empty(ROWS if len(weights) > 1 else 0, len(bias))
            for first, end in blocks(start, stop, ROWS):
                block, more = out[first:end], other[: end - first]
                self._products(layer, first, end, weights, (block, more, scratch))
                rowwise.finish(block, more, bias, not last and not norm)
                if norm:
                    rowwise.normalise(block, *norm, EPS, kept[first:end], scales[first:end])
                if drop:
                    drop_states(self.plan.nodes[first:end], *drop, block)

        team.each(chunk, self.plan.shard.chunks(layer))
        return out

    def _products(
        self, layer: int, first: int, end: int, weights: list[Dense], room: tuple[Dense, Dense, Dense]
    ) -> None:
        """Products of a block's inputs with the weights, one each into the first two matrices of `room`."""
        if layer == 0 and self._first is not None:
            share, x, y = self._first
            rowwise.blend(share, x[first:end], y[first:end], room[0])
            return
        plan, below = self.plan, self._hidden[-1] if layer else self.plan.first.numpy()
        inputs = [below[first:end]]
        if layer:
            aggregated = self._aggregated[-1][first:end] if self.keep else room[2][: end - first]
            of, scales = (plan.start, plan.start[1:], plan.indices), (plan.scale, plan.column_scale)
            write_scaled_sums(first, end, *of, *scales, below, aggregated, False)
            inputs.insert(0, aggregated)
        for input_, weight, out in zip(inputs, weights, room, strict=False):
            self._multiply(input_, weight, out)

    def _matrices(self, layer: int) -> list[Dense]:
        """What the layer's inputs are multiplied by, (width, C) each; the first hop is one input."""
        weights = [self.state[name].T for name in name_weights(self.net, layer)]
        return [np.ascontiguousarray(weight) for weight in weights] if layer else [np.concatenate(weights)]

    def multiply_first(self) -> Dense:
        """What the first weights make of the first hop, (rows[0], C), in memory of the plan's workspace."""
        inputs, (weights,) = self.plan.first.numpy(), self._matrices(0)
        out = self.plan.workspace.array("hidden", (len(inputs), weights.shape[1]), inputs.dtype)

        def chunk(start: int, stop: int) -> None:
            for first, end in blocks(start, stop, ROWS):
                self._multiply(inputs[first:end], weights, out[first:end])

        with ThreadTeam() as team:
            team.each(chunk, self.plan.shard.chunks(0))
        return out

    def backward(self, grad: Dense) -> dict[str, Dense]:
        """Gradients of all parameters, float64, given that of the scores (n, C): what this rank's rows add to them."""
        grads: dict[str, Dense] = {}
        grad = self.plan.spread(grad)
        with ThreadTeam() as team:
            for layer in range(self.net.layers - 1, -1, -1):
                grad = self._back(team, layer, grad, grads)
                if layer:
                    self.plan.comm.exchange(self._aggregated[-1], self.plan.shard.gradients[layer - 1])
        return grads

    def _back(self, team: ThreadTeam, layer: int, above: Dense, grads: dict[str, Dense]) -> Dense:
        """Gradients of one layer's parameters, and of what it gave to its activation, which is returned.

        `above` is the same of the layer above; of the scores for the last. Hidden and aggregated states are overwritten
        with their gradients.
        """
        last, norm = layer == self.net.layers - 1, find_norm(self.state, layer)
        mine = above if last else self._hidden.pop()
        of_aggregated = None if last else self._aggregated.pop()
        kept, scales = self._normed.pop()
        names = name_weights(self.net, layer)
        matrices = {name: self.state[name].shape for name in names}
        if layer == 0:  # the first hop is one input: of all its weights there is one gradient
            matrices = {names[0]: (len(self.state[names[0]]), self.plan.first.shape[1])}
        own = {name: array.shape for name, array in self.state.items() if layer_of(name) == layer}
        vectors = {name: shape for name, shape in own.items() if len(shape) == 1}

        def section(*spans: Span) -> dict[str, Dense]:
            # Gradients of matrices are first written, then added to.
            totals = {name: np.zeros(shape, self._dtype) for name, shape in vectors.items()}
            totals |= {name: self._empty(*shape) for name, shape in matrices.items()}
            piece, scratch = self._empty(*matrices[names[0]]), self._empty(ROWS, self.net.hidden)
            every = [block for span in spans for block in blocks(*span, ROWS)]
            for first, end in every:
                block = mine[first:end]
                if of_aggregated is not None:
                    self._below(layer, first, end, (above, of_aggregated), scratch)
                    rowwise.mask(block, scratch[: end - first], self._dropout.scale if self._dropout else 1.0)
                if norm:
                    of_norm = totals[f"norms.{layer}.weight"], totals[f"norms.{layer}.bias"]
                    rowwise.backpropagate_norm(block, norm[0], kept[first:end], scales[first:end], *of_norm)
                self._add(layer, first, end, block, totals, None if first == every[0][0] else piece)
            return totals

        found = sum_pieces(vectors | matrices, team.each(section, self.plan.shard.sections_of(layer)))
        if layer == 0:  # of the first hop's two halves in GraphSAGE
            found |= dict(zip(names, np.split(found[names[0]], len(names), 1), strict=True))
        grads |= found
        return mine

    def _below(self, layer: int, first: int, end: int, above: tuple[Dense, Dense], out: Dense) -> None:
        """Gradient of a block of the layer's output, from those of what the next one summed up and aggregated."""
        summed, aggregated = above
        out, sage = out[: end - first], self.net.kind == "sage"
        if sage:
            own = summed[first:end]
            self._multiply(own, self.state[name_weights(self.net, layer + 1)[1]], out[: len(own)])
            out[len(own) :] = 0
        start, ends, rows, _ = self.plan.transposes[layer + 1]
        scales = self.plan.column_scale, self.plan.scale
        write_scaled_sums(first, end, start, ends, rows, *scales, aggregated, out, sage)

    def _add(
        self, layer: int, first: int, end: int, block: Dense, totals: Mapping[str, Dense], piece: Dense | None
    ) -> None:
        """Add a block's share of the gradients of weights, or with no room for a piece of it put it there.

        What was aggregated becomes its gradient.
        """
        rowwise.add_column_sums(block, totals[name_bias(self.net, layer)])
        inputs = [self._aggregated[-1], self._hidden[-1]] if layer else [self.plan.first.numpy()]
        names = name_weights(self.net, layer)
        for name, input_ in zip(names, inputs, strict=False):
            self._multiply(block.T, input_[first:end], totals[name] if piece is None else piece)
            if piece is not None:
                totals[name] += piece
        if layer:
            self._multiply(block, self.state[names[0]], inputs[0][first:end])

    def _take(self, rows: int) -> Dense:
        return self.plan.workspace.array("hidden", (rows, self.net.hidden), self._dtype)

    def _empty(self, *shape: int) -> Dense:
        return np.empty(shape, self._dtype)
