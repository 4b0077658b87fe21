"""Sums over neighbours with fixed weights: what the first layer of some models computes once for all weights."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Aggregation:
    """A product of the graph's structure with features that no weight has a part in.

    name: as files call it. loops: whether a node is its own neighbour too. symmetric: entries are scaled by
    1 / sqrt(degree) of both ends, else by 1 / degree of the row. beside_own: the layer takes the node's own features
    too.
    """

    name: str
    long_name: str
    loops: bool
    symmetric: bool
    beside_own: bool


MEAN = Aggregation("sage", "mean of the in-neighbours' features", loops=False, symmetric=False, beside_own=True)
NORMALISED_SUM = Aggregation("gcn", "GCN's normalised sum of features", loops=True, symmetric=True, beside_own=False)
AGGREGATIONS = {each.name: each for each in (MEAN, NORMALISED_SUM)}
