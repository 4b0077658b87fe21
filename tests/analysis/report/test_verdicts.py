"""What people read: verdicts, tables, comparisons; and the runs that cannot be reported."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gnnsoup_hpc.analysis.export import choose_soup
from gnnsoup_hpc.analysis.report.compare import judge as compared
from gnnsoup_hpc.analysis.report.contents import Contents, read_contents
from gnnsoup_hpc.analysis.report.table import show_run, show_spread
from gnnsoup_hpc.analysis.report.verdicts import find_only_ingredient, verdicts
from gnnsoup_hpc.config import METHOD_NAMES, Job
from gnnsoup_hpc.errors import RunError
from gnnsoup_hpc.io.records import MixingWeights, Paired, Soup
from gnnsoup_hpc.runtime.run_dir import RunDir
from tests import runs
from tests.error_rate import ErrorRate


@pytest.fixture(scope="module")
def run(finished: Job) -> Contents:
    """The LS soup's weights are made even, so that it is not equal to one ingredient."""
    found = read_contents(RunDir.of(finished).root)
    return replace(found, soups=tuple(even(soup) if soup.method == "ls" else soup for soup in found.soups))


def even(soup: Soup) -> Soup:
    alpha = torch.full_like(soup.mixture.alpha, 1 / soup.mixture.alpha.shape[1])
    return replace(soup, mixture=replace(soup.mixture, alpha=alpha))


UNPAIRED = ", as if on different nodes: the soup's file, of an older version, lacks the pairs"


def judged(run: Contents, best: float, soup: float, nodes: int = 100, **changes: object) -> str:
    """What is said of the ls soup, where the best ingredient has one test accuracy, and the soup another."""
    return "\n".join(sentences(run, best, soup, nodes, **changes))


def sentences(run: Contents, best: float, soup: float, nodes: int = 100, **changes: object) -> list[str]:
    """The same, a line each; the nodes that are right are not known but by `changes`."""
    ingredients = tuple(replace(i, validation_accuracy=0.5, test_accuracy=best) for i in run.ingredients)
    ls = run.soup("ls")
    assert ls is not None
    made = replace(ls, test_accuracy=soup, **{"test_right": None, "paired": None, **changes})
    found = verdicts(replace(run, ingredients=ingredients, soups=(made,), test_nodes=nodes))
    return [line for line in found if line.startswith("The ls soup")]


def test_a_difference_within_the_error_is_no_gain(run: Contents) -> None:
    """Without the nodes, both count as measured on nodes of their own: sqrt(2) * 2 * 5 points at 0.5 of 100."""
    assert judged(run, 0.5, 0.54) == (
        "The ls soup is 4.00 points above the best ingredient, a difference within its error of 14.12 points"
        f"{UNPAIRED}."
    )
    assert judged(run, 0.5, 0.46).startswith(
        "The ls soup is 4.00 points below the best ingredient, a difference within"
    )
    assert judged(run, 0.5, 0.63).endswith(f"a difference within its error of 13.92 points{UNPAIRED}.")
    assert judged(run, 0.5, 0.5) == "The ls soup does exactly as well as the best ingredient."


def test_a_larger_difference_is_said(run: Contents) -> None:
    assert judged(run, 0.5, 0.54, nodes=10_000) == (
        f"The ls soup beats the best ingredient by 4.00 points; the error is 1.41 points{UNPAIRED}."
    )
    assert judged(run, 0.5, 0.49, nodes=100_000).startswith("The ls soup loses to the best ingredient by 1.00 points;")


def test_of_a_metric_of_which_low_is_good_less_is_a_gain(run: Contents) -> None:
    run = replace(run, task=ErrorRate(len(run.test_classes)))
    beats, loses = (judged(run, 0.5, soup, nodes=10_000) for soup in (0.46, 0.54))
    assert beats.startswith("The ls soup beats the best ingredient by 4.00 points; the error is 1.41 points")
    assert loses.startswith("The ls soup loses to the best ingredient by 4.00 points")
    assert not any("collapsed" in line for line in sentences(run, 0.5, 0.2, nodes=10_000))
    assert any("collapsed" in line for line in sentences(run, 0.5, 0.8, nodes=10_000))


