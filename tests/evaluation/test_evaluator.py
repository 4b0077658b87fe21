"""Accuracy of weights and of ensembles."""

from __future__ import annotations

import pytest
import torch

from gnnsoup_hpc.evaluation import evaluator
from gnnsoup_hpc.graph.subgraph import Batch, Subgraph
from gnnsoup_hpc.models.gnn import Architecture
from tests.arbitrary import normal, random_structure

NET = Architecture("gcn", 2, 4, 8, 3)


@pytest.fixture
def view() -> Batch:
    graph = Subgraph(normal(0, 20, 4, kind=torch.float32), random_structure(20, 60).adjacency())
    return Batch(graph, torch.tensor([1, 4, 7, 12]), torch.tensor([0, 2, 1, 1]))


def test_accuracy_is_the_share_of_hits() -> None:
    scores = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.5, 0.5]])
    assert evaluator.accuracy(scores, torch.tensor([1, 1, 1, 0])) == 0.75  # of equal scores the first counts
    assert evaluator.accuracy(scores, torch.tensor([1, 1, 1, 1])) == 0.5


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_scores_that_are_not_finite_are_right_nowhere(bad: float) -> None:
    scores = torch.tensor([[0.0, 1.0], [0.0, bad]])
    assert evaluator.accuracy(scores, torch.tensor([1, 0])) == 0.0


def test_only_the_views_nodes_are_scored(view: Batch) -> None:
    state = NET.init_state(0)
    scores = evaluator.logits(NET, state, view)
    assert torch.equal(scores, NET.forward(state, view.graph)[view.nodes])
    assert evaluator.of_weights(NET, state, view) == evaluator.accuracy(scores, view.labels)


def test_ensemble_is_the_mean_of_softmax_outputs_and_not_of_scores(view: Batch) -> None:
    states = [{name: 2.0**seed * t for name, t in NET.init_state(1 + seed).items()} for seed in range(4)]
    scores = torch.stack([NET.forward(state, view.graph) for state in states])
    voted, loudest = scores.softmax(2).mean(0).argmax(1), scores.mean(0).argmax(1)
    everywhere = Batch(view.graph, torch.arange(20), voted)
    assert not torch.equal(voted, loudest)
    assert evaluator.of_ensemble(NET, iter(states), everywhere) == 1.0


def test_ensemble_of_one_is_that_one(view: Batch) -> None:
    for seed in range(5):
        state = NET.init_state(seed)
        assert evaluator.of_ensemble(NET, [state], view) == evaluator.of_weights(NET, state, view)
