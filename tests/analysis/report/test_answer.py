"""The answer: which model to take, told in 25 lines; all of it for programs; nothing for who wants nothing."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from gnnsoup_hpc.__main__ import main
from gnnsoup_hpc.analysis.report.answer import find_answer
from gnnsoup_hpc.analysis.report.brief import COLUMNS, LINES, show_brief
from gnnsoup_hpc.analysis.report.contents import Contents, read_contents
from gnnsoup_hpc.analysis.report.verdicts import verdicts
from gnnsoup_hpc.config import Job
from gnnsoup_hpc.io import report
from gnnsoup_hpc.io.records import Paired, Soup
from gnnsoup_hpc.runtime.run_dir import RunDir
from tests import runs
from tests.error_rate import ErrorRate

NODES = 1000


@pytest.fixture(scope="module")
def run(finished: Job) -> Contents:
    """Ingredients alike on test nodes, and every soup that is one model as good."""
    found = read_contents(RunDir.of(finished).root)
    ingredients = tuple(replace(one, test_accuracy=0.5) for one in found.ingredients)
    found = replace(found, ingredients=ingredients, test_nodes=NODES)
    return replace(found, soups=tuple(place(found, soup, 0, 0.1) for soup in found.soups))


def place(run: Contents, soup: Soup, gained: int, validation: float) -> Soup:
    """A soup that is right on so many test nodes more than the best ingredient, on the others alike."""
    right, wrong = max(gained, 0), max(-gained, 0)
    pair = Paired(f"{run.best.index:04d}", right, wrong)
    return replace(soup, paired=pair, test_accuracy=0.5 + gained / NODES, validation_accuracy=validation)


def change(run: Contents, **gained: tuple[int, float]) -> Contents:
    """The run, with other test nodes and validation metrics of some methods."""
    soups = (place(run, soup, *gained.get(soup.method, (0, 0.1))) for soup in run.soups)
    return replace(run, soups=tuple(soups))


def test_what_validation_chooses_is_taken_where_it_is_better_beyond_the_error(run: Contents) -> None:
    """100 nodes gained and none lost: 10 points; their standard error is sqrt(100) of 1000 nodes."""
    found = find_answer(change(run, ls=(100, 0.9), pls=(200, 0.8)))
    assert (found.method, found.test, found.better_by) == ("ls", 0.6, pytest.approx(0.1))
    assert found.error == pytest.approx(0.02)
    assert "Take the ls soup, chosen by validation: test accuracy 0.6000, 10.00 ± 2.00 points better" in found.sentence
    assert found.sentence.endswith("at the cost of one model.")
    assert found.advice == ""


def test_within_the_error_it_is_the_best_ingredient(run: Contents) -> None:
    found = find_answer(change(run, ls=(2, 0.9)))
    assert (found.method, found.test) == ("best", 0.5)
    assert found.sentence.endswith("): no soup that is one model is better beyond the error.")
    assert found.advice.startswith("starts of their own")


def test_nothing_is_chosen_by_test_nodes(run: Contents) -> None:
    found = find_answer(change(run, uniform=(3, 0.9), ls=(100, 0.8)))
    assert found.method == "best"
    assert re.search(r"what validation chooses is the uniform soup, \+0\.30 ± 0\.3\d points\.", found.sentence)
    assert re.search(r"Better on test nodes, which may choose nothing: ls \+10\.00 ± 2\.00 points\.$", found.sentence)
    found = find_answer(change(run, best=(0, 0.9), ls=(100, 0.8)))
    assert "what validation chooses is it. Better on test nodes" in found.sentence


def test_what_is_worse_is_not_taken(run: Contents) -> None:
    run = change(run, ls=(-100, 0.9))
    assert find_answer(run).method == "best"
    (row,) = (line for line in show_brief(run).splitlines() if line.startswith("ls "))
    assert re.search(r"-10\.00 ± 2\.00 +worse ", row)


def test_of_a_metric_of_which_low_is_good_less_is_better(run: Contents) -> None:
    low = change(replace(run, task=ErrorRate(len(run.test_classes))), ls=(-100, 0.01))
    ls = tuple(replace(soup, paired=None, test_right=None) for soup in low.soups if soup.method == "ls")
    found = find_answer(replace(low, soups=ls))
    assert (found.method, found.test, found.better_by) == ("ls", 0.4, pytest.approx(0.1))


def test_an_ensemble_that_gains_is_a_reason_to_distil(run: Contents) -> None:
    changed = change(run, ensemble=(100, 0.9))
    assert find_answer(changed).advice.startswith("starts of their own")  # there is one already
    methods = tuple(method for method in run.job.soup.methods if method != "distil")
    job = run.job.model_copy(update={"soup": run.job.soup.model_copy(update={"methods": methods})})
    found = find_answer(replace(changed, job=job))
    assert found.method == "best"
    assert found.advice.startswith('a model distilled from all ("distil" in soup.methods), for the ensemble is 10.00 ±')


def test_one_ingredient_is_taken(run: Contents) -> None:
    found = find_answer(replace(run, ingredients=run.ingredients[:1]))
    assert (found.method, found.error) == ("best", 0.0)
    assert "there is one, and so nothing to mix" in found.sentence


def test_a_run_of_an_ensemble_alone_has_nothing_to_take(run: Contents) -> None:
    found = find_answer(replace(run, soups=tuple(soup for soup in run.soups if soup.method == "ensemble")))
    assert "no soup of the run is one model" in found.sentence
    assert "soup.methods" in found.advice


def many(run: Contents, count: int) -> Contents:
    ls = next(soup for soup in run.soups if soup.method == "ls")
    return replace(run, soups=(*run.soups, *(replace(ls, method=f"variant-{number}") for number in range(count))))


@pytest.mark.parametrize("methods", [0, 1, 5, 50])
@pytest.mark.parametrize("cautions", [0, 3, 40])
@pytest.mark.parametrize("long", [False, True])
def test_it_takes_25_lines_of_100_columns_whatever_there_is_to_say(
    run: Contents, methods: int, cautions: int, long: bool
) -> None:
    told = tuple(
        f"ingredient {number:04d} is damaged, and its file says so at some length" * 2 for number in range(cautions)
    )
    changed = many(change(run, uniform=(3, 0.9), ls=(100, 0.8)), methods)
    changed = replace(changed, soups=tuple(replace(soup, left_out=told) for soup in changed.soups))
    if long:
        changed = replace(changed, graph="npz:a graph of a long name " * 20)
    lines = show_brief(changed).splitlines()
    assert len(lines) <= LINES - 1  # the file's name is the last
    assert max(map(len, lines)) <= COLUMNS
    text = " ".join(lines)
    assert find_answer(changed).sentence in text
    assert "--verbose" in text
    table = lines[next(number for number, line in enumerate(lines) if line.startswith("model ")) + 1 :]
    named = sum(line.split()[0] in {soup.method for soup in changed.soups} for line in table if line)
    more = re.search(r"… and (\d+) more methods", text)
    assert named + int(more[1] if more else 0) == len(changed.soups)
    assert more is None or methods > 0
    assert more is not None or methods < 50
    assert "more remarks" in text or cautions < 40


def test_commands_say_it_in_the_form_that_is_asked_for(
    finished: Job, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = runs.copy_run(finished, tmp_path)
    run, root = RunDir.of(job), str(RunDir.of(job).root)
    found = read_contents(run.root)
    run.report.unlink()
    assert main(["report", root, "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    assert run.report.exists()
    assert main(["report", root]) == 0
    said = capsys.readouterr().out
    assert find_answer(found).sentence in " ".join(said.split())
    assert len(said.strip().splitlines()) <= LINES
    assert main(["report", root, "--verbose"]) == 0
    assert "forward, backward: passes over the whole graph" in capsys.readouterr().out
    assert main(["report", root, root, "--json"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second
    document, tables = json.loads(first), report.read_tables(run.report, report.KIND)
    assert document["answer"]["sentence"] == find_answer(found).sentence
    for name in ("methods", "ingredients", "phases", "diagnosis"):
        for key, values in tables[name].items():
            mine = [row[key] for row in document[name]]
            assert [None if value != value else value for value in list(values)] == mine
    with pytest.raises(SystemExit, match="2"):
        main(["report", root, "--json", "--quiet"])
    assert "not allowed with argument" in capsys.readouterr().err


def test_advice_is_what_the_run_can_follow(run: Contents, tmp_path: Path) -> None:
    """Units of a module are not known, so it is not told to start apart; nor are ingredients that others trained."""
    module = replace(run, job=run.job.model_copy(update={"model": run.job.model.model_copy(update={"kind": "module"})}))
    assert find_answer(module).advice == "hyperparameters in turn (train.vary)"
    imported = RunDir(tmp_path)
    imported.imported.touch()
    assert find_answer(replace(run, run=imported)).advice.startswith("ingredients that were trained from states of")


def test_ingredients_that_are_one_model_are_told(run: Contents) -> None:
    same = replace(run, ingredients=tuple(replace(one, state=run.ingredients[0].state) for one in run.ingredients))
    told = "All 3 ingredients are the same model, so there is nothing to mix"
    assert find_answer(same).sentence.endswith("all 3 are the same model, so there is nothing to mix.")
    assert find_answer(same).sentence in " ".join(show_brief(same).splitlines())
    assert any(sentence.startswith(told) for sentence in verdicts(same))
    assert not any(sentence.startswith(told) for sentence in verdicts(run))
