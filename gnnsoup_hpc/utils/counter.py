"""Random numbers by counting: each is a function of a key and of its place, so none is stored and no order matters.

A place's key is an output of splitmix64 (Steele, Lea and Flood, Fast splittable pseudorandom number generators, OOPSLA
2014); a key's numbers are hashes of their column with both its halves, by a function of 32 bits (C. Wellons, Hash
function prospector, 2018). engine/compiled/kernels/dropout.py has the same functions, compiled.
"""

from __future__ import annotations

import torch
from torch import Tensor

GOLDEN = 0x9E3779B97F4A7C15
FIRST = 0xBF58476D1CE4E5B9
SECOND = 0x94D049BB133111EB
GOLDEN_32 = 0x9E3779B9
FIRST_32 = 0x21F0AAAD
SECOND_32 = 0x735A2D97
_MASK_32 = 2**32 - 1


def derive_key(key: int, number: int) -> int:
    """A key in [0, 2^64) for each number of a key."""
    z = (key + number * GOLDEN) % 2**64
    z = (z ^ z >> 30) * FIRST % 2**64
    z = (z ^ z >> 27) * SECOND % 2**64
    return z ^ z >> 31


def derive_keys(key: int | Tensor, numbers: Tensor) -> Tensor:
    """The same of a key, or of as many keys, and numbers (n,): 64 bits each as an int64, (n,)."""
    return finalise(numbers.to(torch.int64).mul(_signed(GOLDEN)).add_(_signed(key) if isinstance(key, int) else key))


def draw(keys: Tensor, columns: int) -> Tensor:
    """Numbers in [0, 2^32) of keys (n,) and columns from 0 on, (n, columns) int64."""
    low, high = keys.bitwise_and(_MASK_32), (keys >> 32).bitwise_and_(_MASK_32)
    x = torch.arange(columns, device=keys.device).mul_(GOLDEN_32).add(low[:, None]).bitwise_and_(_MASK_32)
    x.bitwise_xor_(x >> 16).mul_(FIRST_32).bitwise_and_(_MASK_32).bitwise_xor_(high[:, None])
    x.bitwise_xor_(x >> 15).mul_(SECOND_32).bitwise_and_(_MASK_32)
    return x.bitwise_xor_(x >> 15)


def finalise(z: Tensor) -> Tensor:
    """splitmix64's finaliser of int64, in place; shifts are logical, products wrap round."""
    z.bitwise_xor_((z >> 30).bitwise_and_(2**34 - 1)).mul_(_signed(FIRST))
    z.bitwise_xor_((z >> 27).bitwise_and_(2**37 - 1)).mul_(_signed(SECOND))
    return z.bitwise_xor_((z >> 31).bitwise_and_(2**33 - 1))


def _signed(value: int) -> int:
    """The int64 of the same 64 bits."""
    return (value + 2**63) % 2**64 - 2**63
