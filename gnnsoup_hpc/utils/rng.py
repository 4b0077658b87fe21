"""Seeds: one job seed gives independent streams by purpose, the same on every rank."""

from __future__ import annotations

import numpy as np
import torch

# Where a key has an ingredient's number, these stand for what is no ingredient.
TRUNK = 2**32 - 1
START = 2**32 - 2
DISTIL = 2**32 - 3
BAG = 2**32 - 4
FEATURES = 2**32 - 5


def derive_seed(*key: int) -> int:
    """A seed in [0, 2^63) that depends on the whole key."""
    return int(_sequence(key).generate_state(1, np.uint64)[0] >> 1)


def torch_generator(device: torch.device, *key: int) -> torch.Generator:
    """A generator on `device` whose stream depends on the whole key."""
    return torch.Generator(device).manual_seed(derive_seed(*key))


def numpy_generator(*key: int) -> np.random.Generator:
    """A NumPy generator whose stream depends on the whole key."""
    return np.random.default_rng(_sequence(key))


def _sequence(key: tuple[int, ...]) -> np.random.SeedSequence:
    """NumPy pads a key with zeros, so that (1,) and (1, 0) would be the same; the length in front tells them apart."""
    return np.random.SeedSequence((len(key), *key))
