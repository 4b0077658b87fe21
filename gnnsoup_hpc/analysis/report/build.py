"""From a run's contents to report.h5. Format: docs/format.md."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from math import nan
from operator import itemgetter
from typing import Any, TypeVar

import numpy as np

from gnnsoup_hpc.analysis.diagnosis.basin import make_columns
from gnnsoup_hpc.analysis.report import contents
from gnnsoup_hpc.analysis.report.answer import find_answer
from gnnsoup_hpc.analysis.report.ceiling import find_share
from gnnsoup_hpc.analysis.report.comparison import compare_with_best
from gnnsoup_hpc.analysis.report.contents import Contents, Phase, TriedTrial
from gnnsoup_hpc.analysis.report.recomputed import make_recomputed_columns
from gnnsoup_hpc.analysis.report.verdicts import verdicts
from gnnsoup_hpc.config.turns import Hyperparameters
from gnnsoup_hpc.io import files, report
from gnnsoup_hpc.io.files import Columns
from gnnsoup_hpc.io.records import Ingredient, Soup
from gnnsoup_hpc.io.report import KIND, VERSION
from gnnsoup_hpc.runtime.profiling import COUNTS, QUANTITIES, subtract_baseline

Row = TypeVar("Row")
# (name, how to take it from a row, unit, meaning)
Column = tuple[str, Callable[[Row], Any], str, str]


def make_tables(run: Contents) -> dict[str, tuple[Columns, str]]:
    """Tables by their names, each with what a row is."""
    tables: dict[str, tuple[Columns, str]] = {
        "methods": (tabulate(run.soups, _method_columns(run)), "one row a method"),
        "ingredients": (
            tabulate(run.ingredients, _ingredient_columns(run)),
            "one row an ingredient that was souped",
        ),
        "phases": (tabulate(run.phases, _PHASE_COLUMNS), "one row a phase"),
    }
    tables["baseline"] = (
        tabulate([run], _BASELINE_COLUMNS),
        "one row: what a prediction reaches that sees no node",
    )
    if run.trials:
        tables["cells"] = (_trial_columns(run.trials), "one row a combination of a sweep")
    seeds = [
        (*key, len(soups), *contents.compute_spread(soups, "validation"), *contents.compute_spread(soups, "test"))
        for key, soups in contents.group_by_seeds(run.trials).items()
    ]
    if seeds:
        tables["seeds"] = (tabulate(seeds, _SEED_COLUMNS), "one row a combination that was made with several seeds")
    if (recomputed := make_recomputed_columns(run)) is not None:
        tables["statistics"] = (recomputed, "one row a soup whose running statistics were computed anew")
    if run.diagnosis is not None:
        about = "one row an alignment and an ingredient, or all: midpoints with the best one"
        tables["diagnosis"] = (make_columns(run.diagnosis, run.task), about)
    return tables


def write(run: Contents) -> None:
    """Publish the run's report.h5: facts as root attributes, tables, each method's steps, sentences."""
    with files.create_file(run.run.report, KIND, VERSION, f"report of the run {run.job.name}") as file:
        alignment = run.alignment.text if run.alignment else ""
        file.attrs.update(graph=run.graph, split=run.split, alignment=alignment)
        file.attrs["metric"] = run.task.name
        answer = find_answer(run)
        file.attrs.update(answer=answer.sentence, take=answer.method)
        for name, (columns, about) in make_tables(run).items():
            report.put_table(file, name, columns, about)
        report.put_soups(file, run.soups)
        files.put(file, "verdicts", verdicts(run), "1", "what the numbers say, in words")
        files.put(file, "notes", list(run.notes), "1", "what preparing had to say of the source")
        files.put(file, "test_classes", np.array(run.test_classes, dtype=np.int64), "1", "test nodes of each class")
        files.put_provenance(file, run.job.to_toml())


def tabulate(rows: Sequence[Row], columns: Sequence[Column[Row]]) -> Columns:
    """A table's columns, each taken from every row."""
    taken = {name: [take(row) for row in rows] for name, take, _, _ in columns}
    return {
        name: (taken[name] if isinstance(taken[name][0], str) else np.array(taken[name]), unit, meaning)
        for name, _, unit, meaning in columns
    }


