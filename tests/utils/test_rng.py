"""Seeds: a stream is a function of its whole key, and of nothing else."""

from __future__ import annotations

import itertools

import pytest
import torch

from gnnsoup_hpc.utils.rng import START, TRUNK, derive_seed, numpy_generator, torch_generator
from tests.runs import CPU

KEYS = [
    (0,),
    (1,),
    (0, 0),
    (0, 1),
    (1, 0),
    (1, 1),
    (0, 0, 0),
    (0, 0, 1),
    (0, 1, 0),
    (2**32 - 1,),
    (2**32 - 3, 7),
    (0, TRUNK),
    (0, START, 1),
]


def numpy_stream(*key: int) -> tuple[float, ...]:
    return tuple(numpy_generator(*key).random(4).tolist())


def torch_stream(*key: int) -> tuple[float, ...]:
    return tuple(torch.rand(4, generator=torch_generator(CPU, *key)).tolist())


def seed(*key: int) -> int:
    assert 0 <= derive_seed(*key) < 2**63
    return derive_seed(*key)


@pytest.mark.parametrize("stream", [numpy_stream, torch_stream, seed])
def test_equal_keys_give_equal_streams(stream: object) -> None:
    assert callable(stream)
    assert all(stream(*key) == stream(*key) for key in KEYS)


@pytest.mark.parametrize("stream", [numpy_stream, torch_stream, seed])
def test_different_keys_give_different_streams(stream: object) -> None:
    assert callable(stream)
    same = [(a, b) for a, b in itertools.combinations(KEYS, 2) if stream(*a) == stream(*b)]
    assert same == []


def test_the_global_generator_is_neither_read_nor_moved() -> None:
    torch.manual_seed(1)
    before, one = torch.get_rng_state(), torch_stream(3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch_stream(3) == one
