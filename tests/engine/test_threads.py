"""Chunks and blocks cover all rows once, whatever their number; one thread a chunk."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gnnsoup_hpc.engine.threads import CHUNKS, ThreadTeam, blocks, cut_chunks

degrees = st.lists(st.integers(0, 50), max_size=60).map(lambda few: np.repeat(np.array([*few, 3]), 400))


@given(degrees, st.integers(0, 9))
def test_chunks_cover_all_rows_once_and_their_work_is_alike(degree: np.ndarray, before: int) -> None:
    chunks = cut_chunks(before + np.concatenate([[0], np.cumsum(degree)]))
    assert [row for start, stop in chunks for row in range(start, stop)] == list(range(len(degree)))
    assert len(chunks) <= CHUNKS
    work = [int((degree[start:stop] + 32).sum()) for start, stop in chunks]
    assert max(work) <= sum(work) / len(chunks) * 2 + 64 * (50 + 32)


@given(st.integers(0, 5000), st.integers(0, 5000), st.integers(1, 2000))
def test_blocks_cover_a_chunk_once(start: int, rows: int, most: int) -> None:
    found = list(blocks(start, start + rows, most))
    assert [row for first, end in found for row in range(first, end)] == list(range(start, start + rows))
    assert all(end - first <= most for first, end in found)


def test_no_chunks_of_no_rows() -> None:
    assert cut_chunks(np.zeros(1, dtype=np.int64)) == ()


def test_a_team_computes_on_torchs_threads_and_gives_them_back() -> None:
    both = threading.Barrier(2)

    def where(_start: int, _stop: int) -> tuple[int, int]:
        """Threads that torch would use here, and this thread; once another one is here too."""
        both.wait(600)
        return torch.get_num_threads(), threading.get_ident()

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with ThreadTeam() as team:
            inside = team.each(where, [(0, 1)] * 6)
        assert {threads for threads, _ in inside} == {1}
        assert len({name for _, name in inside}) == 2
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_results_come_in_the_chunks_order_and_errors_come_through() -> None:
    chunks = [(5, 9), (0, 5), (9, 12)]
    with ThreadTeam() as team:
        assert team.each(lambda start, stop: stop - start, chunks) == [4, 5, 3]
        with pytest.raises(ZeroDivisionError):
            team.each(lambda start, _: 1 // start, chunks)
