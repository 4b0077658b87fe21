"""Exact accuracy of given weights on the nodes of one role."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from gnnsoup_hpc.models import Architecture
from gnnsoup_hpc.records import State
from gnnsoup_hpc.subgraph import View


@torch.no_grad()
def logits(architecture: Architecture, state: State, view: View) -> Tensor:
    """Class scores of the view's nodes, (n, C)."""
    return architecture.logits(state, view.graph)[view.nodes]


def accuracy(scores_nC: Tensor, labels_n: Tensor) -> float:
    """Share of nodes whose highest score is their label's; the first of equal scores counts.

    Scores that are not finite are no prediction: such a model is right nowhere.
    """
    if not bool(torch.isfinite(scores_nC).all()):
        return 0.0
    return int((scores_nC.argmax(1) == labels_n).sum()) / len(labels_n)


def of_weights(architecture: Architecture, state: State, view: View) -> float:
    """Accuracy of one model."""
    return accuracy(logits(architecture, state, view), view.labels)


def of_ensemble(architecture: Architecture, states: Iterable[State], view: View) -> float:
    """Accuracy of the mean of the models' softmax outputs; one model at a time in memory."""
    total = torch.zeros(len(view.nodes), architecture.classes, device=view.graph.x.device)
    for state in states:
        total += logits(architecture, state, view).softmax(1)
    return accuracy(total, view.labels)
