"""The verdict on a diagnosis: what is wrong, why that may be, and what to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from math import isfinite

from gnnsoup_hpc.analysis.diagnosis.basin import Barrier, compute_barriers, is_collapsed
from gnnsoup_hpc.config import Job
from gnnsoup_hpc.evaluation.averages import VARIANTS
from gnnsoup_hpc.evaluation.tasks import Task, score
from gnnsoup_hpc.io.records import Diagnosis, Midpoints
from gnnsoup_hpc.types import Align

HIGH_RATE = 0.01  # of Adam: these models are trained at 0.001 to 0.01
LOW_RATE = 0.001
BY_WEIGHTS = VARIANTS["units matched by weights"]
WEAK = 0.1  # of accuracy, or of the task's unit, below the best
COARSE = 0.05  # likewise: twice an error that hides what matters


def verdict(
    found: Diagnosis, job: Job, task: Task, uniform_loses: bool | None = None, aligned: Align | None = None
) -> list[str]:
    """A few sentences each; `job` is what the ingredients were trained by.

    uniform_loses: whether the uniform soup, as it was made, is worse than the best ingredient on test nodes; None where
    there is none. aligned: what the soups' ingredients were aligned by; None where it is not known.
    """
    left_out = [f"Left out: {reason}." for reason in found.left_out]
    if len(found.ingredients) == 1:
        return [*left_out, "There is one ingredient, so there is nothing to mix and no basin to share."]
    *barriers, mean = compute_barriers(found, found.variants[0], task)
    outside = [barrier for barrier in barriers if not barrier.in_basin]
    first, loss = [*left_out, *_list_unfit(found, task)], [_explain_loss(found, task)] if uniform_loses else []
    if not outside and mean.in_basin:
        return [*first, f"{_describe_basin(found, barriers, task)} {_describe_mean(mean, task)}", *loss]
    first.append(f"{_describe_outside(found, outside, task)} {_describe_mean(mean, task)}")
    matched = _find_matched(found, job, task, aligned)
    if matched is not None:
        *barriers, mean = compute_barriers(found, matched, task)
        outside = [barrier for barrier in barriers if not barrier.in_basin]
        if not outside and mean.in_basin:
            return [
                *first,
                f'{_describe_starts(found)}The job matches units before mixing (soup.align = "{job.soup.align}"), and'
                " then they are in one basin.",
                *_compare_variants(found, job, task),
                *loss,
            ]
    avoid = ", and not uniform" if uniform_loses is not False else ""
    return [
        *first,
        *_list_remedies(found, job, task, outside, aligned),
        f"Until then use greedy or gis, which mix only what improves on the best ingredient{avoid}.",
    ]


def _find_matched(found: Diagnosis, job: Job, task: Task, aligned: Align | None) -> Midpoints | None:
    """Midpoints of units matched by weights, where the job mixes ingredients so; else None.

    Of soup.align = "auto", where it is not known what that came to, by its rule: the mean of all gains more than the
    error.
    """
    before, *others = found.variants
    matched = next((way for way in others if way.setting == BY_WEIGHTS), None)
    if matched is None or aligned is not None or job.soup.align != "auto":
        return matched if (aligned or job.soup.align) == "weights" else None
    gain = score(task, matched.mean.accuracy) - score(task, before.mean.accuracy)
    return matched if gain > 2.0 * compute_barriers(found, before, task)[-1].error else None


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


def _list_remedies(
    found: Diagnosis, job: Job, task: Task, outside: Sequence[Barrier], aligned: Align | None
) -> Iterator[str]:
    """What to do about ingredients in several basins, the likeliest cause first, but for what the job does already."""
    numbers = [int(barrier.name) for barrier in outside]
    starts = _count_starts(found)
    matching = _describe_matching(found, job, aligned)
    if not all(ingredient.initial_sha256 for ingredient in found.ingredients):
        leave = f"leave out those that are not in one basin with the best{_name_left_out(numbers)}"
        yield (
            "They were imported, so what they started from is not known. Barriers like these are those of different"
            f" initial states, or of training that drove them apart: {matching}{leave}:"
            " LS and PLS may else end below it."
        )
        yield from _compare_variants(found, job, task)
        return
    if starts > 1:
        shared = 'train.start = "shared", and one train.seed' if job.train.start == "own" else "one train.seed"
        yield f"{_describe_starts(found).removesuffix('. ')}: {matching}train from one initial state ({shared})."
    yield from _compare_variants(found, job, task)
    if job.graph.features != "standardise":
        how = {"none": "as the source has them", "scale": "scaled"}.get(job.graph.features, "row-normalised")
        yield (
            f"Features are {how}, not standardised, which lets ingredients drift apart: set graph.features ="
            ' "standardise", give the job a name of its own, and train again.'
        )
    named = [found.named(barrier.name) for barrier in outside] or found.ingredients
    if rates := sorted({each.learning_rate for each in named if each.learning_rate > HIGH_RATE}):
        yield _describe_rates(found, numbers, rates)
    if starts == 1:
        lower = not rates and any(each.learning_rate > LOW_RATE for each in named)
        later = f"a later trunk (train.trunk_epochs above {job.train.trunk_epochs})"
        trunk = later if job.train.trunk_epochs else "a shared trunk (train.trunk_epochs)"
        if job.train.start == "snapshots":
            trunk = 'a shared trunk (train.start = "shared", train.trunk_epochs)'
        yield (
            "They share their initial state, so training drove them apart: train fewer epochs"
            f"{' or at a lower learning rate' if lower else ''}, or branch them later from {trunk}."
        )


def _count_starts(found: Diagnosis) -> int:
    return len({ingredient.initial_sha256 for ingredient in found.ingredients})


def _describe_starts(found: Diagnosis) -> str:
    """A sentence where ingredients are known to have started from several states."""
    starts = _count_starts(found) if all(each.initial_sha256 for each in found.ingredients) else 1
    orders = "so their hidden units are in different orders"
    return f"They started from {starts} different initial states, {orders}. " if starts > 1 else ""


def _describe_matching(found: Diagnosis, job: Job, aligned: Align | None) -> str:
    """What to do about units in other orders, or what the job does, before what else to do; of no units nothing."""
    if len(found.variants) == 1:
        return ""
    if job.soup.align == "none":
        return f"match the units before mixing ({BY_WEIGHTS}), or "
    if aligned == "none":
        return f'soup.align = "{job.soup.align}" left them as they are, for matching does not help; '
    where = " where that helps" if job.soup.align == "auto" and aligned is None else ""
    return f'the job matches them before mixing{where} (soup.align = "{job.soup.align}"); '


def _name_left_out(numbers: Sequence[int]) -> str:
    return f" (soup.leave_out = {list(numbers)})" if numbers else ""


def _describe_rates(found: Diagnosis, outside: Sequence[int], rates: Sequence[float]) -> str:
    """Of learning rates that are high: what others show of lower ones, where those are in the basin."""
    high = f"A learning rate of {', '.join(f'{rate:g}' for rate in rates)} is high for Adam"
    calm = [each.learning_rate for each in found.ingredients if int(each.ingredient) not in outside]
    fast = [each.learning_rate for each in found.ingredients if int(each.ingredient) in outside]
    if fast and len(calm) > 1 and max(calm) < min(fast):
        return (
            f"{high}, and those of {max(calm):g} or less are in one basin: leave the others out"
            f"{_name_left_out(outside)}, or train them at such a rate."
        )
    return f"{high}: lower it to {HIGH_RATE / 2:g} or less."


def _compare_variants(found: Diagnosis, job: Job, task: Task) -> Iterator[str]:
    """What each other alignment of the ingredients would help, as measured."""
    before, *others = found.variants
    outside, *left = (
        sum(not barrier.in_basin for barrier in compute_barriers(found, way, task)[:-1]) for way in found.variants
    )
    for way, still in zip(others, left, strict=True):
        better = score(task, way.mean.accuracy) > score(task, before.mean.accuracy)
        advised = better and job.soup.align == "none"
        yield (
            f"With {way.variant}, {still} are not in one basin with the best (as trained: {outside}), and the mean"
            f" of all has {way.mean.accuracy:.4f} (as trained: {before.mean.accuracy:.4f})"
            f"{f': set {way.setting}' if advised else ''}."
        )


def _describe_barrier(barrier: Barrier, task: Task) -> str:
    where, twice = _compare_words(barrier.fall >= 0, task), task.show(2 * barrier.error)
    return f"{task.show(abs(barrier.fall))} {where} the mean of its ends (twice the error: {twice})"


def _compare_words(worse: bool, task: Task) -> str:
    """Where a metric lies that is worse, or better, than another."""
    return "below" if worse == task.higher_is_better else "above"