def test_soups_and_best_are_compared_on_the_same_nodes(run: Contents) -> None:
    """Nine nodes decide where the others agree: 5 points are then a gain that two binomials would not see."""
    right_of_best = np.array([True] * 50 + [False] * 50)
    best, ls = run.soup("best"), run.soup("ls")
    assert best is not None
    assert ls is not None
    index = int(best.mixture.alpha[0].argmax())
    ingredients = tuple(
        replace(i, validation_accuracy=0.5 + (i.index == index), test_accuracy=0.5) for i in run.ingredients
    )

    def against(gained: int, lost: int) -> str:
        right = right_of_best.copy()
        right[50 : 50 + gained], right[:lost] = True, False
        pair = Paired(f"{index:04d}", int((right & ~right_of_best).sum()), int((right_of_best & ~right).sum()))
        old = (
            replace(best, test_right=np.packbits(right_of_best), paired=None),
            replace(ls, test_right=np.packbits(right), test_accuracy=float(right.mean()), paired=None),
        )
        new = (replace(old[1], test_right=None, paired=pair),)  # without the soup `best`
        said = [
            [
                line
                for line in verdicts(replace(run, ingredients=ingredients, soups=soups, test_nodes=100))
                if line.startswith("The ls soup")
            ]
            for soups in (old, new)
        ]
        assert said[0] == said[1]
        return said[0][0]

    assert against(7, 2).endswith(
        "5.00 points above the best ingredient, a difference within its error of 6.00 points."
    )
    assert against(9, 0) == "The ls soup beats the best ingredient by 9.00 points; the error is 6.00 points."
    assert against(0, 9).startswith("The ls soup loses to the best ingredient by 9.00 points")
    assert against(4, 4) == "The ls soup does exactly as well as the best ingredient."


def test_souping_keeps_which_test_nodes_are_right(run: Contents) -> None:
    for soup in run.soups:
        assert soup.test_right is not None
        assert np.unpackbits(soup.test_right).sum() == round(soup.test_accuracy * run.test_nodes), soup.method


def weighed(run: Contents, *rows: tuple[float, ...]) -> MixingWeights:
    """A mixture of weights with these rows of alpha."""
    groups = tuple(f"layer {number}" for number in range(len(rows)))
    return MixingWeights(torch.tensor(rows, dtype=torch.float64), groups, "layer")


def test_a_soup_that_is_one_ingredient_is_called_so(run: Contents) -> None:
    best = weighed(run, (0.995, 0.0, 0.005), (1.0, 0.0, 0.0))
    assert judged(run, 0.5, 0.5, mixture=best) == (
        "The ls soup equals the best ingredient, 0000 (99 % or more of the weight)."
    )
    assert "is 4.00 points above the best ingredient (99 % or more of its weight is ingredient 0000), a diff" in judged(
        run, 0.5, 0.54, mixture=best
    )
    other = weighed(run, (0.0, 1.0, 0.0), (0.0, 1.0, 0.0))
    assert "above the best ingredient (99 % or more of its weight is ingredient 0001), a diff" in judged(
        run, 0.5, 0.54, mixture=other
    )
    for mixed in (weighed(run, (0.98, 0.02, 0.0), (1.0, 0.0, 0.0)), weighed(run, (1.0, 0.0, 0.0), (0.0, 1.0, 0.0))):
        assert "equals" not in judged(run, 0.5, 0.5, mixture=mixed)


@pytest.mark.parametrize("row", [(2.0, -1.0, 0.0), (1.0, 0.9, 0.9), (1e13, 2e13, 1e13), (float("nan"),) * 3])
def test_weights_that_are_no_shares_are_not_taken_for_one(run: Contents, row: tuple[float, float, float]) -> None:
    ls = run.soup("ls")
    assert ls is not None
    assert find_only_ingredient(replace(ls, mixture=weighed(run, row, row))) == ""


def test_an_ensemble_never_equals_an_ingredient(run: Contents) -> None:
    ensemble = replace(weighed(run, (1.0, 0.0, 0.0)), of="predictions")
    ls = run.soup("ls")
    assert ls is not None
    assert find_only_ingredient(replace(ls, mixture=ensemble)) == ""
    assert find_only_ingredient(replace(ls, mixture=replace(ensemble, of="weights"))) == "0000"


