"""GCN and GraphSAGE forward and backward over a plan: gradients of the weights alone, within bounded memory.

Both are one computation: a layer multiplies B = [aggregated | own] (GraphSAGE) or B = aggregated (GCN) by its weights.
B is never whole: a block of rows is put together, multiplied and forgotten. Training keeps what the backward pass
needs (aggregated and hidden states), which that pass then overwrites with their gradients. Its oracle is autograd
through `Architecture.logits` on the whole subgraph.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gnnsoup_hpc import attention
from gnnsoup_hpc.attention.plan import AttentionPlan
from gnnsoup_hpc.kernels import Adjacency
from gnnsoup_hpc.models import Architecture
from gnnsoup_hpc.plan import Plan
from gnnsoup_hpc.subgraph import Subgraph, View

_ROWS = 4096  # of a block: some megabytes, so that what one step writes the next finds in the cache
_EPS = 1e-5  # of layer norm, as in models.py


Ready = Plan | AttentionPlan | View  # what `scores` computes on


def prepared(net: Architecture, view: View) -> Ready:
    """What `scores` computes on, built once a view: a plan on a CPU, on a GPU the view itself."""
    if view.graph.x.device.type != "cpu":
        return view
    return AttentionPlan.of(view, net.layers) if net.kind == "gat" else Plan.of(view, net.kind, net.layers)


def scores(net: Architecture, state: Mapping[str, Tensor], ready: Ready) -> Tensor:
    """Class scores of the nodes that are asked for, (n, C), differentiable in the state's parameters."""
    if isinstance(ready, AttentionPlan):
        return attention.logits(net, state, ready)
    return logits(net, state, ready) if isinstance(ready, Plan) else net.logits(state, ready.graph)[ready.nodes]


def logits(net: Architecture, state: Mapping[str, Tensor], plan: Plan) -> Tensor:
    """The same by a plan."""
    found: Tensor = _Logits.apply(net, plan, *(state[name] for name in net.shapes()))  # type: ignore[no-untyped-call]
    return found


def warm_up(kind: str) -> None:
    """Compile, or load, all that a kind of model needs, so that the first to be measured is not blamed for it."""
    net = Architecture(kind, layers=3, features=4, hidden=4, classes=2)
    structure = Adjacency(torch.arange(5, dtype=torch.int32), torch.arange(4, dtype=torch.int32).roll(1))
    view = View(Subgraph(torch.ones(4, 4), structure), torch.tensor([0]), torch.tensor([0]))
    state = {name: tensor.requires_grad_() for name, tensor in net.initial_state(0).items()}
    scores(net, state, prepared(net, view)).sum().backward()  # type: ignore[no-untyped-call]


class _Logits(torch.autograd.Function):
    """Everything between parameters and class scores as one step of autograd."""

    @staticmethod
    def forward(ctx: Any, net: Architecture, plan: Plan, *parameters: Tensor) -> Tensor:
        state = dict(zip(net.shapes(), parameters, strict=True))
        ctx.run = _Run(net, plan, state, keep=any(ctx.needs_input_grad))
        found: Tensor = ctx.run.forward()
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        run: _Run = ctx.run
        del ctx.run  # its buffers are overwritten: there is no second backward
        grads = run.backward(grad.contiguous())
        return None, None, *(grads[name] for name in run.net.shapes())


