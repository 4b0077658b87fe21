"""Laws of every Comm, each called on all ranks; and a program that tries them over MPI.

mpirun -n 4 python -m tests.runtime.comm_laws                             all laws
mpirun -n 4 python -m tests.runtime.comm_laws bcast raise 1 FOLDER        rank 1 raises, the others are in bcast
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gnnsoup_hpc.runtime import launch
from gnnsoup_hpc.runtime.comm import Comm, Moves, MpiComm
from tests.comms import CheckingComm, OrderError

MOST_LOAD = 0.3  # of a core, while waiting; polling without sleep takes all of one
LEAST_SLEEPS = 20  # in a second of waiting; polling without sleep has none
LARGE = 1_000_003  # bytes: more than what MPI sends at once


def same(found: Any, wanted: Any) -> None:
    """Assert that two objects are equal: type, dtype, shape and bits."""
    assert type(found) is type(wanted)
    if isinstance(wanted, np.ndarray):
        assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
        assert found.tobytes() == wanted.tobytes()
    elif isinstance(wanted, dict):
        assert list(found) == list(wanted)
        for name, value in wanted.items():
            same(found[name], value)
    elif type(wanted).__module__.startswith("torch"):
        assert found.dtype == wanted.dtype
        assert bool((found == wanted).all())
    else:
        assert found == wanted


def objects(rank: int) -> list[Any]:
    """Unlike things, others on each rank."""
    rng = np.random.default_rng(rank)
    return [
        None,
        rank,
        f"rank {rank}: ä",
        (rank, [1.5, {"key": (None, True)}]),
        b"" if rank % 2 else b"some bytes",
        np.float64(rank) / 3,
        rng.normal(size=(3, 4)),
        rng.normal(size=(3, 4)).astype(np.float32).T,
        rng.normal(size=(6, 4))[::2, 1:],
        np.array(rank),
        np.empty((0, 5), np.int32),
        np.arange(rank * 7) > 2,
        {"a": rng.integers(0, 9, 5), "b": {"c": np.array([np.nan, -0.0, np.inf])}},
        rng.integers(0, 256, LARGE + rank, dtype=np.uint8),
    ]


def bcast_gives_what_rank_0_has(comm: Comm) -> None:
    for mine, wanted in zip(objects(comm.rank), objects(0), strict=True):
        same(comm.bcast(mine), wanted)
        same(comm.bcast(wanted if comm.rank == 0 else None), wanted)


def bcast_and_allgather_take_tensors(comm: Comm) -> None:
    import torch

    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.int64):
        wanted = [torch.arange(6).reshape(2, 3).mul(rank + 1).to(dtype) for rank in range(comm.size)]
        same(comm.bcast(wanted[comm.rank]), wanted[0])
        for found, tensor in zip(comm.allgather(wanted[comm.rank]), wanted, strict=True):
            same(found, tensor)
    state = comm.bcast({"weight": torch.ones(2, 3), "bias": torch.zeros(3)})
    same(state, {"weight": torch.ones(2, 3), "bias": torch.zeros(3)})


def what_is_received_is_ones_own(comm: Comm) -> None:
    found = comm.bcast(np.zeros(3))
    found += comm.rank
    gathered = comm.allgather(np.zeros(3))
    gathered[0] += comm.rank
    comm.allgather(None)
    same(found, np.full(3, float(comm.rank)))
    same(gathered[0], np.full(3, float(comm.rank)))


def allgather_is_in_the_ranks_order(comm: Comm) -> None:
    wanted = list(zip(*(objects(rank) for rank in range(comm.size)), strict=True))
    for mine, row in zip(objects(comm.rank), wanted, strict=True):
        found = comm.allgather(mine)
        assert len(found) == comm.size
        for one, other in zip(found, row, strict=True):
            same(one, other)


def allgather_takes_unlike_lengths(comm: Comm) -> None:
    for longest in range(comm.size):
        found = comm.allgather(b"x" * LARGE if comm.rank == longest else comm.rank)
        assert found == [b"x" * LARGE if rank == longest else rank for rank in range(comm.size)]


def sums_have_the_same_bits(comm: Comm) -> None:
    for number, shape in enumerate([(), (0,), (5,), (3, 4), (2, 3, 5), (0, 3), (40_001,)]):
        all_values = [unequal(shape, seed=(number, rank)) for rank in range(comm.size)]
        mine = all_values[comm.rank].copy()
        found = comm.sum_in_order(mine)
        same(found, np.asarray(reduce(add, all_values)))
        same(mine, all_values[comm.rank])
        assert not np.shares_memory(found, mine)
        assert len({one.tobytes() for one in comm.allgather(found)}) == 1


def sums_take_any_layout(comm: Comm) -> None:
    all_values = [unequal((6, 8), seed=(99, rank)) for rank in range(comm.size)]
    total = reduce(add, all_values)
    same(comm.sum_in_order(np.asfortranarray(all_values[comm.rank])), total)
    same(comm.sum_in_order(all_values[comm.rank].T), np.ascontiguousarray(total.T))
    same(comm.sum_in_order(all_values[comm.rank][::2, 1::3]), total[::2, 1::3])
    odd = np.array([-0.0, np.inf, np.nan, 5e-324])
    same(comm.sum_in_order(odd), reduce(add, [odd] * comm.size))


def unequal(shape: tuple[int, ...], seed: tuple[int, ...]) -> np.ndarray:
    """Numbers of such unlike magnitudes that their sum depends on the order."""
    rng = np.random.default_rng(seed)
    return np.asarray(rng.normal(size=shape) * 10.0 ** rng.integers(-8, 9, shape))


def rows_of(rank: int) -> int:
    """Rows of a rank's matrix."""
    return 30 + 7 * rank


