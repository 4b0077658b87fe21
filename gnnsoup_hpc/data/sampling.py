"""Neighbour samples of a whole epoch, drawn in compiled code by a thread of their own, one ahead."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
import scipy.sparse as sp
import torch

from gnnsoup_hpc.engine.compiled.kernels import neighbours
from gnnsoup_hpc.graph.sampling import Sample, per_hop
from gnnsoup_hpc.types import FloatArray, IndexArray, IntArray
from gnnsoup_hpc.utils.out_of_core import index_type

Drawn = tuple[Sample, torch.Tensor | sp.csr_matrix]


def draw_compiled_samples(
    structure: tuple[IntArray, IndexArray],
    x: FloatArray | sp.csr_matrix,
    nodes: IntArray,
    size: int,
    fanout: Sequence[int],
    layers: int,
    generator: np.random.Generator,
) -> Generator[Drawn]:
    """A sample of each batch of `size` of the nodes, in random order, with its nodes' features (n, F).

    The next one is drawn while one is in use. Each is a function of its own key.
    structure: (indptr (V + 1,), indices (E,)), row = destination, entries = in-neighbours, distinct.
    """
    indptr, indices = structure
    order = generator.permutation(nodes)
    starts = range(0, len(order), size)
    keys = generator.integers(2**63, size=len(starts), dtype=np.uint64)
    fanouts = np.array(per_hop(fanout, layers), dtype=np.int64)
    local = np.full(len(indptr) - 1, -1, dtype=index_type(len(indptr)))

    def draw(start: int, key: np.uint64) -> Drawn:
        seeds = order[start : start + size]
        found, first, entries = neighbours.sample_neighbours(indptr, indices, seeds, fanouts, key, local)
        sample = Sample(found, first, entries, len(seeds))
        if not isinstance(x, np.ndarray):
            return sample, x[found]
        out = np.empty((len(found), x.shape[1]), dtype=x.dtype)
        neighbours.gather_rows(x, found, out)
        return sample, torch.from_numpy(out)

    turn = zip(starts, keys, strict=True)
    with ThreadPoolExecutor(1, "samples") as thread:
        coming = [thread.submit(draw, *each) for each in islice(turn, 1)]
        while coming:
            drawn = coming.pop().result()
            coming += [thread.submit(draw, *each) for each in islice(turn, 1)]
            yield drawn
            del drawn
