"""What an engine's memory is told from: the extent of what it computes on, and bytes by what they are for.

V nodes, E entries (directed), F features, H hidden channels, C outputs, L layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Terms = Mapping[str, int]  # bytes by what they are for
FLOAT = 4
SPARSE_VALUE = 8  # bytes of a value that is not zero, and which one it is


@dataclass(frozen=True)
class Extent:
    """A graph, the union of some of its parts, a sample, or a rank's share, in numbers.

    read: entries of its rows; entries: those inside it; seeds: nodes that a loss or a metric is of; crossing: entries
    between own nodes and others', both ways. values: of sparse features, those that are not zero; 0 where features are
    dense. dense: whether features are held with their zeros.
    """

    nodes: int
    read: int
    entries: int
    seeds: int
    crossing: int = 0
    values: int = 0
    dense: bool = True


@dataclass(frozen=True)
class Memory:
    """Of a plan, bytes. plan: what is made of a batch; states: while a state is computed on it."""

    plan: Terms
    states: Terms

    @property
    def total(self) -> int:
        """Bytes of plan and states."""
        return total(self.plan, self.states)


def hold_features(width: int, extent: Extent) -> int:
    """Bytes of features as they are held, and as they are read where that is not the same."""
    return FLOAT * width * extent.nodes * extent.dense + SPARSE_VALUE * extent.values


def total(*terms: Terms) -> int:
    """Bytes of all terms together."""
    return sum(sum(each.values()) for each in terms)


def estimate_frontiers(extent: Extent, hops: int) -> list[int]:
    """Nodes within 0, 1, ... hops of the seed nodes, if these lie anywhere.

    A hop misses a node with probability (1 - f)^d, f the share that the hop before has newly reached and d the mean
    degree; nodes of unlike degrees are missed more often (Jensen), so on average this is not too low.
    """
    nodes, degree = max(1, extent.nodes), extent.entries / max(1, extent.nodes)
    counts, new = [extent.seeds], extent.seeds
    for _ in range(hops):
        missed = (extent.nodes - counts[-1]) * (1 - min(1.0, new / nodes)) ** degree
        new = extent.nodes - round(missed) - counts[-1]
        counts.append(counts[-1] + new)
    return counts