def matrix_of(rank: int, dtype: type, width: tuple[int, ...] = (5,)) -> np.ndarray:
    return np.random.default_rng(rank).normal(size=(rows_of(rank), *width)).astype(dtype)


def draw_moves(size: int, seed: int, index: type = np.int64) -> list[list]:
    """Moves of each rank: some ranks exchange nothing, others rows one way alone, and one row may go to several."""
    rng = np.random.default_rng(seed)
    places = [rng.permutation(rows_of(rank)).astype(index) for rank in range(size)]  # where rows go, each once
    moves: dict[tuple[int, int], list] = {}
    for a in range(size):
        for b in range(size):
            count = int(rng.integers(0, 6)) if a != b and rng.random() < 0.7 else 0
            moves.setdefault((a, b), [None, None])[0] = rng.integers(0, rows_of(a), count).astype(index)
            moves.setdefault((b, a), [None, None])[1], places[b] = places[b][:count], places[b][count:]
    pairs = [(a, b) for a, b in moves if a != b and any(len(rows) for rows in moves[a, b])]
    return [[(b, *moves[a, b]) for a, b in pairs if a == rank] for rank in range(size)]


def exchanged(matrices: list[np.ndarray], moves: list[list], rank: int) -> np.ndarray:
    """What a rank's matrix is afterwards."""
    out = matrices[rank].copy()
    for other, _, rows in moves[rank]:
        [sent] = [going for to, going, _ in moves[other] if to == rank]
        out[rows] = matrices[other][sent]
    return out


def exchange_puts_the_named_rows_in_place(comm: Comm) -> None:
    seed = 0
    for dtype in (np.float32, np.float64):
        for width, index in [((5,), np.int32), ((1,), np.int64), ((2, 3), np.int64), ((0,), np.int32)]:
            moves, seed = draw_moves(comm.size, seed, index), seed + 1
            matrices = [matrix_of(rank, dtype, width) for rank in range(comm.size)]
            mine = matrices[comm.rank].copy()
            comm.exchange(mine, moves[comm.rank])
            same(mine, exchanged(matrices, moves, comm.rank))