def test_a_collapse_is_said_aloud(run: Contents) -> None:
    said = sentences(run, 0.9, 0.5, nodes=10_000)
    assert said[1] == "The ls soup collapsed: 40.00 points below the mean ingredient, 0.9000."
    assert len(sentences(run, 0.9, 0.885, nodes=1_000_000)) == 1  # certain, but small
    assert len(sentences(run, 0.9, 0.85, nodes=50)) == 1  # large, but within the error
    alpha = replace(weighed(run, (0.5, 0.5, 0.0)), of="predictions")
    assert "collapsed" not in judged(run, 0.9, 0.5, nodes=10_000, mixture=alpha)


def tell_ceiling(run: Contents, of_best: float, nodes: int = 10_000, **tests: float) -> str:
    """What is said of the ensemble's gain, where methods have some test accuracies, as if on nodes of their own."""
    ingredients = tuple(replace(i, validation_accuracy=0.5, test_accuracy=of_best) for i in run.ingredients)
    soups = []
    for name, test in tests.items():
        soup = run.soup(name)
        assert soup is not None
        soups.append(replace(soup, test_accuracy=test, test_right=None, paired=None))
    made = replace(run, ingredients=ingredients, soups=tuple(soups), test_nodes=nodes)
    return next((line for line in verdicts(made) if line.startswith("The ceiling")), "")


def test_each_soup_has_a_share_of_what_the_ensemble_gains(run: Contents) -> None:
    told = tell_ceiling(run, 0.5, best=0.5, uniform=0.4, ls=0.52, pls=0.5, ensemble=0.55, distil=0.56)
    assert told == (
        "The ceiling: the ensemble gains 5.00 points (error 1.41 points) at 3 times the cost of one model: ls 40 %,"
        " distil 120 % of that, uniform and pls nothing."
    )
    assert tell_ceiling(run, 0.5, ensemble=0.55).endswith("at 3 times the cost of one model.")
    assert tell_ceiling(run, 0.5, ls=0.55) == ""


def test_where_the_ensemble_gains_nothing_there_is_little_to_gain(run: Contents) -> None:
    told = tell_ceiling(run, 0.5, ls=0.55, ensemble=0.51)
    assert told.startswith(
        "The ceiling: the ensemble is 1.00 points above the best ingredient, within its error of 1.41 points: the"
    )
    assert "so averaging gains little. Beyond their error gain all the same: ls. What makes them differ: " in told
    assert 'starts of their own (train.start = "own")' in told
    assert "hyperparameters in turn (train.vary)" in told
    own = run.job.model_copy(update={"train": run.job.train.model_copy(update={"start": "own"})})
    assert "own" not in tell_ceiling(replace(run, job=own), 0.5, ensemble=0.51)
    told = tell_ceiling(run, 0.5, ls=0.51, ensemble=0.49)
    assert "is 1.00 points below" in told
    assert "all the same" not in told


def test_best_is_by_validation_and_not_by_test(run: Contents) -> None:
    first, second, third = run.ingredients
    made = replace(
        run,
        ingredients=(
            replace(first, validation_accuracy=0.5, test_accuracy=0.9),
            replace(second, validation_accuracy=0.6, test_accuracy=0.4),
            replace(third, validation_accuracy=0.6, test_accuracy=0.7),
        ),
    )
    assert verdicts(made)[0].startswith("The best ingredient on validation is 0001, with test accuracy 0.4000;")


def test_one_ingredient_has_nothing_to_mix(run: Contents) -> None:
    said = verdicts(replace(run, ingredients=run.ingredients[:1]))
    assert said == ["There is one ingredient, so there is nothing to mix: every soup is that ingredient."]


def test_what_was_left_out_is_said_first(run: Contents) -> None:
    soups = tuple(replace(soup, left_out=("0003.h5 is damaged",)) for soup in run.soups)
    assert verdicts(replace(run, soups=soups))[0] == "Left out: 0003.h5 is damaged."


def test_every_method_but_the_best_gets_a_verdict(run: Contents) -> None:
    *said, _ = verdicts(replace(run, diagnosis=None))[1:-1]
    assert len(said) == len(METHOD_NAMES) - 1
    assert said[-2].startswith("The ensemble ")
    assert said[-1].startswith("The distilled model ")


