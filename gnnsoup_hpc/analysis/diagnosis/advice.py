"""The verdict on a diagnosis: what is wrong, why that may be, and what to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from math import isfinite

from gnnsoup_hpc.analysis.diagnosis.basin import Barrier, compute_barriers, is_collapsed
from gnnsoup_hpc.config import Job
from gnnsoup_hpc.evaluation.tasks import Task, score
from gnnsoup_hpc.io.records import Diagnosis

HIGH_RATE = 0.01  # of Adam: these models are trained at 0.001 to 0.01
WEAK = 0.1  # of accuracy, or of the task's unit, below the best
COARSE = 0.05  # likewise: twice an error that hides what matters


def verdict(found: Diagnosis, job: Job, task: Task, uniform_loses: bool | None = None) -> list[str]:
    """A few sentences each; `job` is what the ingredients were trained by.

    uniform_loses: whether the uniform soup, as it was made, is worse than the best ingredient on test nodes; None where
    there is none.
    """
    left_out = [f"Left out: {reason}." for reason in found.left_out]
    if len(found.ingredients) == 1:
        return [*left_out, "There is one ingredient, so there is nothing to mix and no basin to share."]
    *barriers, mean = compute_barriers(found, found.variants[0], task)
    outside = [barrier for barrier in barriers if not barrier.in_basin]
    first = [*left_out, *_list_unfit(found, task)]
    if outside or not mean.in_basin:
        avoid = ", and not uniform" if uniform_loses is not False else ""
        return [
            *first,
            f"{_describe_outside(found, outside, task)} {_describe_mean(mean, task)}",
            *_list_remedies(found, job, task, outside),
            f"Until then use greedy or gis, which mix only what improves on the best ingredient{avoid}.",
        ]
    basin = f"{_describe_basin(found, barriers, task)} {_describe_mean(mean, task)}"
    return [*first, basin, *([_explain_loss(found, task)] if uniform_loses else [])]


def _explain_loss(found: Diagnosis, task: Task) -> str:
    """One basin is not enough where the ingredients differ in their metric: their mean is no better than the best."""
    lowest = min((ingredient.alone.accuracy for ingredient in found.ingredients), key=partial(score, task))
    return (
        f"Even so the uniform soup loses to the best ingredient: it averages ingredients of {lowest:.4f} to"
        f" {found.named(found.best).alone.accuracy:.4f} (validation). Use greedy or gis, which mix only what improves"
        " on the best ingredient."
    )


def _describe_basin(found: Diagnosis, barriers: Sequence[Barrier], task: Task) -> str:
    deepest = max(barriers, key=lambda barrier: barrier.fall)
    limit = f" Smaller falls cannot be detected with {found.nodes} validation nodes."
    coarse = limit if deepest.error > COARSE * task.unit / 2 else ""
    return (
        f"One basin: all {len(found.ingredients)} ingredients lie in one basin with the best, {found.best}. The lowest"
        f" midpoint, with {deepest.name}, is {_describe_barrier(deepest, task)}.{coarse}"
    )


def _describe_outside(found: Diagnosis, outside: Sequence[Barrier], task: Task) -> str:
    if not outside:
        return (
            f"Not one basin as trained: each midpoint with the best ingredient, {found.best}, holds, but the mean of"
            " all does not."
        )
    names = ", ".join(barrier.name for barrier in outside)
    deepest = max(outside, key=lambda barrier: barrier.fall)
    are = "is" if len(outside) == 1 else "are"
    return (
        f"Not one basin as trained: {len(outside)} of {len(found.ingredients)} ingredients {are} not in one basin with"
        f" the best, {found.best}: {names}. The midpoint with {deepest.name} is {_describe_barrier(deepest, task)}."
    )


def _describe_mean(mean: Barrier, task: Task) -> str:
    """What becomes of the mean of all."""
    what = "The mean of all as trained, which is the uniform soup unless the job aligns hidden units,"
    if not isfinite(mean.mean.loss):
        return f"{what} gives scores that are not finite."
    does = "collapses to" if is_collapsed(mean, task) else "has"
    where = f"{task.show(abs(mean.fall))} {_compare_words(mean.fall > 0, task)} the mean ingredient"
    return f"{what} {does} {mean.mean.accuracy:.4f}, {where}."


def _list_unfit(found: Diagnosis, task: Task) -> Iterator[str]:
    """Ingredients that spoil a soup wherever they lie."""
    best = found.named(found.best).alone.accuracy
    for each in found.ingredients:
        known = isfinite(each.epochs)
        how = f" (learning rate {each.learning_rate:g}, {each.epochs:g} epochs)" if known else ""
        if not isfinite(each.alone.loss):
            do = "train it at a lower rate" if known else "leave it out"
            yield f"Ingredient {each.ingredient} gives scores that are not finite{how}: {do}."
            continue
        below = score(task, best) - score(task, each.alone.accuracy)
        error = task.error_below_mean(best, [best], found.nodes) if task.counts_hits else 0.0
        if below > max(WEAK * task.unit, 2 * error):
            yield (
                f"Ingredient {each.ingredient} alone is {task.show(below)} {_compare_words(True, task)} the best"
                f" one{how}: it has not learned what the others have;{' train it again, or' if known else ''} leave it"
                f" out (soup.leave_out = [{int(each.ingredient)}])."
            )


def _list_remedies(found: Diagnosis, job: Job, task: Task, outside: Sequence[Barrier]) -> Iterator[str]:
    """What to do about ingredients in several basins, the likeliest cause first."""
    numbers = [int(barrier.name) for barrier in outside]
    starts = len({ingredient.initial_sha256 for ingredient in found.ingredients})
    if not all(ingredient.initial_sha256 for ingredient in found.ingredients):
        matching = "the job matches units" if job.soup.align == "weights" else "match units"
        yield (
            "They were imported, so what they started from is not known. Barriers like these are those of different"
            f' initial states, or of training that drove them apart: {matching} before mixing (soup.align = "weights"),'
            " or leave out those that are not in one basin with the best"
            f"{f' (soup.leave_out = {numbers})' if numbers else ''}: LS and PLS may else end below it."
        )
        yield from _compare_variants(found, job, task)
        return
    if starts > 1:
        matching = "the job matches them" if job.soup.align == "weights" else "match the units"
        yield (
            f"They started from {starts} different initial states, so their hidden units are in different orders:"
            f' {matching} before mixing (soup.align = "weights"), or train from one initial state (train.start ='
            ' "shared", and one train.seed).'
        )
    yield from _compare_variants(found, job, task)
    if job.graph.features != "standardise":
        how = {"none": "as the source has them", "scale": "scaled"}.get(job.graph.features, "row-normalised")
        yield (
            f"Features are {how}, not standardised, which lets ingredients drift apart: set graph.features ="
            ' "standardise", give the job a name of its own, and train again.'
        )
    named = [found.named(barrier.name) for barrier in outside] or found.ingredients
    if rates := sorted({each.learning_rate for each in named if each.learning_rate > HIGH_RATE}):
        shown = ", ".join(f"{rate:g}" for rate in rates)
        yield f"A learning rate of {shown} is high for Adam: lower it to {HIGH_RATE / 2:g} or less."
    if starts == 1:
        yield (
            "They share their initial state, so training drove them apart: train fewer epochs or at a lower learning"
            " rate, or branch them later from a shared trunk (train.trunk_epochs)."
        )


def _compare_variants(found: Diagnosis, job: Job, task: Task) -> Iterator[str]:
    """What each other alignment of the ingredients would help, as measured."""
    before, *others = found.variants
    outside, *left = (
        sum(not barrier.in_basin for barrier in compute_barriers(found, way, task)[:-1]) for way in found.variants
    )
    for way, still in zip(others, left, strict=True):
        news = bool(way.setting) and way.setting != f'soup.align = "{job.soup.align}"'
        better = news and score(task, way.mean.accuracy) > score(task, before.mean.accuracy)
        yield (
            f"With {way.variant}, {still} are not in one basin with the best (as trained: {outside}), and the mean"
            f" of all has {way.mean.accuracy:.4f} (as trained: {before.mean.accuracy:.4f})"
            f"{f': set {way.setting}' if better else ''}."
        )


def _describe_barrier(barrier: Barrier, task: Task) -> str:
    where, twice = _compare_words(barrier.fall >= 0, task), task.show(2 * barrier.error)
    return f"{task.show(abs(barrier.fall))} {where} the mean of its ends (twice the error: {twice})"


def _compare_words(worse: bool, task: Task) -> str:
    """Where a metric lies that is worse, or better, than another."""
    return "below" if worse == task.higher_is_better else "above"
