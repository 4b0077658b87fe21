"""What is done to a block of rows between dense products, in one pass while it is in the core's cache."""

from __future__ import annotations

from typing import Any

from gnnsoup_hpc.engine.compiled.kernels.base import compile_kernel, compile_reassociating


@compile_kernel
def finish(out: Any, other: Any, bias: Any, relu: bool) -> None:
    """Out += other (n, C) or nothing (0, C), + bias (C,); then ReLU where asked."""
    both = len(other) > 0
    zero = out.dtype.type(0)
    for r in range(len(out)):
        row = out[r]
        if both:
            addend = other[r]
            for j in range(len(row)):
                row[j] += addend[j]
        for j in range(len(row)):
            value = row[j] + bias[j]
            row[j] = max(value, zero) if relu else value


@compile_reassociating
def normalise(x: Any, eps: float, scales: Any) -> None:
    """Rows of x (n, C) less their mean, over their deviation, in place; scales (n,): 1 / deviation, or none is kept."""
    zero = x.dtype.type(0)
    width = x.shape[1]
    share = x.dtype.type(1) / x.dtype.type(width)
    for r in range(len(x)):
        row = x[r]
        mean = zero
        for j in range(width):
            mean += row[j]
        mean *= share
        variance = zero
        for j in range(width):
            centred = row[j] - mean
            variance += centred * centred
        scale = x.dtype.type(1) / (variance * share + x.dtype.type(eps)) ** x.dtype.type(0.5)
        for j in range(width):
            row[j] = (row[j] - mean) * scale
        if len(scales) > 0:
            scales[r] = scale


@compile_kernel
def activate(normed: Any, weight: Any, shift: Any, out: Any) -> None:
    """Out = ReLU of what layer norm makes of normalised rows, (n, C) each; in other memory, or there are no vectors."""
    zero = out.dtype.type(0)
    for r in range(len(out)):
        states, row = normed[r], out[r]
        for j in range(len(row)):
            row[j] = max(states[j] * weight[j] + shift[j], zero)


@compile_kernel
def mask(hidden: Any, grad: Any, scale: float) -> None:
    """Overwrite what ReLU gave, and dropout left, times `scale` with the gradient of what ReLU was given."""
    zero, factor = grad.dtype.type(0), grad.dtype.type(scale)
    for r in range(len(hidden)):
        states, mine = hidden[r], grad[r]
        for j in range(len(states)):
            states[j] = mine[j] * factor if states[j] > zero else zero


@compile_reassociating
def backpropagate_norm(grad: Any, weight: Any, normed: Any, scales: Any, of_weight: Any, of_shift: Any) -> None:
    """Overwrite normalised rows with the gradient of layer norm's input, given that of its output, which is lost.

    Adds the gradients of its weight and shift.
    """
    zero = grad.dtype.type(0)
    width = grad.shape[1]
    share = grad.dtype.type(1) / grad.dtype.type(width)
    for r in range(len(grad)):
        row, states = grad[r], normed[r]
        mean, product = zero, zero
        for j in range(width):
            of_shift[j] += row[j]
            of_weight[j] += row[j] * states[j]
            row[j] *= weight[j]
        for j in range(width):
            mean += row[j]
            product += row[j] * states[j]
        mean *= share
        product *= share
        for j in range(width):
            states[j] = (row[j] - mean - states[j] * product) * scales[r]


@compile_kernel
def add_column_sums(x: Any, total: Any) -> None:
    """Total (C,) += the sum of the rows of x (n, C)."""
    for r in range(len(x)):
        row = x[r]
        for j in range(len(row)):
            total[j] += row[j]


@compile_kernel
def blend(share: float, x: Any, y: Any, out: Any) -> None:
    """Out = share * x + (1 - share) * y, all (n, C)."""
    a = out.dtype.type(share)
    b = out.dtype.type(1.0 - share)
    for r in range(len(out)):
        left, right, row = x[r], y[r], out[r]
        for j in range(len(row)):
            row[j] = a * left[j] + b * right[j]
