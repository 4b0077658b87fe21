"""The fitting loop against a plain loop that lets torch do the mixing, its gradient and all sums."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from gnnsoup_hpc.config import Job, LearnedJob
from gnnsoup_hpc.data import loader
from gnnsoup_hpc.graph.subgraph import Batch
from gnnsoup_hpc.soup.methods.learned import BatchStream, fit
from gnnsoup_hpc.soup.mixing import ParameterMatrix
from gnnsoup_hpc.soup.optim import draw_xavier
from gnnsoup_hpc.types import Grouping, Role
from tests import runs


def plain(matrix: ParameterMatrix, batch: Batch, options: LearnedJob, seed: int) -> Tensor:
    """Alpha after all steps of gradient descent, by its definition."""
    groups = list(matrix.groups(options.alpha).values())
    raw, velocity = draw_xavier(seed, len(groups), matrix.ids), torch.zeros(len(groups), len(matrix))
    for step in range(options.epochs):
        raw = raw.detach().requires_grad_()
        shares = raw.softmax(1).float()
        spans = [matrix.weights[:, start:stop] for start, stop in groups]
        row = torch.cat([share @ span for share, span in zip(shares, spans, strict=True)])
        logits = matrix.model.forward(matrix.state(row), batch.graph)[batch.seeds]
        (slope,) = torch.autograd.grad(functional.cross_entropy(logits, batch.targets), raw)
        rate = options.learning_rate * (1 + math.cos(math.pi * (step % options.restart) / options.restart)) / 2
        velocity = options.momentum * velocity + slope
        raw = raw - rate * velocity
    return raw.detach().softmax(1)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("by", ["layer", "tensor", "model"])
def test_alpha_is_that_of_plain_gradient_descent(trained: Job, by: Grouping, momentum: float) -> None:
    options = LearnedJob(epochs=7, learning_rate=5.0, restart=3, momentum=momentum, alpha=by)
    with runs.open_mixtures(trained) as mixtures:
        context = runs.make_context(mixtures, seed=3)
        with context.batches() as batches:
            found = fit(context, options, BatchStream(batches), "ls")
        wanted = plain(mixtures.matrix, loader.load_whole(mixtures.graph, Role.VALIDATION), options, seed=3)
    torch.testing.assert_close(found.alpha, wanted, atol=1e-5, rtol=1e-5)
    assert float((wanted - wanted.mean(1, keepdim=True)).abs().max()) > 0.05  # it went somewhere


def test_raw_alphas_start_with_glorots_deviation() -> None:
    raw = draw_xavier(0, 400, tuple(range(100)))
    assert raw.dtype == torch.float64
    assert float(raw.std()) == pytest.approx(math.sqrt(2 / 500), rel=0.02)  # of 40 000 draws
    assert float(raw.mean()) == pytest.approx(0.0, abs=0.002)


def test_an_ingredient_draws_its_start_from_its_own_id() -> None:
    full = draw_xavier(1, 3, (0, 1, 2, 3))
    assert torch.equal(draw_xavier(1, 3, (3, 1, 0, 2)), full[:, [3, 1, 0, 2]])