def exchange_takes_any_layout(comm: Comm) -> None:
    moves = draw_moves(comm.size, seed=77)
    matrices = [matrix_of(rank, np.float32) for rank in range(comm.size)]
    wanted = exchanged(matrices, moves, comm.rank)
    wide = np.zeros((rows_of(comm.rank), 9), np.float32)
    wide[:, 2:7] = matrices[comm.rank]
    for mine in (np.asfortranarray(matrices[comm.rank]), wide[:, 2:7]):
        comm.exchange(mine, moves[comm.rank])
        same(np.ascontiguousarray(mine), wanted)
    assert not wide[:, :2].any()
    assert not wide[:, 7:].any()


def exchange_swaps_the_same_row(comm: Comm) -> None:
    """All rows are read before any is overwritten."""
    mine = np.full((2, 3), float(comm.rank), np.float32)
    other = comm.rank ^ 1
    one = np.array([1], np.int32)
    comm.exchange(mine, [(other, one, one)] if other < comm.size else [])
    same(mine[0], np.full(3, comm.rank, np.float32))
    same(mine[1], np.full(3, other if other < comm.size else comm.rank, np.float32))


def exchange_of_nothing_changes_nothing(comm: Comm) -> None:
    mine, nothing = matrix_of(comm.rank, np.float64), np.empty(0, np.int32)
    comm.exchange(mine, [])
    comm.exchange(mine, [(rank, nothing, nothing) for rank in range(comm.size) if rank != comm.rank])
    comm.exchange(np.empty((0, 4), np.float32), [])
    same(mine, matrix_of(comm.rank, np.float64))