def _method_columns(run: Contents) -> list[Column[Soup]]:
    gis, reference = run.soup("gis"), run.best.test_accuracy
    seconds, peak = (gis.measurement["seconds"], subtract_baseline(gis.measurement)) if gis else (nan, nan)

    def above(soup: Soup) -> float:
        return subtract_baseline(soup.measurement)

    return [
        ("method", lambda s: s.method, "1", "souping method"),
        ("validation_accuracy", lambda s: s.validation_accuracy, "1", "exact, on validation nodes"),
        ("test_accuracy", lambda s: s.test_accuracy, "1", "exact, on test nodes"),
        ("test_minus_best", lambda s: s.test_accuracy - reference, "1", "test accuracy above the best ingredient's"),
        ("gain", lambda s: compare_with_best(run, s).difference, "1", "how much better than the best ingredient's"),
        ("gain_error", lambda s: compare_with_best(run, s).error, "1", "twice the standard error of gain"),
        ("verdict", lambda s: compare_with_best(run, s).word, "1", "better, worse: beyond that error; else empty"),
        *_list_error(run, run.error_of),
        *_list_others(run.soups),
        (
            "share_of_ceiling",
            lambda s: find_share(run, s),
            "1",
            "of the ensemble's gain over the best ingredient",
        ),
        ("models_at_inference", contents.count_models, "1", "models that one prediction runs through"),
        *((name, lambda s, name=name: s.measurement[name], unit, about) for name, (unit, about) in QUANTITIES.items()),
        ("peak_above_baseline_bytes", above, "B", "peak host memory less baseline"),
        ("seconds_over_gis", lambda s: s.measurement["seconds"] / seconds, "1", "wall time over that of GIS"),
        ("peak_over_gis", lambda s: above(s) / peak if peak else nan, "1", "peak above baseline over GIS's"),
        *((name, lambda s, name=name: s.counts[name], "1", meaning) for name, meaning in COUNTS.items()),
    ]


def _how(name: str) -> Callable[[Ingredient], Any]:
    """What an ingredient was trained with; NaN, or empty for a text, where that is not known."""
    texts = {field.name for field in fields(Hyperparameters) if isinstance(field.default, str)}

    def take(ingredient: Ingredient) -> Any:
        how = ingredient.hyperparameters
        if how is None:
            return "" if name in texts or name == "shared_draws" else nan
        return " ".join(how.shared_draws) if name == "shared_draws" else getattr(how, name)

    return take


def _list_error(run: Contents, error: Callable[[Any], float]) -> list[Column[Any]]:
    """Of a metric whose error does not follow from its value."""
    return [] if run.task.counts_hits else [("test_error", error, "1", "standard error by bootstrap over test nodes")]


def _list_others(rows: Sequence[Soup] | Sequence[Ingredient]) -> list[Column[Any]]:
    """Metrics beside the task's own, where files have them."""
    names = dict.fromkeys(name for row in rows for name in row.judged.others)

    def column(name: str) -> Column[Any]:
        return name, lambda row: row.judged.others.get(name, nan), "1", f"{name.removeprefix('test_')}, on test nodes"

    return [column(name) for name in names]


_BASELINE_COLUMNS: tuple[Column[Contents], ...] = (
    ("baseline", lambda run: run.task.guess_words, "1", "what is predicted for every node"),
    ("metric", lambda run: run.task.name, "1", "the task's metric"),
    ("validation_accuracy", lambda run: run.baseline["validation"], "1", "its metric on validation nodes"),
    ("test_accuracy", lambda run: run.baseline["test"], "1", "its metric on test nodes"),
)
_INGREDIENT_COLUMNS: tuple[Column[Ingredient], ...] = (
    ("ingredient", lambda i: f"{i.index:04d}", "1", "name of the ingredient's file"),
    ("validation_accuracy", lambda i: i.validation_accuracy, "1", "exact, on validation nodes"),
    ("test_accuracy", lambda i: i.test_accuracy, "1", "exact, on test nodes"),
    ("best_epoch", lambda i: i.best_epoch if i.hyperparameters else nan, "1", "epoch whose weights were kept"),
    ("seconds", lambda i: i.measurement["seconds"], "s", "wall time of training"),
    ("peak_host_bytes", lambda i: i.measurement["peak_host_bytes"], "B", QUANTITIES["peak_host_bytes"][1]),
    ("baseline_host_bytes", lambda i: i.measurement["baseline_host_bytes"], "B", "resident memory at the start"),
    ("learning_rate", _how("learning_rate"), "1", "Adam's learning rate"),
    ("weight_decay", _how("weight_decay"), "1", "Adam's weight decay"),
    ("dropout", _how("dropout"), "1", "dropout rate"),
    ("drop_edges", _how("drop_edges"), "1", "share of edges that a step leaves out"),
    ("drop_features", _how("drop_features"), "1", "share of input features that a step leaves out"),
    ("labels", _how("labels"), "1", "trained on: those of training nodes, or all, of validation nodes too"),
    ("bag", _how("bag"), "1", "share of these nodes that it was trained on"),
    ("optimiser", _how("optimiser"), "1", "adam, or adamw"),
    ("schedule", _how("schedule"), "1", "of the learning rate over epochs"),
    ("warmup_epochs", _how("warmup_epochs"), "1", "epochs over which the learning rate rises"),
    ("clip_norm", _how("clip_norm"), "1", "largest norm of a step's gradients; 0: any"),
    ("patience", _how("patience"), "1", "epochs without a better one that end it; 0: none do"),
    ("validate_every", _how("validate_every"), "1", "epochs between two validations"),
    ("engine", lambda i: i.engine, "1", "what computed the training"),
    ("precision", _how("precision"), "1", "of the dense products of training"),
    ("average", _how("average"), "1", "of weights, which is judged and kept"),
    ("epochs", _how("epochs"), "1", "epochs asked for, after those of a trunk"),
    ("trunk_epochs", _how("trunk_epochs"), "1", "epochs of the trunk that it branched from"),
    ("trunk_starts", _how("trunk_starts"), "1", "starts that the trunk was chosen from"),
    ("start", _how("start"), "1", "what it started from: a state that all share, its own, or the one before it"),
    ("shared_draws", _how("shared_draws"), "1", "what all ingredients drew alike"),
    ("stopped", lambda i: i.stopped, "1", "why training ended"),
    ("imported", lambda i: i.imported, "1", "name of the file that it was imported from; empty: trained here"),
)


