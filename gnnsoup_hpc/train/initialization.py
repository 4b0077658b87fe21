"""What ingredients start from: one initial state, one trunk, or each its own initial state."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass

from gnnsoup_hpc.errors import DivergedError, FileError, ForeignFileError, RunError
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io import states
from gnnsoup_hpc.io.ingredient import Origin
from gnnsoup_hpc.runtime import launch, leases
from gnnsoup_hpc.runtime.leases import Lease, LeaseMonitor
from gnnsoup_hpc.train.checkpointing import OvertakenError
from gnnsoup_hpc.train.context import TrainContext
from gnnsoup_hpc.train.loop import train_trunk
from gnnsoup_hpc.types import State

POLL_SECONDS = 1.0


@dataclass(frozen=True)
class Initialization:
    """What a run's ingredients start from. trunk: the state that all branch from, where the job asks for one."""

    context: TrainContext
    initial: State
    trunk: State | None

    @classmethod
    def of(cls, context: TrainContext) -> Initialization:
        """Those of the run: read, or made by whoever comes first.

        Raises: RunError where the run holds an initial state or a trunk of another recipe.
        """
        initial = _initial(context)
        return cls(context, initial, _trunk(context, initial) if context.job.train.trunk_epochs else None)

    def state(self, index: int) -> State:
        """What ingredient `index` is trained from."""
        train = self.context.job.train
        if train.start == "own":
            return ingredient_store.make_own_start(self.context.model, train.seed, index)
        return self.initial if self.trunk is None else self.trunk

    def origin(self, index: int) -> Origin:
        """What ingredient `index` is a function of."""
        context = self.context
        trunk = "" if self.trunk is None else states.sha256(self.trunk)
        return Origin.of(context.job, context.model, context.graph, states.sha256(self.initial), index, trunk)


def _initial(context: TrainContext) -> State:
    """The run's initial state; whoever comes first saves it, and all read what is saved.

    It is a function of the job, so two that come first together replace equals by equals, and a damaged one is made
    again.
    """
    path, model, seed = context.run.initial, context.model, context.job.train.seed
    try:
        if path.exists():
            return ingredient_store.read_initial(path, model, seed)
    except FileError as error:
        context.log.say(f"train: {error}; made again")
    ingredient_store.write_initial(path, model.init_state(seed), model, context.job)
    return ingredient_store.read_initial(path, model, seed)


def _trunk(context: TrainContext, initial: State) -> State:
    """The run's trunk: one rank trains it under a lease while the others wait; a damaged one is made again.

    Raises: RunError for a sound one of another recipe; DivergedError where it cannot be trained.
    """
    origin = Origin.of(context.job, context.model, context.graph, states.sha256(initial), None)
    lease, board, monitor, waiting = context.run.lease("trunk"), context.board, LeaseMonitor(), False
    while (found := _there(context, origin)) is None:
        with context.here.stop.later(), leases.hold(lease, launch.describe(context.here), monitor) as ours:
            if ours and _there(context, origin) is None:
                if why := board.failed("trunk"):
                    raise DivergedError(why)
                with suppress(OvertakenError):
                    _train(context, initial, origin, ours)
        if not ours:
            if not waiting:
                context.log.say(f"train: waiting for {leases.describe_holder(lease)}, who trains the trunk")
            waiting = True
            time.sleep(POLL_SECONDS)
    return found


def _there(context: TrainContext, origin: Origin) -> State | None:
    """The trunk, if it is there and right."""
    path = context.run.trunk
    if not path.exists():
        return None
    try:
        return ingredient_store.read_trunk(path, origin).state
    except ForeignFileError as error:
        raise RunError(f"{error}: give the job a name of its own (--set name=…), or move {path} away") from None
    except FileError as error:
        context.log.say(f"train: {error}; made again")
        return None


def _train(context: TrainContext, initial: State, origin: Origin, lease: Lease) -> None:
    """Train and publish the trunk."""
    checkpoints = context.checkpoints("trunk", "the trunk", origin, lease)
    with context.board.watched("trunk", "trunk", origin.hyperparameters.epochs) as bar:
        trunk = train_trunk(context.data, initial, origin.hyperparameters, context.job.train.seed, bar, checkpoints)
    ingredient_store.write_trunk(context.run.trunk, trunk, origin, context.job, **context.provenance)
    checkpoints.done()
    context.board.forget_failure("trunk")
    context.log.say(
        f"train: trunk done in {trunk.measurement['seconds']:.1f} s, {len(trunk.history)} epochs, validation"
        f" {trunk.history[-1].validation_accuracy:.4f} between epochs"
    )
