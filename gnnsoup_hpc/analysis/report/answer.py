"""The answer to what a run is made for: which model to take, how much better it is, and what it costs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gnnsoup_hpc.analysis.export import choose_soup, has_all_labels
from gnnsoup_hpc.analysis.report.ceiling import find_ceiling, list_ways_to_differ
from gnnsoup_hpc.analysis.report.comparison import Comparison, compare_with_best
from gnnsoup_hpc.analysis.report.contents import Contents
from gnnsoup_hpc.io.records import Soup

BEST, POINTS = "best", " points"
MOST = 3  # soups that a sentence names


@dataclass(frozen=True)
class Answer:
    """Which model to take, and why.

    method: whose model it is, "best" for the best ingredient. test: its metric on test nodes; better_by, error: how
    much better that is than the best ingredient's, and twice the standard error of that. advice: the one thing to try
    where no soup is better, or "".
    """

    method: str
    test: float
    better_by: float
    error: float
    sentence: str
    advice: str = ""


def find_answer(run: Contents) -> Answer:
    """Of the soups that are one model, the one that validation chooses, if it is better on test nodes beyond the error.

    Else the best ingredient: what is better on test nodes and not chosen by validation is named, and not taken.
    """
    best = run.best
    own = f"{best.index:04d}, test {run.metric} {best.test_accuracy:.4f}"
    if len(run.ingredients) == 1:
        sentence = f"Take the ingredient ({own}): there is one, and so nothing to mix."
        return Answer(BEST, best.test_accuracy, 0.0, 0.0, sentence)
    if run.same:
        count = len(run.ingredients)
        sentence = f"Take the best ingredient ({own}): all {count} are the same model, so there is nothing to mix."
        return Answer(BEST, best.test_accuracy, 0.0, 0.0, sentence, next(iter(list_ways_to_differ(run)), ""))
    single = [soup for soup in run.soups if soup.state is not None]
    chosen = choose_soup(run, None) if single else None
    if chosen is None:
        sentence = f"Take the best ingredient ({own}): no soup of the run is one model."
        return Answer(BEST, best.test_accuracy, 0.0, 0.0, sentence, 'add a method that mixes, as "ls", to soup.methods')
    found = compare_with_best(run, chosen)
    if found.gains:
        better = show_difference(run, found, signed=False)
        reached = f"test {run.metric} {chosen.test_accuracy:.4f}, {better} better than the best ingredient ({own})"
        by = "" if has_all_labels(run) else ", chosen by validation"
        sentence = f"Take {name_model(chosen)}{by}: {reached}, at the cost of one model."
        return Answer(chosen.method, chosen.test_accuracy, found.difference, found.error, sentence)
    sentence = f"Take the best ingredient ({own}): {_explain(run, chosen, found)}."
    return Answer(BEST, best.test_accuracy, 0.0, 0.0, sentence, next(_advise(run), ""))


def name_model(soup: Soup) -> str:
    """A soup within a sentence."""
    named = {"predictions": "the ensemble", "distilled": "the distilled model"}
    return named.get(soup.mixture.of, f"the {soup.method} soup")


def show_difference(run: Contents, found: Comparison, signed: bool = True) -> str:
    """How much better a soup is, and twice the standard error: "+0.96 ± 0.36 points"."""
    sign = ("-" if found.difference < 0.0 else "+") if signed else ""
    away = run.task.show(abs(found.difference)).removesuffix(POINTS)
    return f"{sign}{away} ± {run.task.show(found.error)}"


def list_gains(run: Contents) -> list[tuple[Soup, Comparison]]:
    """Soups that are one model and better than the best ingredient beyond the error."""
    found = ((soup, compare_with_best(run, soup)) for soup in run.soups if soup.state is not None)
    return [(soup, each) for soup, each in found if each.gains]


def _explain(run: Contents, chosen: Soup, found: Comparison) -> str:
    """Why it is the best ingredient."""
    gains = list_gains(run)
    if not gains:
        return "no soup that is one model is better beyond the error"
    others = ", ".join(f"{soup.method} {show_difference(run, each)}" for soup, each in gains[:MOST])
    others += f", and {len(gains) - MOST} more" if len(gains) > MOST else ""
    why = "is it" if chosen.method == BEST else f"is {name_model(chosen)}, {show_difference(run, found)}"
    return f"what validation chooses {why}. Better on test nodes, which may choose nothing: {others}"


def _advise(run: Contents) -> Iterator[str]:
    """What to try, the most promising first."""
    ceiling, methods = find_ceiling(run), run.job.soup.methods
    if ceiling is not None and ceiling.gains and "distil" not in methods:
        better = show_difference(run, ceiling, signed=False)
        yield f'a model distilled from all ("distil" in soup.methods), for the ensemble is {better} better'
    yield from list_ways_to_differ(run)