def test_the_diagnosis_comes_last_and_its_lack_is_said(run: Contents) -> None:
    assert verdicts(run)[-1].startswith("One basin: all 3 ingredients")
    lines = show_run(run).splitlines()
    assert any(line.startswith("midpoints with the best ingredient") for line in lines)
    assert [line.split()[-1] for line in lines if line.startswith(("0000", "0001", "0002", "mean of all"))].count(
        "yes"
    ) == 3
    without = replace(run, diagnosis=None)
    assert verdicts(without)[-1].endswith(f"is not known: run `gnnsoup diagnose {run.run.root}`.")
    assert "midpoints" not in show_run(without)


def test_table_has_a_row_a_method_and_a_phase(run: Contents) -> None:
    lines = [line.split() for line in show_run(run).splitlines() if line]
    heads = [line[0] for line in lines]
    for name in (*METHOD_NAMES, "prepare", "train", "phase"):
        assert name in heads, name
    pls = lines[heads.index("pls")]
    assert pls[pls.index("unions") - 1] == "6"


def test_spread_is_the_sample_deviation() -> None:
    assert show_spread([1.0, 2.0, 3.0]) == "2.0000 ± 1.0000"
    assert show_spread([0.5]) == "0.5000 ± 0.0000"


def test_a_mean_over_runs_is_a_gain_only_beyond_its_error() -> None:
    assert compared([0.01, 0.012, 0.011]) == ("0.0025", "gain")
    assert compared([-0.01, -0.012, -0.011]) == ("0.0025", "loss")
    assert compared([0.002, 0.004, 0.003])[1] == "gain"
    assert compared([0.001, 0.003, 0.002])[1] == "within its error"  # beyond twice its standard error, but of three
    assert compared([0.01, -0.008, 0.011, 0.0])[1] == "within its error"
    assert compared([0.01, 0.012]) == ("", "too few runs")
    assert compared([0.0, 0.0, 0.0]) == ("", "the same")
    assert compared([1 / 60, 0.85 - 0.85 + 1 / 60, 51 / 60 - 50 / 60]) == ("", "equal in all runs")


@pytest.fixture
def copy(finished: Job, tmp_path: Path) -> RunDir:
    return RunDir.of(runs.copy_run(finished, tmp_path))


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not the folder of a run"):
        read_contents(tmp_path)


def test_a_run_without_soups_names_the_command(copy: RunDir) -> None:
    shutil.rmtree(copy.soups)
    with pytest.raises(RunError, match="holds no soup yet: run `gnnsoup soup JOB` first"):
        read_contents(copy.root)


def test_soups_of_methods_that_the_job_no_longer_lists_are_named_and_not_shown(copy: RunDir, run: Contents) -> None:
    assert not run.unlisted
    soup = run.job.soup.model_copy(update={"methods": ("best", "gis")})
    copy.job.write_text(run.job.model_copy(update={"soup": soup}).to_toml())
    found = read_contents(copy.root)
    assert [each.method for each in found.soups] == ["best", "gis"]
    assert found.unlisted == ("uniform", "greedy", "ls", "pls", "ensemble", "distil")
    line = "Not shown: soups that are there of methods which the job does not list (soup.methods): uniform, greedy, ls,"
    assert [line in each for each in show_run(found).splitlines() if "ensemble, distil." in each] == [True]
    with pytest.raises(RunError, match=r"--method ls: the run's job does not list it .* there are: best, gis$"):
        choose_soup(found, "ls")


def test_soups_of_different_shelves_are_not_reported_together(copy: RunDir, finished: Job) -> None:
    fewer = runs.change_job(finished.model_copy(update={"runs": str(copy.root.parent)}), "train.ingredients=2")
    fewer = fewer.model_copy(update={"soup": fewer.soup.model_copy(update={"methods": ("uniform",)})})
    runs.soup_run(fewer)
    copy.job.write_text(finished.to_toml())
    with pytest.raises(RunError, match=r"(best|uniform).h5 (is made of other|was made with train.ingredients)"):
        read_contents(copy.root)


def test_ingredients_that_are_not_the_soups_are_not_reported_beside_them(copy: RunDir) -> None:
    """The soups know the hashes of the weights that they are made of."""
    shutil.copy(copy.ingredient(0), copy.ingredient(2))
    with pytest.raises(RunError, match="run `gnnsoup soup JOB`"):
        read_contents(copy.root)