def _ingredient_columns(run: Contents) -> list[Column[Ingredient]]:
    others = [*_list_error(run, run.error_of), *_list_others(run.ingredients)]
    return [*_INGREDIENT_COLUMNS[:3], *others, *_INGREDIENT_COLUMNS[3:]]


_HIGHEST = "peak of the ingredient or method that rose highest above its baseline"
_PHASE_COLUMNS: tuple[Column[Phase], ...] = (
    ("phase", lambda p: p.name, "1", "phase of the run"),
    ("seconds", lambda p: p.seconds, "s", "wall time, summed over ingredients or methods"),
    ("peak_host_bytes", lambda p: p.peak_host_bytes, "B", _HIGHEST),
    ("baseline_host_bytes", lambda p: p.baseline_host_bytes, "B", "resident memory where that one began"),
)


def _trial_columns(rows: Sequence[TriedTrial]) -> Columns:
    """A row a trial; a column a swept key, NaN or empty where a method has it not."""
    swept = dict.fromkeys(key for row in rows for key in row.values)
    selected = np.array([row.selected for row in rows], dtype=np.uint8)
    return {
        "method": ([row.trial.method for row in rows], "1", "souping method"),
        **{key: (fill_column([row.values.get(key) for row in rows]), "1", f"value of soup.{key}") for key in swept},
        **{
            name: (np.array([take(row.soup) if row.soup else nan for row in rows]), unit, about)
            for name, take, unit, about in _TRIAL_COLUMNS
        },
        "selected": (selected, "1", "1 for the method's soup: the best validation metric"),
    }


def fill_column(values: Sequence[Any]) -> Any:
    """A column of numbers, or of texts where one of the values is no number."""
    if not all(isinstance(value, int | float | None) for value in values):
        return ["" if value is None else str(value) for value in values]
    return np.array([nan if value is None else float(value) for value in values])


_TRIAL_COLUMNS: tuple[Column[Soup], ...] = (
    ("validation_accuracy", lambda s: s.validation_accuracy, "1", "exact, on validation nodes; NaN = failed"),
    ("test_accuracy", lambda s: s.test_accuracy, "1", "exact, on test nodes; nothing is chosen by it"),
    ("seconds", lambda s: s.measurement["seconds"], "s", "wall time, reading included"),
    ("peak_host_bytes", lambda s: s.measurement["peak_host_bytes"], "B", "peak resident host memory"),
    ("baseline_host_bytes", lambda s: s.measurement["baseline_host_bytes"], "B", "the same at the start"),
)
_SEED_COLUMNS: tuple[Column[Sequence[Any]], ...] = (
    ("method", itemgetter(0), "1", "souping method"),
    ("combination", itemgetter(1), "1", "values but for the seed"),
    ("seeds", itemgetter(2), "1", "seeds whose soups are there"),
    ("validation_mean", itemgetter(3), "1", "mean validation accuracy over the seeds"),
    ("validation_deviation", itemgetter(4), "1", "its standard deviation (sample)"),
    ("test_mean", itemgetter(5), "1", "mean test accuracy over the seeds"),
    ("test_deviation", itemgetter(6), "1", "its standard deviation (sample)"),
)