def exchange_takes_large_rows(comm: Comm) -> None:
    mine, other = np.full((4, LARGE // 8), float(comm.rank)), comm.rank ^ 1
    comm.exchange(mine, [(other, np.arange(2), np.arange(2, 4))] if other < comm.size else [])
    assert (mine[:2] == comm.rank).all()
    assert (mine[2:] == (other if other < comm.size else comm.rank)).all()


def calls_follow_each_other_in_any_order(comm: Comm) -> None:
    """Ranks in haste and ranks that lag; nothing of one call gets into another."""
    rng, lag = np.random.default_rng(5), np.random.default_rng(comm.rank)
    for step in range(60):
        kind = rng.integers(0, 4)
        if lag.random() < 0.1:
            time.sleep(0.004)
        everyone = [unequal((3, 2), seed=(step, rank)) for rank in range(comm.size)]
        if kind == 0:
            same(comm.bcast(everyone[comm.rank]), everyone[0])
        elif kind == 1:
            assert comm.allgather((step, comm.rank)) == [(step, rank) for rank in range(comm.size)]
        elif kind == 2:
            same(comm.sum_in_order(everyone[comm.rank]), reduce(add, everyone))
        else:
            moves = draw_moves(comm.size, seed=step)
            matrices = [matrix_of(rank, np.float32) + np.float32(step) for rank in range(comm.size)]
            mine = matrices[comm.rank].copy()
            comm.exchange(mine, moves[comm.rank])
            same(mine, exchanged(matrices, moves, comm.rank))


def another_order_is_found(comm: Comm) -> None:
    """By CheckingComm, on all ranks, which may go on afterwards."""
    checking, last = CheckingComm(comm), comm.rank == comm.size - 1
    unexpected = [((comm.rank + 1) % comm.size, np.array([0]), np.array([], int))]
    calls: list[tuple[str, Callable[[], object]]] = [
        ("bcast", lambda: checking.allgather(1) if last else checking.bcast(1)),
        ("sum_in_order", lambda: checking.sum_in_order(np.ones(2)) if last else checking.allgather(1)),
        (r"\(2,\)", lambda: checking.sum_in_order(np.ones(2) if last else np.ones((2, 1)))),
        ("float32", lambda: checking.sum_in_order(np.ones(2, np.float32 if last else np.float64))),
        ("exchange", lambda: checking.bcast(1) if last else checking.exchange(np.ones((2, 1)), [])),
        (r"\(7,\)", lambda: checking.exchange(np.ones((2, 7 if last else 1)), [])),
        ("float32", lambda: checking.exchange(np.ones((2, 1), np.float32 if last else np.float64), [])),
        ("sends 1 rows to rank 1, which expects 0", lambda: checking.exchange(np.ones((2, 1)), unexpected)),
    ]
    for says, call in calls if comm.size > 1 else []:
        with pytest.raises(OrderError, match=says):
            call()
        assert checking.allgather(comm.rank) == list(range(comm.size))


def waiting_takes_little_of_a_core(comm: Comm) -> None:
    calls: list[Callable[[], object]] = [
        lambda: comm.bcast(1),
        lambda: comm.allgather(1),
        lambda: comm.sum_in_order(np.ones(1)),
        lambda: comm.exchange(np.ones((1, 1)), a_row_from_0_to_1(comm.rank)),
    ]
    for call in calls:
        comm.allgather(None)
        began, used, slept = time.perf_counter(), time.process_time(), sleeps()
        if comm.rank == 0:
            time.sleep(1)
        call()
        assert time.process_time() - used < MOST_LOAD * max(1.0, time.perf_counter() - began)
        assert comm.rank != 1 or sleeps() - slept >= LEAST_SLEEPS  # it lets go of the core, however busy that is


def sleeps() -> int:
    """How often this thread has given its core away to wait for something."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


def a_row_from_0_to_1(rank: int) -> Moves:
    return [(1 - rank, np.arange(1 - rank), np.arange(rank))] if rank < 2 else []


LAWS: dict[str, Callable[[Comm], None]] = {
    law.__name__: law
    for law in (
        bcast_gives_what_rank_0_has,
        bcast_and_allgather_take_tensors,
        what_is_received_is_ones_own,
        allgather_is_in_the_ranks_order,
        allgather_takes_unlike_lengths,
        sums_have_the_same_bits,
        sums_take_any_layout,
        exchange_puts_the_named_rows_in_place,
        exchange_takes_any_layout,
        exchange_swaps_the_same_row,
        exchange_of_nothing_changes_nothing,
        exchange_takes_large_rows,
        calls_follow_each_other_in_any_order,
        another_order_is_found,
    )
}
COLLECTIVES: dict[str, Callable[[Comm], object]] = {
    "bcast": lambda comm: comm.bcast(1),
    "allgather": lambda comm: comm.allgather(1),
    "sum_in_order": lambda comm: comm.sum_in_order(np.ones(3)),
    "exchange": lambda comm: comm.exchange(
        np.ones((2, 3)), [(rank, np.array([0]), np.array([1])) for rank in range(comm.size) if rank != comm.rank]
    ),
}
MPI_LAWS = {waiting_takes_little_of_a_core.__name__: waiting_takes_little_of_a_core}
CHUNK_BYTES = 100_000  # what is large takes ten of them or more


def hold_over_mpi(here: launch.RankInfo) -> None:
    """All laws, over each kind of MpiComm; rank 0 says each that holds on all ranks."""
    world = launch.start_mpi(here)
    assert world is not None
    plain = launch.connect(here)
    chunked = MpiComm(world, chunk_bytes=CHUNK_BYTES)
    for name, law in (LAWS | MPI_LAWS).items():
        for comm in (plain,) if name in MPI_LAWS else (plain, CheckingComm(plain), chunked):
            law(comm)
        plain.allgather(None)
        if here.rank == 0:
            print(f"holds: {name} ({time.process_time():.2f} s of a core so far)", flush=True)


def fail(here: launch.RankInfo, collective: str, how: str, who: int, folder: Path) -> None:
    """One rank raises or dies where the others are in a collective."""
    comm = launch.connect(here)
    (folder / f"{here.rank}.pid").write_text(str(os.getpid()))
    comm.allgather(None)
    if here.rank == who:
        time.sleep(0.1)  # the others are in it by now; if not, they come into it, and must end as well
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ZeroDivisionError("planted")
    COLLECTIVES[collective](comm)
    comm.allgather(None)
    print("went on", flush=True)


def main() -> None:
    here = launch.read_rank_info()
    launch.show_tracebacks(here)
    if len(sys.argv) > 1:
        collective, how, who, folder = sys.argv[1:]
        fail(here, collective, how, int(who), Path(folder))
    else:
        hold_over_mpi(here)


if __name__ == "__main__":
    main()
