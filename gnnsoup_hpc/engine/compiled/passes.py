"""One pass of GCN or GraphSAGE over a plan, forward and backward: gradients of the weights alone, in bounded memory.

Both models are one computation: a layer adds up products of a matrix with a weight matrix, [mean(h) | h] of GraphSAGE,
GCN's normalised sum of h. A chunk of rows goes through all of a layer block by block: aggregated, multiplied, activated
while it is in the core's cache. Training keeps what the backward pass needs (aggregated and hidden states), which that
pass overwrites with their gradients. Where ranks split the rows, each tells the others of its halo between two
layers, and has its own share of the gradients. Its oracle is the torch engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gnnsoup_hpc.engine.compiled.kernels import rowwise
from gnnsoup_hpc.engine.compiled.kernels import sums as kernels
from gnnsoup_hpc.engine.compiled.plan import CompiledPlan, choose_product, sum_pieces
from gnnsoup_hpc.engine.threads import Span, ThreadTeam, blocks
from gnnsoup_hpc.models.gnn import EPS, Architecture, layer_of
from gnnsoup_hpc.types import Dense

ROWS = 1536  # of a block: what one step writes the next finds in the core's own cache
_FIRST = "first"  # names the gradient of all weights of the first layer, side by side


@dataclass(frozen=True)
class Interpolation:
    """share * start + (1 - share) * end, (rows[0], C) each: what the first weights make of the first hop, no bias."""

    start: Dense
    end: Dense
    share: float


class ForwardBackward:
    """One forward pass and, if `keep`, its backward pass. hidden[l] is what layer l has made, (rows[l], C).

    Ranks that share the batch exchange halo rows between layers: then both passes are rank-collective.
    """

    def __init__(
        self, plan: CompiledPlan, state: Mapping[str, Dense], keep: bool, first: Interpolation | None = None
    ) -> None:
        self.net, self.plan, self.state, self.keep, self._first = plan.net, plan, state, keep, first
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
        out = self._empty(rows, len(bias)) if last else self._take(rows)
        if layer and self.keep:
            self._aggregated.append(self._take(rows))
        if self._norms(layer) and self.keep:
            self._normed.append((self._take(rows), self._empty(rows)))

        def chunk(start: int, stop: int) -> None:
            scratch = self._empty(ROWS, self.net.hidden if layer else 0)
            other = self._empty(ROWS if len(weights) > 1 else 0, len(bias))
            for first, end in blocks(start, stop, ROWS):
                block, more = out[first:end], other[: end - first]
                self._products(layer, first, end, weights, (block, more, scratch))
                rowwise.finish(block, more, bias, not last and not self._norms(layer))
                if self._norms(layer):
                    self._normalise(layer, first, end, block)

        team.each(chunk, self.plan.shard.chunks(layer))
        return out

    def _products(
        self, layer: int, first: int, end: int, weights: list[Dense], room: tuple[Dense, Dense, Dense]
    ) -> None:
        """Products of a block's inputs with the weights, one each into the first two matrices of `room`."""
        if layer == 0 and self._first is not None:
            rowwise.blend(self._first.share, self._first.start[first:end], self._first.end[first:end], room[0])
            return
        below = self.plan.first.numpy() if layer == 0 else self._hidden[-1]
        inputs = [below[first:end]]
        if layer:
            aggregated = self._aggregated[layer - 1][first:end] if self.keep else room[2][: end - first]
            of, scale = self.plan, self.plan.scale
            kernels.write_scaled_sums(
                *(first, end, of.start, of.start[1:], of.indices, scale, of.column_scale, below, aggregated, False)
            )
            inputs.insert(0, aggregated)
        for input_, weight, out in zip(inputs, weights, room, strict=False):
            self._multiply(input_, weight, out)

    def _matrices(self, layer: int) -> list[Dense]:
        """What the layer's inputs are multiplied by, (width, C) each; the first hop is one input."""
        weights = [self.state[name].T for name in name_weights(self.net, layer)]
        return [np.ascontiguousarray(weight) for weight in weights] if layer else [np.concatenate(weights)]

    def _normalise(self, layer: int, first: int, end: int, block: Dense) -> None:
        weight, shift = self.state[f"norms.{layer}.weight"], self.state[f"norms.{layer}.bias"]
        kept, scales = self._normed[layer] if self.keep else (block[:0], block[:0, 0])
        rowwise.normalise(block, weight, shift, EPS, kept[first:end], scales[first:end])

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
        last = layer == self.net.layers - 1
        mine = above if last else self._hidden.pop()
        of_aggregated = None if last else self._aggregated.pop()
        normed = self._normed.pop() if self._norms(layer) else None
        shapes, matrices = self._shapes(layer), self._matrices_of(layer)

        def section(*spans: Span) -> dict[str, Dense]:
            # Gradients of matrices are first written, then added to.
            totals = {
                name: (np.empty if name in matrices else np.zeros)(shape, self._dtype) for name, shape in shapes.items()
            }
            piece = self._empty(*shapes[matrices[0]])
            scratch = self._empty(ROWS, self.net.hidden)
            every = [block for span in spans for block in blocks(*span, ROWS)]
            for first, end in every:
                block = mine[first:end]
                if of_aggregated is not None:
                    self._below(layer, first, end, (above, of_aggregated), scratch)
                    rowwise.mask(block, scratch[: end - first])
                if normed is not None:
                    weight, shift = f"norms.{layer}.weight", f"norms.{layer}.bias"
                    kept, scales = normed[0][first:end], normed[1][first:end]
                    rowwise.backpropagate_norm(block, self.state[weight], kept, scales, totals[weight], totals[shift])
                self._add(layer, first, end, block, totals, None if first == every[0][0] else piece)
            return totals

        found = sum_pieces(shapes, team.each(section, self.plan.shard.sections_of(layer)))
        if layer == 0:  # of the first hop's two halves in GraphSAGE
            names = name_weights(self.net, 0)
            found |= dict(zip(names, np.split(found.pop(_FIRST), len(names), 1), strict=True))
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
        row_scale, scale = self.plan.column_scale, self.plan.scale
        kernels.write_scaled_sums(first, end, start, ends, rows, row_scale, scale, aggregated, out, sage)

    def _shapes(self, layer: int) -> dict[str, tuple[int, ...]]:
        """Of a layer's gradients."""
        own = {name: array.shape for name, array in self.state.items() if layer_of(name) == layer}
        vectors = {name: shape for name, shape in own.items() if len(shape) == 1}
        width = self.plan.first.shape[1] if layer == 0 else self.net.hidden
        return vectors | {name: (self.net.widths(layer)[1], width) for name in self._matrices_of(layer)}

    def _matrices_of(self, layer: int) -> list[str]:
        """Names of the gradients of matrices: of the first layer one for all that the first hop is multiplied by."""
        return name_weights(self.net, layer) if layer else [_FIRST]

    def _add(
        self, layer: int, first: int, end: int, block: Dense, totals: Mapping[str, Dense], piece: Dense | None
    ) -> None:
        """Add a block's share of the gradients of weights, or with no room for a piece of it put it there.

        What was aggregated becomes its gradient.
        """
        rowwise.add_column_sums(block, totals[name_bias(self.net, layer)])
        if layer == 0:
            inputs = [self.plan.first.numpy()[first:end]]
        else:
            inputs = [self._aggregated[-1][first:end], self._hidden[-1][first:end]]
        for name, input_ in zip(self._matrices_of(layer), inputs, strict=False):
            self._multiply(block.T, input_, totals[name] if piece is None else piece)
            if piece is not None:
                totals[name] += piece
        if layer:
            self._multiply(block, self.state[name_weights(self.net, layer)[0]], inputs[0])

    def _norms(self, layer: int) -> bool:
        return self.net.norm == "layer" and layer < self.net.layers - 1

    def _take(self, rows: int) -> Dense:
        return self.plan.workspace.array("hidden", (rows, self.net.hidden), self._dtype)

    def _empty(self, *shape: int) -> Dense:
        return np.empty(shape, self._dtype)


def name_bias(net: Architecture, layer: int) -> str:
    """Name of the bias of a layer."""
    return f"convs.{layer}.{'lin_l.bias' if net.kind == 'sage' else 'bias'}"


def name_weights(net: Architecture, layer: int) -> list[str]:
    """Names of the weights of a layer: of what is aggregated and, in GraphSAGE, of the node's own."""
    names = ["lin_l.weight", "lin_r.weight"] if net.kind == "sage" else ["lin.weight"]
    return [f"convs.{layer}.{name}" for name in names]


def multiply_first(plan: CompiledPlan, state: Mapping[str, Dense]) -> Dense:
    """What the first weights make of the first hop, (rows[0], C), in memory of the plan's workspace."""
    first, multiply = plan.first.numpy(), choose_product(plan.precision)
    weights = np.concatenate([state[name].T for name in name_weights(plan.net, 0)])
    out = plan.workspace.array("hidden", (len(first), weights.shape[1]), first.dtype)

    def chunk(start: int, stop: int) -> None:
        for one, end in blocks(start, stop, ROWS):
            multiply(first[one:end], weights, out[one:end])

    with ThreadTeam() as team:
        team.each(chunk, plan.shard.chunks(0))
    return out
