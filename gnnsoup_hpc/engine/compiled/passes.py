"""One pass of GCN or GraphSAGE over a plan, forward and backward: gradients of the weights alone, in bounded memory.

Both models are one computation: GCN's layer multiplies a normalised sum of states by a matrix, GraphSAGE's adds to that
of a mean the product of a node's own state with another. A layer multiplies what it has summed up, or sums up products
of states where that is less work (`choose_early`). A chunk of rows goes through all of a layer block by block, while it
is in the core's cache: summed up, normalised, activated, and multiplied where the next layer sums up products. For its
backward pass a layer keeps its rows as they are before the norm's weight, which are overwritten with their gradients,
and sums that it has multiplied; states are made again. Where ranks split the rows, each tells the others of its halo
between two layers, and has its own share of the gradients. Its oracle is the torch engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from gnnsoup_hpc.engine.compiled.kernels import features, rowwise
from gnnsoup_hpc.engine.compiled.kernels.dropout import drop_states
from gnnsoup_hpc.engine.compiled.kernels.sums import write_scaled_sums
from gnnsoup_hpc.engine.compiled.plan import CompiledPlan, choose_early, choose_product, find_masks, sum_pieces
from gnnsoup_hpc.engine.threads import Span, ThreadTeam, blocks
from gnnsoup_hpc.models.base import CountedDropout
from gnnsoup_hpc.models.gnn import EPS, Architecture, find_norm, name_bias, name_weights
from gnnsoup_hpc.types import Dense

ROWS = 768  # of a block: what one step writes the next finds in the core's own cache
Interpolation = tuple[float, Dense, Dense]  # share, and of two states what their first weights make of the first hop
_Add = Callable[[str, Dense, Dense], None]  # to a weight's gradient: gradients (n, C) of what inputs (n, width) gave


class _Layer:
    """A layer in a pass: its parameters, and memory that has a row for each of its rows, or columns where that is said.

    weights: (C, in) each, of the sums and, in GraphSAGE, of a node's own state. early: whether it sums up products.
    given: whether its sums are the plan's first ones.
    summed: what it sums up, of its columns: states, or their products. own: of an early layer of GraphSAGE, products of
    its rows' own states. sums: what it has summed up, if the backward pass needs it, which puts its gradient there.
    rows: what it has made: with a norm normalised, else activated, of the last layer scores; later the gradient of what
    norm or activation were given. scales: 1 / deviation of a row, of the norm.
    """

    def __init__(self, net: Architecture, number: int, state: Mapping[str, Dense], early: bool) -> None:
        self.number, self.early, self.last = number, early, number == net.layers - 1
        self.given = number == 0 and not early
        self.names, self.name_of_bias = name_weights(net, number), name_bias(net, number)
        self.names_of_norm = [f"norms.{number}.{name}" for name in ("weight", "bias")]
        self.weights, self.bias = [state[name] for name in self.names], state[self.name_of_bias]
        self.norm = find_norm(state, number)
        self.width = self.weights[0].shape[0 if early else 1]  # of what it sums up
        self.summed = self.own = self.sums = self.rows = np.empty((0, 0), self.bias.dtype)
        self.scales = np.empty(0, self.bias.dtype)

    @property
    def matrices(self) -> list[Dense]:
        """What inputs are multiplied by, (in, C) each; the first hop is one input."""
        weights = [weight.T for weight in self.weights]
        return [np.concatenate(weights)] if self.given else [np.ascontiguousarray(weight) for weight in weights]


class ForwardBackward:
    """One forward pass and, if `keep`, its backward pass.

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
        self._plan, self._keep, self._first, self._dropout = plan, keep, first, dropout
        self._multiply = choose_product(plan.precision)
        reach = plan.shard.reach.tolist()[::-1]
        early = choose_early(plan.net, reach[plan.place(0) :], keep, plan.sums_first)
        self._layers = [_Layer(plan.net, number, state, early[number]) for number in range(plan.net.layers)]
        self._dtype = self._layers[0].bias.dtype

    # ---- forward

    def forward(self) -> Dense:
        """Class scores of this rank's seed nodes, (n, C)."""
        with ThreadTeam() as team:
            if not self._layers[0].given:
                self._multiply_features(team, self._layers[0])
            for layer, above in zip(self._layers, [*self._layers[1:], None], strict=True):
                self._take_room(layer, above)
                self._compute(team, layer, above)
                layer.summed = layer.own = self._empty(0, 0)  # the next layers may use their memory
                if above:
                    layer.rows = layer.rows if self._keep else layer.own
                    self._plan.comm.exchange(above.summed, self._plan.shard.states[self._plan.place(layer.number)])
        return self._layers[-1].rows[slice(*self._plan.shard.own)]

    def _multiply_features(self, team: ThreadTeam, layer: _Layer) -> None:
        """Of sparse features, what the first layer sums up, and in GraphSAGE products of its rows' own ones."""
        plan, made = self._plan, [self._take(self._plan.columns(0), layer.width)]
        if len(layer.weights) > 1:
            made.append(self._take(plan.rows[0], layer.width))
        x, matrices = plan.features, layer.matrices

        def chunk(start: int, stop: int) -> None:
            for matrix, out in zip(matrices, made, strict=True):
                features.write_products(start, min(stop, len(out)), x.indptr, x.indices, x.data, matrix, out)

        team.each(chunk, plan.shard.chunks(0))
        layer.summed, layer.own = made[0], made[1] if len(made) > 1 else layer.own
        plan.comm.exchange(layer.summed, plan.shard.states[0])

    def _take_room(self, layer: _Layer, above: _Layer | None) -> None:
        """Memory for what a layer makes and keeps, and for what the layer above sums up."""
        count, width = self._plan.rows[layer.number], len(layer.bias)
        as_they_are = above and not above.early and not layer.norm  # what is made is what the layer above sums up
        if len(layer.own):
            layer.rows = layer.own
        elif self._keep or as_they_are or layer.last:
            layer.rows = self._take(count, width)
        if self._keep and layer.number and not layer.early:
            layer.sums = self._take(count, layer.width)
        if self._keep and layer.norm:
            layer.scales = np.empty(count, self._dtype)
        if above:
            above.summed = layer.rows if as_they_are else self._take(count, above.width)
            if above.early and len(above.weights) > 1:
                above.own = self._take(self._plan.rows[above.number], above.width)

    def _compute(self, team: ThreadTeam, layer: _Layer, above: _Layer | None) -> None:
        """A layer's rows, and what the layer above sums up."""
        width, matrices, handed = len(layer.bias), layer.matrices, above.matrices if above and above.early else []

        def chunk(start: int, stop: int) -> None:
            rooms = [self._empty(ROWS, columns) for columns in (layer.width, width, width, width)]
            for first, end in blocks(start, stop, ROWS):
                sums, other, spare, states = (room[: end - first] for room in rooms)
                block = layer.rows[first:end] if len(layer.rows) else spare
                more = self._convolve(layer, first, matrices, block, (sums, other))
                rowwise.finish(block, more, layer.bias, not layer.last and not layer.norm)
                if layer.norm:
                    rowwise.normalise(block, EPS, layer.scales[first:end])
                if above:
                    states = states if above.early else above.summed[first:end]
                    states = self._activate(layer, first, block, states)
                    for out, matrix in zip((above.summed, above.own), handed, strict=False):
                        into = out[first:end]
                        self._multiply(states[: len(into)], matrix, into)

        team.each(chunk, self._plan.shard.chunks(self._plan.place(layer.number)))

    def _convolve(
        self, layer: _Layer, first: int, matrices: list[Dense], block: Dense, room: tuple[Dense, Dense]
    ) -> Dense:
        """A layer's convolution of rows from `first` on, but for its bias: `block`, and what is to be added to it."""
        plan, end, (sums, other) = self._plan, first + len(block), room
        if layer.given:
            if self._first is None:
                self._multiply(plan.first.numpy()[first:end], matrices[0], block)
            else:
                share, x, y = self._first
                rowwise.blend(share, x[first:end], y[first:end], block)
            return block[:0]
        beside = len(layer.weights) > 1
        if len(layer.sums):
            sums = layer.sums[first:end]
        elif layer.early and not beside:
            sums = block
        of, scales = (plan.start, plan.start[1:], plan.indices, plan.values), (plan.scale, plan.column_scale)
        write_scaled_sums(first, end, *of, *scales, layer.summed, sums, False)
        if layer.early:
            return sums if beside else block[:0]
        self._multiply(sums, matrices[0], block)
        if beside:
            self._multiply(layer.summed[first:end], matrices[1], other)
        return other if beside else block[:0]

    def _activate(self, layer: _Layer, first: int, block: Dense, room: Dense) -> Dense:
        """The states that a layer's rows from `first` on become, in `room`; without a norm in place, once for all."""
        if layer.norm:
            rowwise.activate(block, *layer.norm, room)
        states = room if layer.norm else block
        if self._dropout:
            nodes = self._plan.nodes[first : first + len(states)]
            drop_states(nodes, *find_masks(self._dropout, layer.number), states)
        return states

    def multiply_first(self) -> Dense:
        """What the first weights make of the first hop, (rows[0], C), in memory of the plan's workspace."""
        inputs, (weights,) = self._plan.first.numpy(), self._layers[0].matrices
        out = self._take(len(inputs), weights.shape[1])

        def chunk(start: int, stop: int) -> None:
            for first, end in blocks(start, stop, ROWS):
                self._multiply(inputs[first:end], weights, out[first:end])

        with ThreadTeam() as team:
            team.each(chunk, self._plan.shard.chunks(0))
        return out

    # ---- backward

    def backward(self, grad: Dense) -> dict[str, Dense]:
        """Gradients of all parameters, float64, given that of the scores (n, C): what this rank's rows add to them."""
        grads: dict[str, Dense] = {}
        self._layers[-1].rows = self._plan.spread(grad)
        above = None
        with ThreadTeam() as team:
            while self._layers:
                layer = self._layers.pop()
                grads |= self._back(team, layer, above)
                if not layer.given:
                    of_summed = layer.rows if layer.early else layer.sums
                    place = self._plan.place(layer.number)
                    self._plan.comm.exchange(of_summed, self._plan.shard.gradients[place - 1])
                above = layer
            return grads if layer.given else grads | self._back_features(team, layer)

    def _back(self, team: ThreadTeam, layer: _Layer, above: _Layer | None) -> dict[str, Dense]:
        """Gradients of the parameters that a layer's rows are needed for: `_name_gradients`."""
        shapes, first_hop = self._name_gradients(layer, above), self._plan.first.numpy() if layer.given else layer.rows
        width = len(layer.bias)

        def section(*spans: Span) -> dict[str, Dense]:
            totals = {name: np.zeros(shape, self._dtype) for name, shape in shapes.items()}
            pieces = {name: self._empty(*shape) for name, shape in shapes.items() if len(shape) > 1}
            rooms = [self._empty(ROWS, columns) for columns in (width, width, width, above.width if above else 0)]

            def add(name: str, grads: Dense, inputs: Dense) -> None:
                self._multiply(grads.T, inputs, pieces[name])
                totals[name] += pieces[name]

            for first, end in (block for span in spans for block in blocks(*span, ROWS)):
                block = layer.rows[first:end]
                if above:
                    grad, states, spare, products = (room[: end - first] for room in rooms)
                    states = self._activate(layer, first, block, states) if layer.norm else block
                    self._gather(above, first, states, grad, (spare, products), add)
                    rowwise.mask(states, grad, self._dropout.scale if self._dropout else 1.0)
                    if layer.norm:
                        of_norm = (totals[name] for name in layer.names_of_norm)
                        rowwise.backpropagate_norm(states, layer.norm[0], block, layer.scales[first:end], *of_norm)
                rowwise.add_column_sums(block, totals[layer.name_of_bias])
                if layer.given:
                    add(layer.names[0], block, first_hop[first:end])
                elif not layer.early:
                    add(layer.names[0], block, layer.sums[first:end])
                    self._multiply(block, layer.weights[0], layer.sums[first:end])
            return totals

        place = self._plan.place(layer.number)
        found = sum_pieces(shapes, team.each(section, self._plan.shard.sections_of(place)))
        if layer.given:  # of the first hop's two halves in GraphSAGE
            found |= dict(zip(layer.names, np.split(found[layer.names[0]], len(layer.names), 1), strict=True))
        return found

    def _back_features(self, team: ThreadTeam, layer: _Layer) -> dict[str, Dense]:
        """Gradients of the weights that multiply sparse features."""
        plan, x = self._plan, self._plan.features
        shapes = dict.fromkeys(layer.names, (x.shape[1], layer.width))
        of, scales = plan.transposes[0], (plan.column_scale, plan.scale)

        def section(*spans: Span) -> dict[str, Dense]:
            totals = {name: np.zeros(shape, self._dtype) for name, shape in shapes.items()}
            room = self._empty(ROWS, layer.width)
            for first, end in (block for span in spans for block in blocks(*span, ROWS)):
                products, own = room[: end - first], layer.rows[first:end]  # columns after the rows are no rows
                write_scaled_sums(first, end, *of, *scales, layer.rows, products, False)
                for name, grad in zip(layer.names, (products, own), strict=False):
                    features.add_gradients(first, first + len(grad), x.indptr, x.indices, x.data, grad, totals[name])
            return totals

        found = sum_pieces(shapes, team.each(section, plan.shard.sections_of(0)))
        return {name: np.ascontiguousarray(grad.T) for name, grad in found.items()}

    def _name_gradients(self, layer: _Layer, above: _Layer | None) -> dict[str, tuple[int, ...]]:
        """Shapes of gradients by name: of bias and norm, of a weight of sums, and of those above that multiply states.

        The first hop is one input: of all its weights there is one gradient.
        """
        names = layer.names[: 0 if layer.early else 1]
        width = self._plan.first.shape[1] if layer.given else layer.width
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(names, (len(layer.bias), width))
        if above:
            shapes |= dict.fromkeys(above.names[0 if above.early else 1 :], above.weights[0].shape)
        return shapes | dict.fromkeys(
            [layer.name_of_bias, *(layer.names_of_norm if layer.norm else [])], layer.bias.shape
        )

    def _gather(
        self, above: _Layer, first: int, states: Dense, grad: Dense, rooms: tuple[Dense, Dense], add: _Add
    ) -> None:
        """The gradient of states from row `first` on, by all that the layer above makes of them; adds its weights'."""
        plan, end, (spare, products) = self._plan, first + len(states), rooms
        of, scales = plan.transposes[above.number], (plan.column_scale, plan.scale)
        of_summed, into = (above.rows, products) if above.early else (above.sums, grad)
        write_scaled_sums(first, end, *of, *scales, of_summed, into, False)
        if above.early:
            add(above.names[0], products, states)
            self._multiply(products, above.weights[0], grad)
        for name, weight in zip(above.names[1:], above.weights[1:], strict=True):
            own = above.rows[first:end]  # columns after the rows are no rows
            if len(own):
                add(name, own, states[: len(own)])
                self._multiply(own, weight, spare[: len(own)])
                grad[: len(own)] += spare[: len(own)]

    def _take(self, rows: int, width: int) -> Dense:
        purpose = "hidden" if width == self._plan.net.hidden else "narrow"
        return self._plan.workspace.array(purpose, (rows, width), self._dtype)

    def _empty(self, *shape: int) -> Dense:
        return np.empty(shape, self._dtype)