@dataclass
class _Run:
    """One forward pass and, if `keep`, its backward pass. hidden[l] is what layer l has made, (rows[l], C)."""

    net: Architecture
    plan: Plan
    state: Mapping[str, Tensor]
    keep: bool
    hidden: list[Tensor] = field(default_factory=list)
    aggregated: list[Tensor] = field(default_factory=list)  # of the layers after the first
    normed: list[tuple[Tensor, Tensor]] = field(default_factory=list)  # before layer norm's weight, 1 / deviation

    def forward(self) -> Tensor:
        for layer in range(self.net.layers):
            out = self._layer(layer)
            if layer == self.net.layers - 1:
                return out
            if not self.keep:
                self.hidden.clear()
            self.hidden.append(out)
        raise AssertionError("an architecture has a layer")

    def _layer(self, layer: int) -> Tensor:
        rows, last = self.plan.rows[layer], layer == self.net.layers - 1
        weight, bias = self._weight(layer), self.state[f"convs.{layer}.{_bias(self.net)}"]
        out = bias.new_empty(rows, len(bias))
        if layer and self.keep:
            self.aggregated.append(out.new_empty(rows, self.net.widths(layer)[0]))
        if self.net.norm == "layer" and self.keep and not last:
            self.normed.append((torch.empty_like(out), out.new_empty(rows, 1)))
        for start, stop in _blocks(rows):
            block = out[start:stop]
            _product(self._block(layer, start, stop), weight.T, block)
            block += bias
            if not last:
                self._activate(layer, start, block)
        return out

    def _activate(self, layer: int, start: int, block: Tensor) -> None:
        """Layer norm where there is one, and ReLU, in place."""
        if self.net.norm == "layer":
            block -= block.mean(1, keepdim=True)
            scale = block.square().mean(1, keepdim=True).add_(_EPS).rsqrt_()
            block *= scale
            if self.keep:
                normed, scales = self.normed[layer]
                normed[start : start + len(block)] = block
                scales[start : start + len(block)] = scale
            block *= self.state[f"norms.{layer}.weight"]
            block += self.state[f"norms.{layer}.bias"]
        block.relu_()

    def _block(self, layer: int, start: int, stop: int) -> Tensor:
        """Rows of B, (stop - start, width)."""
        if layer == 0:
            return self.plan.first[start:stop]
        below, width = self.hidden[-1], self.net.widths(layer)[0]
        parts = 2 if self.net.kind == "sage" else 1
        if not self.keep or parts == 2:
            block = below.new_empty(stop - start, parts * width)
        else:
            block = self.aggregated[layer - 1][start:stop]
        self.plan.layers[layer - 1].sums.into(start, stop, below.numpy(), block[:, :width].numpy())
        if parts == 2:
            block[:, width:] = below[start:stop]
            if self.keep:
                self.aggregated[layer - 1][start:stop] = block[:, :width]
        return block

    def _weight(self, layer: int) -> Tensor:
        """What B is multiplied by, (C, width)."""
        return torch.cat([self.state[name] for name in _weights(self.net, layer)], 1)

    @torch.no_grad()
    def backward(self, grad: Tensor) -> dict[str, Tensor]:
        """Gradients of all parameters, given that of the scores (n, C)."""
        grads: dict[str, Tensor] = {}
        for layer in range(self.net.layers - 1, -1, -1):
            if layer < self.net.layers - 1 and self.net.norm == "layer":
                self._through_norm(layer, grad, grads)
            grads[f"convs.{layer}.{_bias(self.net)}"] = grad.sum(0)
            names = _weights(self.net, layer)
            widths = [self.state[name].shape[1] for name in names]
            grads |= dict(zip(names, torch.split(self._of_weight(layer, grad), widths, 1), strict=True))
            if layer:
                self._below(layer, grad)
                grad = self.hidden.pop()
        return grads

    def _of_weight(self, layer: int, grad: Tensor) -> Tensor:
        """grad^T B, (C, width); what was aggregated becomes its gradient on the way."""
        total = torch.zeros_like(self._weight(layer))
        piece = torch.empty_like(total)
        for start, stop in _blocks(len(grad)):
            mine = grad[start:stop]
            if layer == 0:
                block = self.plan.first[start:stop]
            else:
                block = self.aggregated[-1][start:stop]
                if self.net.kind == "sage":
                    block = torch.cat([block, self.hidden[-1][start:stop]], 1)
            _product(mine.T, block, piece)
            total += piece
            if layer:
                _product(mine, self.state[_weights(self.net, layer)[0]], self.aggregated[-1][start:stop])
        return total

    def _below(self, layer: int, grad: Tensor) -> None:
        """Overwrite the hidden states below `layer` with the gradient of what ReLU was given."""
        hidden, aggregated = self.hidden[-1], self.aggregated.pop()
        transpose = self.plan.layers[layer - 1].transpose
        for start, stop in _blocks(len(hidden)):
            below = hidden.new_empty(stop - start, hidden.shape[1])
            transpose.into(start, stop, aggregated.numpy(), below.numpy())
            if self.net.kind == "sage" and start < len(grad):
                own = below[: max(0, min(stop, len(grad)) - start)]
                own += _product(grad[start:stop], self.state[_weights(self.net, layer)[1]], torch.empty_like(own))
            block = hidden[start:stop]
            torch.mul(below, block > 0, out=block)

    def _through_norm(self, layer: int, grad: Tensor, grads: dict[str, Tensor]) -> None:
        """Overwrite the gradient of layer norm's output with that of its input."""
        normed, scales = self.normed.pop()
        weight = self.state[f"norms.{layer}.weight"]
        of_weight, of_bias = torch.zeros_like(weight), torch.zeros_like(weight)
        for start, stop in _blocks(len(grad)):
            block, mine = grad[start:stop], normed[start:stop]
            of_bias += block.sum(0)
            of_weight += (block * mine).sum(0)
            block *= weight
            shift = (block * mine).mean(1, keepdim=True)
            block -= block.mean(1, keepdim=True)
            block -= mine * shift
            block *= scales[start:stop]
        grads[f"norms.{layer}.weight"], grads[f"norms.{layer}.bias"] = of_weight, of_bias


def _bias(net: Architecture) -> str:
    return "lin_l.bias" if net.kind == "sage" else "bias"


def _weights(net: Architecture, layer: int) -> list[str]:
    """Names of the weights that B is multiplied by, side by side."""
    names = ["lin_l.weight", "lin_r.weight"] if net.kind == "sage" else ["lin.weight"]
    return [f"convs.{layer}.{name}" for name in names]


def _blocks(rows: int) -> Iterator[tuple[int, int]]:
    for start in range(0, rows, _ROWS):
        yield start, min(start + _ROWS, rows)


def _product(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """The dense product a b into `out`."""
    return torch.mm(a, b, out=out)
