"""What users of trainers expect: schedules, clipping, AdamW, averages of weights, an end before the last epoch."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gnnsoup_hpc.config.turns import Hyperparameters, base_hyperparameters, without_effect
from gnnsoup_hpc.errors import IngredientsError, JobError, LauncherError
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io.records import Ingredient
from gnnsoup_hpc.runtime import launch
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.train import task_board
from gnnsoup_hpc.train.averages import WeightAverage
from gnnsoup_hpc.train.task_board import PostingBar
from tests import runs

HOW = Hyperparameters(epochs=10, learning_rate=0.1, weight_decay=0.0, dropout=0.5)


def with_(**fields: object) -> Hyperparameters:
    return Hyperparameters(**{**HOW.__dict__, **fields})  # type: ignore[arg-type]


def test_a_constant_rate_is_the_jobs() -> None:
    assert {HOW.compute_rate(epoch) for epoch in range(1, 11)} == {0.1}


def test_warm_up_rises_in_equal_steps_to_the_rate() -> None:
    rates = [with_(warmup_epochs=4).compute_rate(epoch) for epoch in range(1, 7)]
    assert rates == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1, 0.1])


def test_a_cosine_falls_from_the_rate_to_nearly_nothing() -> None:
    rates = [with_(schedule="cosine").compute_rate(epoch) for epoch in range(1, 11)]
    assert rates == pytest.approx([0.05 * (1 + math.cos(math.pi * step / 10)) for step in range(10)])
    after = [with_(schedule="cosine", warmup_epochs=2).compute_rate(epoch) for epoch in range(1, 11)]
    assert after[2] == max(after) == 0.1
    assert after[2:] == sorted(after[2:], reverse=True)


def test_an_average_over_steps_forgets_by_its_decay() -> None:
    average, values = WeightAverage(with_(average="ema", average_decay=0.5)), [1.0, 3.0, 2.0, 8.0]
    expected = values[0]
    for step, value in enumerate(values):
        average.note_step({"w": torch.tensor([value])})
        average.note_epoch({"w": torch.tensor([99.0])}, step + 1)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = value if not step else decay * expected + (1 - decay) * value
    assert float(average.state["w"]) == pytest.approx(expected)


def test_swa_is_the_mean_of_the_last_epochs() -> None:
    average = WeightAverage(with_(average="swa", average_from=0.7))
    for epoch in range(1, 11):
        average.note_step({"w": torch.tensor([99.0])})
        average.note_epoch({"w": torch.tensor([float(epoch)])}, epoch)
        assert bool(average.state) == (epoch > 7)
    assert float(average.state["w"]) == pytest.approx((8 + 9 + 10) / 3)


def train(folder: Path, *overrides: str) -> Ingredient:
    job = runs.prepare_run(folder, "train.ingredients=1", "train.epochs=6", *overrides)
    runs.train(job)
    return ingredient_store.read(RunDir.of(job).ingredient(0))


def apart(one: Ingredient, other: Ingredient) -> float:
    return max(float((one.state[name] - other.state[name]).abs().max()) for name in one.state)


@pytest.mark.parametrize("batch", ["full", "cluster"])
def test_each_option_changes_the_weights_and_none_is_as_before(tmp_path: Path, batch: str) -> None:
    plain = train(tmp_path / "plain", f"train.batch={batch}")
    for number, option in enumerate(
        ["optimiser=adamw", "schedule=cosine", "warmup_epochs=3", "clip_norm=0.01", "average=ema", "average=swa"]
    ):
        more = ["train.weight_decay=0.1"] if "adamw" in option else []
        found = train(tmp_path / str(number), f"train.batch={batch}", f"train.{option}", *more)
        assert apart(found, plain) > 1e-4, option
        assert found.stopped == "all epochs done"
    same = train(tmp_path / "same", f"train.batch={batch}", "train.average_decay=0.5", "train.average_from=0.1")
    assert apart(same, plain) == 0.0


def test_adamw_decays_weights_apart_from_the_gradient(tmp_path: Path) -> None:
    """Without a decay it is Adam."""
    one = train(tmp_path / "a", "train.optimiser=adamw")
    other = train(tmp_path / "b", "train.optimiser=adam")
    assert apart(one, other) == 0.0


def test_patience_ends_a_training_that_gets_no_better(tmp_path: Path) -> None:
    """At this rate a later epoch is no better."""
    found = train(tmp_path, "train.epochs=60", "train.patience=2", "train.learning_rate=0.5")
    assert found.stopped == "none of the last 2 epochs was better"
    assert len(found.history) == found.best_epoch + 2 < 60
    best = [epoch.validation_accuracy for epoch in found.history]
    assert max(best) == best[found.best_epoch - 1]


def test_the_accuracy_that_is_recorded_is_of_the_average(tmp_path: Path) -> None:
    found = train(tmp_path, "train.average=swa", "train.average_from=0.0")
    assert found.validation_accuracy == pytest.approx(found.history[found.best_epoch - 1].validation_accuracy)


def test_what_has_no_effect_is_said_and_in_no_fingerprint(tmp_path: Path) -> None:
    job = runs.job_in(tmp_path, "train.average_decay=0.5", "train.average_from=0.5")
    assert without_effect(job) == ["train.average_decay", "train.average_from"]
    assert base_hyperparameters(job) == base_hyperparameters(runs.job_in(tmp_path))
    assert without_effect(runs.job_in(tmp_path, "train.average=ema", "train.average_decay=0.5")) == []


@pytest.mark.parametrize(
    "option", ["warmup_epochs=6", "clip_norm=-1", "average_decay=1.0", "patience=-1", "optimiser=sgd"]
)
def test_values_out_of_range_are_refused(option: str, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=option.partition("=")[0]):
        runs.job_in(tmp_path, "train.epochs=6", f"train.{option}")


def test_the_trunk_is_trained_with_the_jobs_optimiser_and_nothing_else_of_theirs() -> None:
    how = with_(optimiser="adamw", clip_norm=2.0, schedule="cosine", patience=3, average="ema", trunk_epochs=4).of_trunk
    assert (how.epochs, how.optimiser, how.clip_norm) == (4, "adamw", 2.0)
    assert (how.schedule, how.patience, how.average, how.trunk_epochs) == ("constant", 0, "none", 0)


def test_validation_every_so_many_epochs_changes_no_step(tmp_path: Path) -> None:
    """The others have no accuracy, and cannot be the best."""
    every = train(tmp_path / "every", "train.epochs=7")
    some = train(tmp_path / "some", "train.epochs=7", "train.validate_every=3")
    assert [epoch.loss for epoch in some.history] == [epoch.loss for epoch in every.history]
    for one, other in zip(some.history, every.history, strict=True):
        judged = one.epoch in (3, 6, 7)
        assert one.validation_accuracy == other.validation_accuracy if judged else math.isnan(one.validation_accuracy)
    assert some.best_epoch in (3, 6, 7)
    last = train(tmp_path / "last", "train.epochs=7", "train.validate_every=100")
    assert last.best_epoch == 7


def test_patience_ends_at_an_epoch_that_was_judged(tmp_path: Path) -> None:
    """Not while nobody has looked."""
    found = train(tmp_path, "train.epochs=60", "train.patience=2", "train.validate_every=5", "train.learning_rate=0.5")
    assert found.stopped == "none of the last 2 epochs was better, judged every 5"
    assert len(found.history) % 5 == 0
    assert len(found.history) == found.best_epoch + 5 < 60


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("patience=10",), "patience"),
        (("patience=2", "validate_every=10"), "patience"),
        (("average=swa", "average_from=0.9"), "average"),
        (("schedule=cosine", "warmup_epochs=9"), "schedule"),
    ],
)
def test_what_cannot_act_in_so_few_epochs_is_said(words: tuple[str, ...], named: str, tmp_path: Path) -> None:
    fields = [f"train.{word}" for word in words]
    assert without_effect(runs.job_in(tmp_path, "train.epochs=10", *fields)) == [f"train.{named}"]
    assert without_effect(runs.job_in(tmp_path, "train.epochs=60", *fields)) == []


def test_status_shows_the_last_accuracy_that_was_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    posted, made = list[dict[str, Any]](), PostingBar.__init__

    def listen(bar: PostingBar, log: Log, epochs: int, title: str, post: Callable[[dict[str, Any]], None]) -> None:
        made(bar, log, epochs, title, lambda figures: posted.append(dict(figures)))

    monkeypatch.setattr(PostingBar, "__init__", listen)
    monkeypatch.setattr(task_board, "SECONDS_BETWEEN_POSTS", 0.0)
    found = train(tmp_path, "train.validate_every=3")
    reached = {epoch.epoch: epoch.validation_accuracy for epoch in found.history}
    seen = {int(each["epoch"]): each.get("validation") for each in posted if "epoch" in each}
    assert seen[2] is None
    assert seen[3] == seen[4] == reached[3]


def test_divergence_is_seen_between_validations(tmp_path: Path) -> None:
    words = (
        "train.learning_rate=1000",
        "train.epochs=60",
        "train.validate_every=60",
        "model.layers=12",
        "model.kind=gat",
    )
    with pytest.raises(IngredientsError, match=r"diverged in epoch \d+ .*, before its first validation"):
        train(tmp_path, *words)


@pytest.mark.parametrize("kind", ["sage", "gcn", "gat"])
@pytest.mark.parametrize("batch", ["full", "cluster", "neighbour"])
def test_bfloat16_rounds_products_of_training(
    kind: str, batch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses stay near; the same again to the bit. A processor without such products imitates them."""
    monkeypatch.setattr(launch, "check_precision", lambda *words: None)
    words = f"model.kind={kind}", f"train.batch={batch}", "train.clusters=2"
    exact = train(tmp_path / "exact", *words)
    rounded, again = (train(tmp_path / name, *words, "train.precision=bfloat16") for name in ("one", "two"))
    assert apart(rounded, again) == 0.0
    assert apart(rounded, exact) > 0.0
    losses = [[epoch.loss for epoch in found.history] for found in (exact, rounded)]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    assert rounded.hyperparameters.precision == "bfloat16"


def test_bfloat16_is_refused_where_it_is_not_to_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(JobError, match="the engine 'torch' trains in float32 on a CPU"):
        train(tmp_path / "torch", "train.precision=bfloat16", "train.engine=torch")
    monkeypatch.setattr(launch, "_BFLOAT16_FLAGS", frozenset())
    with pytest.raises(LauncherError, match=r"train.precision = 'bfloat16', but this processor has no"):
        train(tmp_path / "old", "train.precision=bfloat16")
