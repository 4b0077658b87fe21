"""What souping gives, as functions that every rank of a Comm calls; and a program that calls them over MPI.

mpirun -n 2 python -m tests.ranks.souping JOB OUT CASE...    rank 0 writes each case's outcomes, one a rank, into OUT
"""

from __future__ import annotations

import pickle
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gnnsoup_hpc.analysis.diagnosis.runner import diagnose
from gnnsoup_hpc.config import METHOD_NAMES, Job
from gnnsoup_hpc.config import loading as jobs
from gnnsoup_hpc.engine import sharding
from gnnsoup_hpc.io.records import Diagnosis
from gnnsoup_hpc.runtime import launch
from gnnsoup_hpc.runtime.comm import Comm
from gnnsoup_hpc.runtime.launch import RankInfo
from gnnsoup_hpc.soup.alignment import align_ingredients
from gnnsoup_hpc.soup.methods import SoupMethod, make_methods
from gnnsoup_hpc.soup.mixtures import Candidate
from gnnsoup_hpc.soup.runner import SoupRunner
from gnnsoup_hpc.soup.selection import select_ingredients
from gnnsoup_hpc.soup.start import open_mixtures
from gnnsoup_hpc.types import Role, State
from tests import runs
from tests.comms import CheckingComm

ROLES = (Role.VALIDATION, Role.TEST)
_FULL = {"epochs": 8, "alpha": "tensor", "regularise": 0.01, "logit_scale": True}
_UNIONS = {"union": 4, "reuse": 2}
CASES: dict[str, tuple[str, dict[str, Any]]] = {  # method, options beside the job's
    **{name: (name, {}) for name in METHOD_NAMES},
    **{f"ls-{way}": ("ls", _FULL | {"optimiser": way, "holdout": 0.3}) for way in ("lbfgs", "adam", "eg", "paper")},
    **{f"pls-{way}": ("pls", _FULL | _UNIONS | {"optimiser": way, "holdout": 0.3}) for way in ("adam", "eg", "paper")},
    "pls-lbfgs": ("pls", _FULL | _UNIONS | {"optimiser": "lbfgs"}),
    "distil-scratch": ("distil", {"start": "scratch", "epochs": 3, "union": 5, "label_share": 0.2}),
    "pls-exact": ("pls", _UNIONS | {"first_hop": "exact", "prefetch": False}),
}


@dataclass(frozen=True)
class Outcome:
    """What a method made on one rank: weights, history, metrics by role, and who is right."""

    alpha: np.ndarray
    groups: tuple[str, ...]
    state: State | None
    history: np.ndarray
    metrics: tuple[float, ...]
    right: tuple[np.ndarray, ...]
    counts: dict[str, int]


def make_method(job: Job, case: str) -> SoupMethod:
    name, options = CASES[case]
    if not options:
        return make_methods(job.soup)[name]
    section = type(getattr(job.soup, name)).model_validate(options)
    return make_methods(job.soup.model_copy(update={name: section}))[name]


def run_case(comm: Comm, job: Job, case: str, **mixtures: Any) -> Outcome:
    """Run a method and evaluate what it made. Rank-collective."""
    with runs.open_mixtures(job, comm=comm, **mixtures) as ours:
        context = runs.make_context(ours)
        found = make_method(job, case).run(context)
        marks = ours.predictions(Candidate(found.alpha, found.by, found.of, found.state), ROLES)
        counts = dict(context.counts)
    return Outcome(
        alpha=found.alpha.numpy(),
        groups=found.groups,
        state=found.state,
        history=np.array([(s.step, s.loss, s.accuracy, s.learning_rate) for s in found.history]).reshape(-1, 4),
        metrics=tuple(mark.metric for mark in marks),
        right=tuple(mark.right for mark in marks),
        counts=counts,
    )


def assert_same(found: Outcome, wanted: Outcome, close: float = 0.0) -> None:
    """The same outcome, but for what an ulp in a sum can move alpha, weights, losses; counts are rank 0's to tell."""
    np.testing.assert_allclose(found.alpha, wanted.alpha, atol=close, rtol=0.0)
    assert found.groups == wanted.groups
    assert (found.state is None) == (wanted.state is None)
    for name, tensor in (found.state or {}).items():
        torch.testing.assert_close(tensor, (wanted.state or {})[name], atol=1e-6 if close else 0.0, rtol=0.0)
    assert found.history.shape == wanted.history.shape
    np.testing.assert_array_equal(found.history[:, [0, 2, 3]], wanted.history[:, [0, 2, 3]])
    np.testing.assert_allclose(found.history[:, 1], wanted.history[:, 1], atol=max(close, 1e-6 if close else 0.0))
    assert found.metrics == wanted.metrics
    for one, other in zip(found.right, wanted.right, strict=True):
        np.testing.assert_array_equal(one, other)


def assert_as_one_rank(found: list[Outcome], alone: Outcome, close: float = 1e-8) -> None:
    """Each rank has rank 0's outcome to the bit, and that is one rank's."""
    for other in found[1:]:
        assert_same(other, found[0])
    assert_same(found[0], alone, close)
    assert found[0].counts == alone.counts


def soup_all(comm: Comm, job: Job, again: bool = False) -> Diagnosis | None:
    """What `gnnsoup soup` does between its job and its report. Rank-collective."""
    here = RankInfo(comm.rank, comm.size, comm.rank, comm.size, "here")
    with open_mixtures(job, here, comm, runs.CPU, runs.QUIET, select_ingredients) as (job, selection, mixtures):
        align_ingredients(job, mixtures, selection, runs.QUIET, again)
        SoupRunner(job, selection, mixtures, runs.QUIET).run_all(again)
        return diagnose(job, selection, mixtures, runs.QUIET, again) if job.soup.diagnose else None


def main() -> None:
    here = launch.read_rank_info()
    launch.show_tracebacks(here)
    torch.set_num_threads(1)
    sharding.SECTION_ROWS = 3  # as the fixture sections_of_three_rows: or one rank would have all of a small graph
    comm, job = CheckingComm(launch.connect(here)), jobs.load(sys.argv[1])
    outcomes = {case: comm.allgather(run_case(comm, job, case)) for case in sys.argv[3:]}
    if here.rank == 0:
        Path(sys.argv[2]).write_bytes(
            pickle.dumps({case: [vars(each) for each in found] for case, found in outcomes.items()})
        )


if __name__ == "__main__":
    main()