def test_the_error_does_not_depend_on_the_other_methods(run: Contents) -> None:
    whole = {
        line.split()[1]: line for line in verdicts(run) if line.startswith(("The ls", "The pls", "The uni", "The ens"))
    }
    assert set(whole) == {"ls", "pls", "uniform", "ensemble"}
    for method, line in whole.items():
        alone = replace(run, soups=tuple(soup for soup in run.soups if soup.method == method))
        assert [said for said in verdicts(alone) if said.startswith(f"The {method}")] == [line]
        assert "older version" not in line


def test_souping_pairs_each_soup_with_the_best_ingredient(run: Contents) -> None:
    best = run.soup("best")
    assert best is not None
    for soup in run.soups:
        pair = soup.paired
        assert pair is not None
        assert pair.best == f"{run.best.index:04d}"
        assert pair.only_soup - pair.only_best == round((soup.test_accuracy - best.test_accuracy) * run.test_nodes)


def classes(run: Contents, accuracy: float, counts: tuple[int, ...]) -> str:
    """What is said of accuracies on test nodes of such classes, where all soups have one accuracy."""
    ingredients = tuple(replace(i, test_accuracy=accuracy) for i in run.ingredients)
    soups = tuple(replace(soup, test_accuracy=accuracy) for soup in run.soups)
    made = replace(run, ingredients=ingredients, soups=soups, test_nodes=sum(counts), test_classes=counts)
    return "\n".join(line for line in verdicts(made) if "class" in line)


def test_an_accuracy_that_a_majority_vote_has_too_is_said(run: Contents) -> None:
    assert classes(run, 0.96, (950, 50)) == (
        "The highest test accuracy, 0.9600, is no better than a majority vote: 0.9500 of test nodes are of class 0, and"
        " the error is 1.27 points."
    )
    assert "is worse than a majority vote: 0.9500 of test nodes are of class 1" in classes(run, 0.5, (50, 950))
    assert "is no better than a majority vote: 1.0000 of test nodes are of class 0" in classes(run, 1.0, (1000,))
    assert classes(run, 0.99, (950, 50)) == ""
    assert classes(run, 0.5, (250, 250, 250, 250)) == ""


def test_classes_that_are_rarer_than_the_error_are_named(run: Contents) -> None:
    assert classes(run, 0.9, (500, 490, 10, 0)) == (
        "Test accuracy does not show whether rare classes are predicted: 2 of 4 classes have no more test nodes than"
        " the error, 19 of 1000: class 2 (10), 3 (0)."
    )
    assert classes(run, 0.9, (500, 490, *[2] * 8)).endswith("class 2 (2), 3 (2), 4 (2), 5 (2), 6 (2) and 3 more.")


def test_what_was_found_in_preparing_is_repeated(run: Contents) -> None:
    told = replace(run, split="stored masks, column 3 of 10", notes=("2 edges were duplicates and are merged.",))
    lines = show_run(told).splitlines()
    assert lines[3:5] == ["split: stored masks, column 3 of 10", "2 edges were duplicates and are merged."]
    assert "split:" not in show_run(replace(run, split=""))
    assert "ensemble: no souping cost, 3 x inference cost." in lines


def test_the_verdict_says_that_a_uniform_soup_loses_in_one_basin_too(run: Contents) -> None:
    uniform = run.soup("uniform")
    assert uniform is not None
    pair = Paired(f"{run.best.index:04d}", 0, 40)
    worse = replace(uniform, paired=pair, test_accuracy=run.best.test_accuracy - 40 / run.test_nodes)
    said = verdicts(replace(run, soups=(worse,)))
    assert any(line.startswith("The uniform soup loses to the best ingredient") for line in said)
    assert said[-1].startswith("Even so the uniform soup loses to the best ingredient: it averages")


def test_of_ingredients_that_tie_the_first_is_the_best(run: Contents) -> None:
    even_ones = tuple(replace(i, validation_accuracy=0.5, test_accuracy=0.5) for i in reversed(run.ingredients))
    assert verdicts(replace(run, ingredients=even_ones))[0].startswith("The best ingredient on validation is 0000,")
