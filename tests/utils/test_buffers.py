"""Memory that is used again, and never while anything still refers to it."""

from __future__ import annotations

import numpy as np
import torch

from gnnsoup_hpc.utils.out_of_core import BufferPool


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def test_memory_is_given_again_once_it_is_let_go_of() -> None:
    pool = BufferPool(rows=10)
    one = pool.array("x", (7, 3), np.float32)
    place = address(one)
    del one
    other = pool.array("x", (10, 3), np.float32)
    assert address(other) == place
    assert other.shape == (10, 3)
    assert pool.buffers("x") == 1


def test_whatever_refers_to_memory_keeps_it() -> None:
    """A slice, a tensor, a tensor's slice: with each of them a second buffer is made, and its values stay."""
    keepers = (lambda a: a[2:], torch.from_numpy, lambda a: torch.from_numpy(a)[3:], lambda a: a.view(np.int32))
    for keep in keepers:
        pool = BufferPool()
        kept = keep(pool.array("x", (7, 3), np.float32))
        kept[...] = 1
        pool.array("x", (7, 3), np.float32)[...] = 2
        assert bool((kept == 1).all())
        assert pool.buffers("x") == 2


def test_purposes_do_not_share_and_a_buffer_grows() -> None:
    pool = BufferPool()
    one, other = pool.array("x", (4,), np.int64), pool.array("y", (4,), np.int64)
    assert not np.shares_memory(one, other)
    del one
    assert pool.array("x", (4000,), np.int64).shape == (4000,)
    assert pool.buffers("x") == 1
