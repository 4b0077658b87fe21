"""HDF5's checksum of a chunk, for those who read chunks without HDF5."""

from __future__ import annotations

import numpy as np

from gnnsoup_hpc.engine.compiled.kernels.base import compile_kernel
from gnnsoup_hpc.types import WordArray

_BLOCK = 1 << 15  # words: sums of a block, weighted by places, stay far below 2^64


@compile_kernel
def fletcher32(words: WordArray) -> np.int64:
    """Fletcher-32 of bytes, given as uint32 words in this (little-endian) machine's order, as HDF5 stores it.

    HDF5 sums 16-bit big-endian numbers modulo 65535. There 2^16 is 1, so the two halves of a word may be added as they
    are, and reading them in the other byte order multiplies a sum by 2^8: sums are taken first and turned at the end.
    """
    one, modulus = np.uint64(1), np.uint64(65535)
    first = second = any_set = np.uint64(0)
    for start in range(0, len(words), _BLOCK):
        block = words[start : start + _BLOCK]
        count = len(block)
        plain = weighted = high = np.uint64(0)
        for k in range(count):
            upper = np.uint64(block[k] >> np.uint32(16))
            both = np.uint64(block[k] & np.uint32(0xFFFF)) + upper
            plain += both
            weighted += np.uint64(count - k) * both
            high += upper
        second = (second + np.uint64(2 * count) * first + np.uint64(2) * weighted - high) % modulus
        first = (first + plain) % modulus
        any_set |= plain
    if any_set == 0:
        return np.int64(0)
    first = (np.uint64(256) * first + modulus - one) % modulus + one  # 65535, not 0, stands for a multiple of it
    second = (np.uint64(256) * second + modulus - one) % modulus + one
    return np.int64(second << np.uint64(16) | first)
