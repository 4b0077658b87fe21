"""The fitting loop that LS and PLS share: gradient descent on raw alphas over a stream of subgraphs.

LS streams the whole graph, PLS a fresh union of parts each step; that is their only difference (arXiv 2503.11612).
Each ingredient draws its raw start from its own id, so the order on the shelf does not matter.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator
from contextlib import closing

import torch
from torch import Tensor

from gnnsoup_hpc.engine import Ready
from gnnsoup_hpc.job import LearnedJob
from gnnsoup_hpc.records import Mixture, Step
from gnnsoup_hpc.seeds import torch_generator
from gnnsoup_hpc.soup.kitchen import Kitchen
from gnnsoup_hpc.soup.mixing import mixed

_CPU = torch.device("cpu")


def fitted(kitchen: Kitchen, options: LearnedJob, views: Generator[Ready], title: str) -> Mixture:
    """Alpha = softmax over ingredients of raw (G, N), after `options.epochs` steps of SGD with warm restarts.

    Closes the stream of views, whatever comes.
    """
    with closing(views):
        return _fitted(kitchen, options, views, title)


def _fitted(kitchen: Kitchen, options: LearnedJob, views: Iterator[Ready], title: str) -> Mixture:
    shelf = kitchen.shelf
    groups = tuple(shelf.groups(options.alpha))
    raw = xavier_normal(kitchen.seed, len(groups), shelf.ids).to(kitchen.device).requires_grad_()
    log_scale = torch.zeros((), dtype=torch.float64, device=kitchen.device, requires_grad=options.logit_scale)
    learned = [raw, log_scale] if options.logit_scale else [raw]
    optimiser = torch.optim.SGD(learned, lr=options.learning_rate, momentum=options.momentum)
    schedule = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimiser, options.restart, options.restart_factor)
    history: list[Step] = []
    bar = kitchen.bar(options.epochs, title)
    for number in range(1, options.epochs + 1):
        start = time.perf_counter()
        view = next(views)
        optimiser.zero_grad(set_to_none=True)
        state = mixed(shelf, raw.softmax(1), options.alpha)
        loss, right = kitchen.loss(state, view, log_scale.exp().float() if options.logit_scale else None)
        kitchen.backward(loss, view)
        rate = float(schedule.get_last_lr()[0])
        optimiser.step()
        schedule.step()
        kitchen.trace(number, raw.detach().softmax(1))
        history.append(Step(number, float(loss.detach()), right, rate, time.perf_counter() - start))
        bar.advance(f"loss {history[-1].loss:.4f}")
        del view, state, loss  # before the next subgraph is read
    bar.close()
    return Mixture(raw.detach().softmax(1).cpu(), groups, options.alpha, tuple(history))


def xavier_normal(seed: int, groups: int, ids: tuple[int, ...]) -> Tensor:
    """Raw alphas (G, N) with Glorot's standard deviation sqrt(2 / (G + N)), float64."""
    columns = [
        torch.randn(groups, generator=torch_generator(_CPU, seed, 0, index), dtype=torch.float64) for index in ids
    ]
    return torch.stack(columns, 1) * math.sqrt(2.0 / (groups + len(ids)))
