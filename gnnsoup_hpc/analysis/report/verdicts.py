"""Verdicts: what the numbers say, in words, and never a gain that lies within its error."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

import torch

from gnnsoup_hpc.analysis.diagnosis.advice import verdict
from gnnsoup_hpc.analysis.diagnosis.basin import COLLAPSE
from gnnsoup_hpc.analysis.report.ceiling import judge_ceiling
from gnnsoup_hpc.analysis.report.comparison import Comparison, compare_with_best
from gnnsoup_hpc.analysis.report.contents import Contents
from gnnsoup_hpc.analysis.report.recomputed import judge_recomputed
from gnnsoup_hpc.evaluation.tasks import score
from gnnsoup_hpc.io.records import Ingredient, Soup
from gnnsoup_hpc.utils.text_table import show_points

WHOLE = 0.99  # the least weight, in every group, of the one ingredient that a soup equals
_WHOLE = "99 % or more"
_NAMED = 5  # rare classes
_LACKS = "a file has no bootstrap samples"


def verdicts(run: Contents) -> list[str]:
    """One sentence each on what to notice about the run's soups, then the diagnosis's."""
    return list(_list_sentences(run))


def list_cautions(run: Contents) -> Iterator[str]:
    """Those sentences without which the figures would be taken for what they are not."""
    yield from _name_what_is_left_out(run)
    yield from _describe_labels(run)
    yield from _judge_classes(run)
    if len(run.ingredients) > 1:
        yield from judge_recomputed(run)
        for soup in run.soups:
            yield from _report_collapse(run, soup)


def _name_what_is_left_out(run: Contents) -> Iterator[str]:
    for reason in run.soups[0].left_out:
        yield f"Left out: {reason}."
    if run.unlisted:
        there = ", ".join(run.unlisted)
        yield f"Not shown: soups that are there of methods which the job does not list (soup.methods): {there}."


def _list_sentences(run: Contents) -> Iterator[str]:
    yield from _name_what_is_left_out(run)
    yield from _describe_imported(run)
    yield from _describe_labels(run)
    if len(run.ingredients) == 1:
        yield "There is one ingredient, so there is nothing to mix: every soup is that ingredient."
        yield from _judge_classes(run)
        return
    yield from _report_same(run)
    best = run.best
    error = run.task.show(2.0 * run.error_of(best))
    of = "binomial error of" if run.task.counts_hits else "bootstrap error over"
    yield (
        f"The best ingredient on validation is {best.index:04d}, with test {run.metric} {best.test_accuracy:.4f};"
        f" twice the {of} {run.test_nodes} test nodes is {error}."
    )
    yield from judge_recomputed(run)
    yield from _judge_classes(run)
    for soup in run.soups:
        if soup.method != "best":
            yield _judge_soup(run, soup, compare_with_best(run, soup))
            yield from _report_collapse(run, soup)
    yield from judge_ceiling(run)
    yield from judge_basin(run)


def judge_basin(run: Contents) -> Iterator[str]:
    """What the diagnosis says, and what to do where the ingredients lie in several basins."""
    if run.diagnosis is None:
        yield f"Whether the ingredients lie in one basin is not known: run `gnnsoup diagnose {run.run.root}`."
        return
    uniform = run.soup("uniform")
    loses = None if uniform is None else compare_with_best(run, uniform).loses
    aligned = run.alignment.alignment.by if run.alignment else None
    yield from verdict(run.diagnosis, run.job, run.task, loses, aligned)


def _describe_imported(run: Contents) -> Iterator[str]:
    count, imported = len(run.ingredients), sum(bool(one.imported) for one in run.ingredients)
    unknown = sum(one.hyperparameters is None for one in run.ingredients)
    if imported and not unknown:
        yield f"{imported} of {count} ingredients are those of other runs."
    elif imported:
        which = "them" if unknown == count else f"{unknown} of them"
        cost = f"what it cost to train {which} is not known"
        yield f"{imported} of {count} ingredients were imported, and their accuracies measured here; {cost}."


def _describe_labels(run: Contents) -> Iterator[str]:
    """Said of ingredients whose metrics on validation nodes are not those of nodes that a model has not seen."""
    all_labels = sum(one.hyperparameters is not None and one.hyperparameters.labels == "all" for one in run.ingredients)
    if all_labels:
        count = len(run.ingredients)
        which = f"{all_labels} of {count} ingredients were" if count > 1 else "The ingredient was"
        yield (
            f"{which} trained on the labels of validation nodes too (train.labels): validation metrics, the best"
            " ingredient, the alignment and the diagnosis are by nodes that were trained on; test metrics are not."
        )


def _report_same(run: Contents) -> Iterator[str]:
    """Said where no training drew anything of its own."""
    if run.same:
        yield (
            f"All {len(run.ingredients)} ingredients are the same model, so there is nothing to mix: their training"
            " drew nothing that differs. Dropout, batches of parts, train.vary or train.drop_edges make them differ."
        )


def _judge_classes(run: Contents) -> Iterator[str]:
    """Where a metric says little: what looks at no node is as good, or a class is rarer than the error."""
    nodes = run.test_nodes
    all_made: list[Ingredient | Soup] = [run.best, *run.soups]
    made = max(all_made, key=lambda each: score(run.task, each.test_accuracy))
    highest, error = made.test_accuracy, 2.0 * run.error_of(made)
    if not run.task.counts_hits:
        above = score(run.task, highest) - score(run.task, run.baseline["test"])
        if above <= error:
            than = "worse than" if above < -error else "no better than"
            yield (
                f"The best test {run.metric}, {highest:.4f}, is {than} that of {run.task.guess_words},"
                f" {run.baseline['test']:.4f}: the error is {run.task.show(error)}."
            )
        return
    most = max(range(len(run.test_classes)), key=lambda number: run.test_classes[number])
    share = run.test_classes[most] / nodes
    if highest - share <= error:
        than = "worse than" if share - highest > error else "no better than"
        yield (
            f"The highest test accuracy, {highest:.4f}, is {than} a majority vote: {share:.4f} of test nodes are of"
            f" class {most}, and the error is {show_points(error)}."
        )
    rare = [number for number, count in enumerate(run.test_classes) if count <= error * nodes]
    if rare and len(run.test_classes) > 1:
        named = ", ".join(f"{number} ({run.test_classes[number]})" for number in rare[:_NAMED])
        more = f" and {len(rare) - _NAMED} more" if len(rare) > _NAMED else ""
        yield (
            f"Test accuracy does not show whether rare classes are predicted: {len(rare)} of {len(run.test_classes)}"
            f" classes have no more test nodes than the error, {error * nodes:.0f} of {nodes}: class {named}{more}."
        )


def _judge_soup(run: Contents, soup: Soup, found: Comparison) -> str:
    """How one soup stands to the best ingredient on test nodes."""
    best, name, only = f"{run.best.index:04d}", _name_soup(soup), find_only_ingredient(soup)
    if only == best and found.difference == 0.0:
        return f"{name} equals the best ingredient, {only} ({_WHOLE} of the weight)."
    whose = f" ({_WHOLE} of its weight is ingredient {only})" if only else ""
    if found.difference == 0.0:
        return f"{name} does exactly as well as the best ingredient{whose}."
    lacks = "the soup's file, of an older version, lacks the pairs"
    how = "" if found.paired else f", as if on different nodes: {lacks}" if run.task.counts_hits else f": {_LACKS}"
    away, error = run.task.show(abs(found.difference)), f"{run.task.show(found.error)}{how}"
    if abs(found.difference) > found.error:
        did = "loses to" if found.loses else "beats"
        return f"{name} {did} the best ingredient by {away}{whose}; the error is {error}."
    place = "above" if (found.difference > 0) == run.task.higher_is_better else "below"
    return f"{name} is {away} {place} the best ingredient{whose}, a difference within its error of {error}."


def _report_collapse(run: Contents, soup: Soup) -> Iterator[str]:
    """Said aloud where a mixture of weights is far worse than what it is made of."""
    tests = [ingredient.test_accuracy for ingredient in run.ingredients]
    below = score(run.task, fmean(tests)) - score(run.task, soup.test_accuracy)
    draws = soup.judged.test_draws, [ingredient.judged.test_draws for ingredient in run.ingredients]
    error = 2.0 * run.task.error_below_mean(soup.test_accuracy, tests, run.test_nodes, *draws)
    if soup.mixture.of == "weights" and below > max(COLLAPSE * run.task.unit, error):
        where = "below" if run.task.higher_is_better else "above"
        away = run.task.show(below)
        yield f"{_name_soup(soup)} collapsed: {away} {where} the mean ingredient, {fmean(tests):.4f}."


def find_only_ingredient(soup: Soup) -> str:
    """The ingredient that has 99 % or more of the weight in every group; empty where there is none.

    Weights that are no shares are: its own is 1, and the others' are 0, within a hundredth.
    """
    alpha = soup.mixture.alpha
    columns = set(alpha.argmax(1).tolist())
    if soup.mixture.of != "weights" or len(columns) > 1:
        return ""
    alone = torch.zeros_like(alpha)
    alone[:, list(columns)] = 1.0
    # Sums on both sides: shares that leave 1 by a hundredth give as much to others.
    if not bool((alpha - alone).abs().sum(1).max() <= 2.0 * (1.0 - WHOLE) + 1e-12):
        return ""
    return str(soup.ingredients[columns.pop()])


def _name_soup(soup: Soup) -> str:
    named = {"predictions": "The ensemble", "distilled": "The distilled model"}
    return named.get(soup.mixture.of, f"The {soup.method} soup")
