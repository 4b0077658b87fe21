"""The ceiling: what the ensemble gains over the best ingredient, and which share of that each soup has.

An ensemble averages what ingredients say, so it gains by what they differ in. So does a soup, which may gain more
still: it is a model of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import nan

from gnnsoup_hpc.analysis.report.comparison import Comparison, compare_with_best
from gnnsoup_hpc.analysis.report.contents import Contents, count_models
from gnnsoup_hpc.evaluation.tasks import score
from gnnsoup_hpc.io.records import Soup
from gnnsoup_hpc.models.convolutions import CONVOLUTIONS


def find_ceiling(run: Contents) -> Comparison | None:
    """The ensemble beside the best ingredient; None where there is no ensemble, or nothing to average."""
    ensemble = run.soup("ensemble")
    return None if ensemble is None or len(run.ingredients) == 1 else compare_with_best(run, ensemble)


def find_share(run: Contents, soup: Soup) -> float:
    """Which share of the ensemble's gain a soup has on test nodes; NaN where that gain is within its error."""
    ceiling = find_ceiling(run)
    if ceiling is None or not ceiling.gains:
        return nan
    return (score(run.task, soup.test_accuracy) - score(run.task, run.best.test_accuracy)) / ceiling.difference


def judge_ceiling(run: Contents) -> Iterator[str]:
    """A sentence on what there is to be gained, and by which soups that was."""
    ceiling, ensemble = find_ceiling(run), run.soup("ensemble")
    if ceiling is None or ensemble is None:
        return
    away, error = run.task.show(abs(ceiling.difference)), run.task.show(ceiling.error)
    if not ceiling.gains:
        side = "above" if (ceiling.difference > 0) == run.task.higher_is_better else "below"
        where = f"{away} {side}" if ceiling.difference else "as good as"
        advice = "; ".join(list_ways_to_differ(run))
        yield (
            f"The ceiling: the ensemble is {where} the best ingredient, within its error of {error}: the ingredients"
            f" know little that the best one does not, so averaging gains little.{_name_gains(run)}"
            f"{f' What makes them differ: {advice}.' if advice else ''}"
        )
        return
    shares = [(soup.method, find_share(run, soup)) for soup in run.soups if soup.method not in ("best", "ensemble")]
    some = ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares if share > 0.0)
    none = " and ".join(name for name, share in shares if not share > 0.0)
    told = [f"{some} of that" if some else "", f"{none} nothing" if none else ""]
    yield (
        f"The ceiling: the ensemble gains {away} (error {error}) at {count_models(ensemble)} times the cost of one"
        f" model{': ' if shares else ''}{', '.join(filter(None, told))}."
    )


def _name_gains(run: Contents) -> str:
    """Soups that gain all the same, in words."""
    names = [soup.method for soup in run.soups if compare_with_best(run, soup).gains]
    return f" Beyond their error gain all the same: {', '.join(names)}." if names else ""


def list_ways_to_differ(run: Contents) -> list[str]:
    """What makes ingredients differ more, and the job does not have: settings, or of imported ones other files."""
    if run.run.imported.exists():
        return ["ingredients that were trained from states of their own, or with other hyperparameters"]
    how, ways = run.job.train, []
    if how.start != "own" and run.job.model.kind in CONVOLUTIONS:  # whose units are known, and so can be matched
        ways.append('starts of their own (train.start = "own"), whose units are matched before mixing (soup.align)')
    if not any(values for _, values in how.vary):
        ways.append("hyperparameters in turn (train.vary)")
    if not how.drop_edges and not any(how.vary.drop_edges):
        ways.append("dropped edges (train.drop_edges)")
    return ways
