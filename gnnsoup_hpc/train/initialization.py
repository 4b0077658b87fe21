"""What ingredients start from: one initial state, one trunk, or each its own initial state."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass

from gnnsoup_hpc.errors import DivergedError, FileError, ForeignFileError, RunError
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io import states
from gnnsoup_hpc.io import trunk as trunk_store
from gnnsoup_hpc.io.ingredient import Origin
from gnnsoup_hpc.io.trunk import TrunkOrigin
from gnnsoup_hpc.runtime import launch, leases
from gnnsoup_hpc.runtime.leases import Lease, LeaseMonitor
from gnnsoup_hpc.train.checkpointing import OvertakenError
from gnnsoup_hpc.train.context import TrainContext
from gnnsoup_hpc.train.loop import train_trunk
from gnnsoup_hpc.types import State

POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Initialization:
    """The starts of a run's ingredients. trunk: the state that all branch from, where the job asks for one."""

    bench: TrainContext
    initial: State
    trunk: State | None

    @classmethod
    def of(cls, bench: TrainContext) -> Initialization:
        """Those of the run: read, or made by whoever comes first.

        Raises: RunError where the run holds an initial state or a trunk of another recipe.
        """
        initial = _initial(bench)
        return cls(bench, initial, _trunk(bench, initial) if bench.job.train.trunk_epochs else None)

    def state(self, index: int) -> State:
        """What ingredient `index` is trained from."""
        train = self.bench.job.train
        if train.start == "own":
            return ingredient_store.make_own_start(self.bench.model, train.seed, index)
        return self.initial if self.trunk is None else self.trunk

    def origin(self, index: int) -> Origin:
        """What ingredient `index` is a function of."""
        bench = self.bench
        trunk = "" if self.trunk is None else states.sha256(self.trunk)
        return Origin.of(bench.job, bench.model, bench.graph, states.sha256(self.initial), index, trunk)


def _initial(bench: TrainContext) -> State:
    """The run's initial state; whoever comes first saves it, and all read what is saved.

    It is a function of the job, so two that come first together replace equals by equals, and a damaged one is made
    again.
    """
    path, model, seed = bench.run.initial, bench.model, bench.job.train.seed
    try:
        if path.exists():
            return ingredient_store.read_initial(path, model, seed)
    except FileError as error:
        bench.log.say(f"train: {error}; made again")
    ingredient_store.write_initial(path, model.init_state(seed), model, bench.job)
    return ingredient_store.read_initial(path, model, seed)


def _trunk(bench: TrainContext, initial: State) -> State:
    """The run's trunk: one rank trains it under a lease while the others wait; a damaged one is made again.

    Raises: RunError for a sound one of another recipe; DivergedError where it cannot be trained.
    """
    origin = TrunkOrigin.of(bench.job, bench.model, bench.graph, states.sha256(initial))
    lease, board, watch, waiting = bench.run.lease("trunk"), bench.board, LeaseMonitor(), False
    while (found := _there(bench, origin)) is None:
        with bench.here.stop.later(), leases.hold(lease, launch.describe(bench.here), watch) as ours:
            if ours and _there(bench, origin) is None:
                if why := board.failed("trunk"):
                    raise DivergedError(why)
                with suppress(OvertakenError):
                    _train(bench, initial, origin, ours)
        if not ours:
            if not waiting:
                bench.log.say(f"train: waiting for {leases.describe_holder(lease)}, who trains the trunk")
            waiting = True
            time.sleep(POLL_SECONDS)
    return found


def _there(bench: TrainContext, origin: TrunkOrigin) -> State | None:
    """The trunk, if it is there and right."""
    path = bench.run.trunk
    if not path.exists():
        return None
    try:
        return trunk_store.read(path, origin).state
    except ForeignFileError as error:
        raise RunError(f"{error}: give the job a name of its own (--set name=…), or move {path} away") from None
    except FileError as error:
        bench.log.say(f"train: {error}; made again")
        return None


def _train(bench: TrainContext, initial: State, origin: TrunkOrigin, lease: Lease) -> None:
    """Train and publish the trunk."""
    keeper = bench.keeper("trunk", "the trunk", origin, lease)
    with bench.board.watched("trunk", "trunk", origin.hyperparameters.epochs) as bar:
        trunk = train_trunk(bench.course, initial, origin.hyperparameters, bench.job.train.seed, bar, keeper)
    trunk_store.write(bench.run.trunk, trunk, origin, bench.job, **bench.provenance)
    keeper.done()
    bench.board.forget_failure("trunk")
    bench.log.say(
        f"train: trunk done in {trunk.measurement['seconds']:.1f} s, {len(trunk.history)} epochs, validation"
        f" {trunk.history[-1].validation_accuracy:.4f} between epochs"
    )
