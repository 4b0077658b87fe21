"""The dense part of a layer on a block of rows: products, bias, layer norm, ReLU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gnnsoup_hpc.engine.compiled.kernels import rowwise
from gnnsoup_hpc.engine.compiled.passes import name_bias, name_weights
from gnnsoup_hpc.models.gnn import EPS, Architecture
from gnnsoup_hpc.types import FloatArray


@dataclass(frozen=True)
class DenseLayer:
    """What is done to a layer's sums once they are complete.

    A layer that narrows multiplies before it sums, so the layer before it hands on products, one for each of `handed`.
    Shapes: weight (width, C), or empty where the sums are of products already; bias (C,); norm two of (C,) or none;
    handed: (C, C') each.
    """

    width: int
    weight: FloatArray
    bias: FloatArray
    norm: tuple[FloatArray, ...]
    last: bool
    handed: tuple[FloatArray, ...]

    @property
    def out(self) -> tuple[int, ...]:
        """Widths of what is made of each row."""
        return tuple(matrix.shape[1] for matrix in self.handed) or (len(self.bias),)

    def finish(self, total: FloatArray, scale: FloatArray, outs: Sequence[FloatArray]) -> None:
        """Of a block's sums (n, ·), the first `width` columns still without their scale (n,), all of `outs`."""
        total[:, : self.width] *= scale[:, None]
        made = np.empty((len(total), len(self.bias)), dtype=np.float32) if self.handed else outs[0]
        more = made[:0]
        if self.weight.size:
            np.matmul(total, self.weight, out=made)
        else:
            np.copyto(made, total[:, : self.width])
            more = np.ascontiguousarray(total[:, self.width :]) if total.shape[1] > self.width else more
        rowwise.finish(made, more, self.bias, not self.last and not self.norm)
        if self.norm:
            weight, shift = self.norm
            rowwise.normalise(made, weight, shift, EPS, made[:0], made[:0, 0])
        for matrix, out in zip(self.handed, outs, strict=False):
            np.matmul(made, matrix, out=out)


def narrows(net: Architecture, layer: int) -> bool:
    """Whether a layer multiplies by its weights before it sums: where that is the cheaper order."""
    into, out = net.widths(layer)
    return 0 < layer < net.layers and out < into


def make_dense_layer(net: Architecture, state: Mapping[str, FloatArray], layer: int) -> DenseLayer:
    """The dense part of a layer."""
    weights = [state[name] for name in name_weights(net, layer)]
    into, out = net.widths(layer)
    products = narrows(net, layer)
    last = layer == net.layers - 1
    norm = (state[f"norms.{layer}.weight"], state[f"norms.{layer}.bias"]) if net.norm == "layer" and not last else ()
    return DenseLayer(
        width=out if products else into,
        weight=np.empty((0, 0), dtype=np.float32) if products else np.ascontiguousarray(np.concatenate(weights, 1).T),
        bias=state[name_bias(net, layer)],
        norm=norm,
        last=last,
        handed=tuple(np.ascontiguousarray(w.T) for w in (state[name] for name in name_weights(net, layer + 1)))
        if narrows(net, layer + 1)
        else (),
    )
