"""Numbers by counting: the same compiled and in torch, even, and of one key unlike those of another."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gnnsoup_hpc.engine.compiled.kernels.dropout import drop_entries, drop_states
from gnnsoup_hpc.graph.sparse import Adjacency
from gnnsoup_hpc.models.base import CountedDropout
from gnnsoup_hpc.utils import counter

KEYS = [0, 1, 2**31, 2**63 - 1, 2**64 - 1]


def numbers(key: int, rows: int = 2000, columns: int = 256) -> torch.Tensor:
    return counter.draw(counter.derive_keys(key, torch.arange(rows)), columns)


def test_a_key_is_an_output_of_splitmix64() -> None:
    """The first outputs for the seed 1234567, as its authors' code gives them."""
    outputs = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [counter.derive_key(1234567, number) for number in (1, 2, 3)] == outputs


@pytest.mark.parametrize("key", KEYS)
def test_keys_of_tensors_are_those_of_integers(key: int) -> None:
    found = counter.derive_keys(key, torch.arange(100)).numpy().view(np.uint64)
    assert found.tolist() == [counter.derive_key(key, number) for number in range(100)]


@pytest.mark.parametrize("key", KEYS)
def test_numbers_are_even_over_their_range(key: int) -> None:
    """Chi squared over 256 cells of the highest and of the lowest bits has mean 255 and deviation 23."""
    drawn = numbers(key)
    assert int(drawn.min()) >= 0
    assert int(drawn.max()) < 2**32
    for cells in (drawn >> 24, drawn & 255):
        counts = torch.bincount(cells.flatten(), minlength=256).double()
        expected = drawn.numel() / 256
        assert abs(float(((counts - expected) ** 2 / expected).sum()) - 255) < 6 * 23


def test_rows_columns_and_keys_are_not_correlated() -> None:
    """Of so many numbers a correlation is below 0.0014 in a standard deviation."""
    drawn = numbers(7).double()
    pairs = {
        "next row": (drawn[1:], drawn[:-1]),
        "next column": (drawn[:, 1:], drawn[:, :-1]),
        "next key": (drawn, numbers(8).double()),
        "another layer": (drawn, numbers(counter.derive_key(7, 2)).double()),
    }
    for name, pair in pairs.items():
        found = float(torch.corrcoef(torch.stack([each.flatten() for each in pair]))[0, 1])
        assert abs(found) < 6 * 0.0014, name


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9, 1.0 - 2.0**-40])
@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_kernels_have_the_same_masks(rate: float, kind: type) -> None:
    dropout = CountedDropout(rate, 2**62 + 3)
    x = torch.rand(50, 33, dtype=torch.float64) + 0.5
    wanted = dropout(x, 2)
    key, bar = np.uint64(dropout.key_of(2, False)), np.uint32(dropout.bar)
    nodes = np.random.default_rng(0).permutation(50).astype(kind)
    found = x[nodes.astype(np.int64)].numpy()
    drop_states(nodes, key, bar, dropout.scale, found)
    np.testing.assert_allclose(found, wanted[nodes.astype(np.int64)].numpy(), rtol=1e-12)


def test_kernels_have_the_same_masks_of_entries() -> None:
    """An entry is known by the nodes that it joins, wherever it stands."""
    dropout, rng = CountedDropout(0.5, 11), np.random.default_rng(1)
    start = np.concatenate([[0], np.cumsum(rng.integers(0, 6, 20))])
    indices = rng.integers(0, 20, start[-1])
    weights = torch.rand(len(indices), 3, dtype=torch.float64) + 0.5
    adjacency = Adjacency(torch.from_numpy(start), torch.from_numpy(indices))
    wanted = dropout(weights, 1, adjacency)
    key, bar = np.uint64(dropout.key_of(1, True)), np.uint32(dropout.bar)
    found = np.zeros_like(weights.numpy())
    drop_entries(0, 20, start, indices, np.arange(20), key, bar, dropout.scale, weights.numpy(), 0, found)
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-12)
    place = rng.permutation(20)  # node v stands at place[v]
    order = np.argsort(place)
    moved = Adjacency(*_reorder(start, indices, place, order))
    again = np.concatenate([wanted.numpy()[start[v] : start[v + 1]] for v in order])
    rows = np.concatenate([weights.numpy()[start[v] : start[v + 1]] for v in order])
    found = np.zeros_like(rows)
    ends, ids = moved.indptr.numpy(), moved.indices.numpy()
    drop_entries(0, 20, ends, ids, order, key, bar, dropout.scale, rows, 0, found)
    np.testing.assert_allclose(found, again, rtol=1e-12)


def _reorder(
    start: np.ndarray, indices: np.ndarray, place: np.ndarray, order: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor]:
    counts = np.diff(start)[order]
    rows = [place[indices[start[v] : start[v + 1]]] for v in order]
    return torch.from_numpy(np.concatenate([[0], np.cumsum(counts)])), torch.from_numpy(np.concatenate(rows))
