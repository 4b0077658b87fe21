"""A whole run in steps, as small as it can be, in which the package writes all that it ever writes to a run.

Each step is a command as a user gives it. What large graphs alone would bring about is brought about here: METIS's
arrays travel as files, features are drawn block by block, evaluation spills.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

from gnnsoup_hpc.data import partition, prepare
from gnnsoup_hpc.errors import DivergedError
from gnnsoup_hpc.evaluation.evaluator import EvalSettings, Evaluator
from gnnsoup_hpc.runtime import leases
from gnnsoup_hpc.train import runner, task_board
from gnnsoup_hpc.train.loop import train
from tests.faults import kit

JOB = """\
name = "tiny"
[graph]
source = "synthetic:arxiv"
[graph.synthetic]
scale = 0.001
[partition]
parts = 4
[model]
hidden = 4
[train]
ingredients = 2
batch = "cluster"
trunk_epochs = 2
trunk_starts = 2
start = "snapshots"
checkpoint_seconds = 1e-9
epochs = 2
[soup]
methods = ["best", "uniform", "greedy", "gis", "ls", "pls", "ensemble", "distil"]
align = "weights"
[soup.gis]
granularity = 2
[soup.ls]
epochs = 2
[soup.pls]
epochs = 2
union = 2
first_hop = "exact"
[soup.distil]
epochs = 2
[machine]
threads = 1
"""


@dataclass(frozen=True)
class Step:
    """A command, and what is done to the folder of runs before it."""

    name: str
    words: tuple[str, ...]
    hurt: Callable[[Path], None] = lambda runs: None
    ends: int = 0  # exit code when undisturbed


def _damage_trained(runs: Path) -> None:
    for name in ("ingredients/0001.h5", "trunk.h5", "initial.h5", "ingredients.h5"):
        kit.flip(runs / "tiny" / name, 0.5)


def _damage_souped(runs: Path) -> None:
    for name in ("soups/pls.h5", "soups/distil.h5", "teacher.h5", "alignment.h5", "first-hop-sage.h5", "diagnosis.h5"):
        kit.flip(runs / "tiny" / name, 0.5)


def _damage_imported(runs: Path) -> None:
    for name in ("ingredients/0001.h5", "imported.h5", "ingredients.h5"):
        kit.flip(runs / "imported" / name, 0.5)


def _lease_elsewhere(runs: Path) -> None:
    """A host out of sight holds the lease on an ingredient that is not there."""
    (runs / "diverging/leases/ingredient-0001.lease").write_text('{"host": "elsewhere", "pid": 1, "started": "0"}')


def _set(*overrides: str) -> tuple[str, ...]:
    return tuple(word for override in overrides for word in ("--set", override))


DIVERGING = _set(
    "name=diverging", "train.trunk_epochs=0", "train.trunk_starts=1", "train.vary.learning_rate=[0.01, 999]"
)
IMPORT = ("import", "job.toml", "runs/tiny/ingredients/*.h5", *_set("name=imported"))
OTHER = ("--graph", "synthetic:arxiv", "--to", "runs/out/scores.npy")
GRID = _set(
    "name=grid",
    "train.trunk_epochs=0",
    "train.trunk_starts=1",
    "train.start=shared",
    "train.ingredients=1",
    "train.epochs=1",
    'train.batch="full"',
)
GRID += _set('soup.methods=["uniform"]', "soup.diagnose=false", 'soup.align="none"')
SWEPT = _set('soup.methods=["gis"]', "soup.diagnose=false", "sweep.gis.granularity=[3, 4]")


def _make_folder(runs: Path) -> None:
    """Where exports and scores go."""
    (runs / "out").mkdir(exist_ok=True)


STEPS = (
    Step("prepare", ("prepare", "job.toml")),
    Step("train", ("train", "job.toml")),
    Step("soup", ("soup", "job.toml")),
    Step("report", ("report", "runs/tiny")),
    Step("tables", ("report", "runs/tiny", "--csv", "runs/tables")),
    Step("train again what is damaged", ("train", "job.toml"), _damage_trained),
    Step("soup again what is damaged", ("soup", "job.toml"), _damage_souped),
    Step("import", IMPORT),
    Step("import again what is damaged", IMPORT, _damage_imported),
    Step("export", ("export", "runs/tiny", "--method", "pls", "--to", "runs/out/soup.pt"), _make_folder),
    Step("predict another graph", ("predict", "runs/tiny", "--method", "pls", *OTHER)),
    Step("sweep", ("soup", "job.toml", *SWEPT)),
    Step("sweep again", ("soup", "job.toml", "--again", *SWEPT)),
    Step("train a sweep of training", ("train", "job.toml", *GRID, *_set("sweep.train.seed=[0, 1]"))),
    Step("soup across its runs", ("soup", "job.toml", *GRID, *_set("sweep.train.seed=[0, 1]"))),
    Step("soup fewer of its runs", ("soup", "job.toml", *GRID, *_set("sweep.train.seed=[1]"))),
    Step("train one that diverges", ("train", "job.toml", *DIVERGING), ends=1),
    Step("status", ("status", "runs/diverging"), _lease_elsewhere),
)


@contextmanager
def everything_on_disk() -> Iterator[None]:
    """As if the graph were large: its cut is prepared through files, and evaluation has no room in memory.

    And as if no time passed, so that what is written does not depend on the machine's speed.
    """
    begin = Evaluator.__init__

    def tight(self: Evaluator, graph: Any, model: Any, settings: EvalSettings, task: Any = None) -> None:
        begin(self, graph, model, replace(settings, memory=1), task)

    def cut(folder: Path, log: Any) -> None:
        partition.main(folder)  # in this process, which spares the start of another

    def diverging(course: Any, initial: Any, how: Any, *rest: Any) -> Any:
        if how.learning_rate == 999:
            raise DivergedError("it diverged")
        return train(course, initial, how, *rest)

    with (
        mock.patch.object(Evaluator, "__init__", tight),
        mock.patch.object(runner, "train", diverging),
        mock.patch.object(partition, "run_metis", cut),
        mock.patch.object(prepare, "ENTRIES_TO_CUT_APART", 0),
        mock.patch.object(task_board, "SECONDS_BETWEEN_POSTS", 0.0),
        mock.patch.object(leases, "RENEW_SECONDS", 1e9),
    ):
        yield
