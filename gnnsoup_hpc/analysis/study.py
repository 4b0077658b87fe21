"""What a study found: each run's metrics, and the mean over seeds of what every method gained, with its error."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from statistics import mean
from typing import Any

from gnnsoup_hpc.analysis.diagnosis.basin import compute_barriers
from gnnsoup_hpc.analysis.export import choose_soup
from gnnsoup_hpc.analysis.report.build import tabulate
from gnnsoup_hpc.analysis.report.compare import FEWEST_RUNS, judge
from gnnsoup_hpc.analysis.report.contents import Contents
from gnnsoup_hpc.config.study import Study, StudyRun
from gnnsoup_hpc.io import report
from gnnsoup_hpc.io.diagnosis import ALL
from gnnsoup_hpc.io.records import Soup
from gnnsoup_hpc.utils.text_table import pipe_columns, show_number

CHOSEN = "chosen soup"  # of those that are one model, that with the best validation metric
_BEST = "best"


@dataclass(frozen=True)
class MethodResult:
    """What a method of a run reached. seconds: of souping, or of training what `best` is chosen from."""

    method: str
    validation: float
    test: float
    seconds: float


@dataclass(frozen=True)
class RunResult:
    """What came of a run, without its weights.

    sign: 1, or -1 of a metric that is better where it is lower; scale: 100, of what is shown in points, or 1. barrier:
    mean fall of validation metric halfway to the best ingredient, of ingredients as they were trained; matched: the
    least of such means over the ways to match their units; NaN where there is no diagnosis.
    """

    sign: int
    scale: float
    metric: str
    ingredients: int
    best_epoch: int
    mean_test: float
    methods: Mapping[str, MethodResult]
    barrier: float = nan
    matched: float = nan

    @classmethod
    def of(cls, run: Contents) -> RunResult:
        """Of a run that is done."""
        trained = sum(ingredient.measurement["seconds"] for ingredient in run.ingredients)
        rows = {soup.method: MethodResult(*_take(soup)) for soup in run.soups}
        best = run.best
        rows[_BEST] = MethodResult(_BEST, best.validation_accuracy, best.test_accuracy, trained)
        rows[CHOSEN] = MethodResult(CHOSEN, *_take(choose_soup(run, None))[1:])
        sign = 1 if run.task.higher_is_better else -1
        middle = mean(ingredient.test_accuracy for ingredient in run.ingredients)
        scale = 100.0 if run.task.unit == 1.0 else 1.0
        falls = list(_average_barriers(run))
        barriers = (falls[0], min(falls)) if falls else (nan, nan)
        return cls(sign, scale, run.metric, len(run.ingredients), best.best_epoch, middle, rows, *barriers)

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> RunResult:
        """Of what `asdict` made of one."""
        methods = {name: MethodResult(**row) for name, row in values["methods"].items()}
        return cls(**{**values, "methods": methods})

    def show_line(self, alone: bool) -> str:
        """The run in a few words: the best ingredient on test nodes, and what each method gains over it."""
        reached = f"{self.scale * self.test(_BEST):.2f}"
        if alone:
            return f"test {reached}"
        gains = [f"{name} {self.scale * self.gain(name, self):+.2f}" for name in self.methods if name != _BEST]
        return f"test of the best ingredient {reached}; gains: {', '.join(gains)}"

    def test(self, method: str) -> float:
        """A method's metric on test nodes."""
        return self.methods[method].test

    def gain(self, method: str, base: RunResult, role: str = "test") -> float:
        """How much better a method is on nodes of a role than the best ingredient of `base`."""
        mine, other = (getattr(row, role) for row in (self.methods[method], base.methods[_BEST]))
        return self.sign * float(mine - other)


def _average_barriers(run: Contents) -> Iterator[float]:
    """Of ingredients as they were trained, then matched in each way: the mean barrier between the best and another."""
    if (found := run.diagnosis) is None or len(found.ingredients) < 2:
        return
    for way in found.variants:
        barriers = compute_barriers(found, way, run.task)
        yield mean(barrier.fall for barrier in barriers if barrier.name != ALL)


def _take(soup: Soup) -> tuple[str, float, float, float]:
    return soup.method, soup.validation_accuracy, soup.test_accuracy, soup.measurement["seconds"]


@dataclass(frozen=True)
class StudyResults:
    """A study and the results of its runs that are there, by the runs' names."""

    study: Study
    found: Mapping[str, RunResult]

    def write(self) -> None:
        """Publish study.h5: a row a run and method. Format: docs/format.md."""
        rows = [
            (run, result, row)
            for block in self.study.runs
            for run in block
            if (result := self.found.get(run.name))
            for row in result.methods.values()
        ]
        columns = {name: (lambda each, at=at: each[0].setting[at]) for at, name in enumerate(self.study.axes)}
        own = [(name, take, "1", "a value of this axis of settings") for name, take in columns.items()]
        report.write_study(self.study.path, self.study.file.name, tabulate(rows, [*own, *_COLUMNS]), self.study.text)

    def show(self) -> str:
        """Tables in Markdown: gains over the best ingredient of each run, and all beside the first way's best one."""
        groups = list(self._group())
        if not groups:
            return "no run of this study is done yet"
        metric, missing = self._describe()
        return "\n".join(
            [
                f"Gain over the best ingredient of the same run, {metric}, mean over seeds ± half of its 95 % interval"
                f" (Student's t; bold: a gain, italic: a loss, else within its error; fewer than {FEWEST_RUNS} runs are"
                " not judged).",
                "",
                *self._show_gains(groups),
                "",
                f"Beside the best ingredient of {next(iter(self.study.file.ingredients))!r}, likewise. chosen soup: the"
                " one with the best validation metric that is one model, or, where all labels were trained on, the last"
                " of soup.methods; validation: what it gains there over the best ingredient of its own run; training:"
                " seconds of all that was trained for a row; souping: of the chosen soup.",
                "",
                *self._show_beside(groups),
                *missing,
            ]
        )

    def _describe(self) -> tuple[str, list[str]]:
        first = next(iter(self.found.values()))
        total = sum(map(len, self.study.runs))
        left = [f"\n{total - len(self.found)} of {total} runs are missing."] if len(self.found) < total else []
        return f"points of test {first.metric}" if first.scale == 100.0 else f"test {first.metric}", left

    def _group(self) -> Iterator[_Group]:
        """Each setting and way whose runs are there, with those of the first way of the same seeds."""
        first = next(iter(self.study.file.ingredients))
        names = {(run.setting, run.way, run.seed): run.name for block in self.study.runs for run in block}
        ways = {(run.setting, run.way): run for block in self.study.runs for run in block}
        for (setting, way), run in ways.items():
            both = ([names[setting, each, seed] for each in (way, first)] for seed in self.study.file.seeds)
            pairs = [(self.found[one], self.found[base]) for one, base in both if {one, base} <= self.found.keys()]
            if pairs:
                yield _Group(run, [one for one, _ in pairs], [base for _, base in pairs])

    def _show_gains(self, groups: Sequence[_Group]) -> list[str]:
        groups = [group for group in groups if not group.run.alone]
        every = dict.fromkeys(name for group in groups for one in group.results for name in one.methods)
        methods = sorted((name for name in every if name not in (_BEST, CHOSEN)), key=lambda name: name != "ensemble")
        middle: list[tuple[str, Callable[[RunResult], float]]] = [
            ("mean ingredient", lambda one: one.scale * one.mean_test),
            ("best", lambda one: one.scale * one.test(_BEST)),
        ]
        if any(isfinite(one.barrier) for group in groups for one in group.results):
            middle.append(("barrier", lambda one: one.scale * one.barrier))
            middle.append(("matched", lambda one: one.scale * one.matched))
        rows = [
            (
                *group.head,
                *(group.average(take, ".2f") for _, take in middle),
                *(group.show_gain(name, group.results) for name in methods),
            )
            for group in groups
        ]
        return pipe_columns((*self.study.axes, "ingredients", "runs", *(name for name, _ in middle), *methods), rows)

    def _show_beside(self, groups: Sequence[_Group]) -> list[str]:
        rows = [
            (
                *group.head,
                str(group.results[0].ingredients),
                group.show_gain(_BEST, group.bases),
                "" if group.run.alone else group.show_gain(CHOSEN, group.bases),
                "" if group.run.follows else group.show_gain(CHOSEN, group.results, "validation"),
                group.average(lambda one: one.methods[_BEST].seconds, ".1f"),
                "" if group.run.alone else group.average(lambda one: one.methods[CHOSEN].seconds, ".1f"),
            )
            for group in groups
        ]
        return pipe_columns(
            (*self.study.axes, "trained", "runs", "models", "best", CHOSEN, "validation", "training, s", "souping, s"),
            rows,
        )


@dataclass(frozen=True)
class _Group:
    """Results of a setting and way, a seed each, and those of the first way of the same seeds. run: one of them."""

    run: StudyRun
    results: Sequence[RunResult]
    bases: Sequence[RunResult]

    @property
    def head(self) -> tuple[str, ...]:
        return (*self.run.setting, self.run.way, str(len(self.results)))

    def average(self, take: Callable[[RunResult], float], form: str) -> str:
        return show_number(mean(map(take, self.results)), form)

    def show_gain(self, method: str, bases: Sequence[RunResult], role: str = "test") -> str:
        """What a method gains over the best ingredients of `bases`; "" where no run has it."""
        both = [(one, base) for one, base in zip(self.results, bases, strict=True) if method in one.methods]
        return show_gain([one.gain(method, base, role) for one, base in both], self.results[0].scale)


def show_gain(differences: Sequence[float], scale: float = 100.0) -> str:
    """A mean difference and its error, marked by what it is."""
    if not differences:
        return ""
    error, verdict = judge(differences)
    text = f"{scale * mean(differences):+.2f}" + (f" ± {scale * float(error):.2f}" if error else "")
    return {"gain": f"**{text}**", "loss": f"*{text}*"}.get(verdict, text)


_COLUMNS: tuple[tuple[str, Any, str, str], ...] = (
    ("way", lambda each: each[0].way, "1", "way of making ingredients, or the name of a model alone"),
    ("alone", lambda each: int(each[0].alone), "1", "1 for one model in place of soups"),
    ("seed", lambda each: each[0].seed, "1", "of training, of split and of souping"),
    ("method", lambda each: each[2].method, "1", "souping method, best, or chosen soup"),
    ("validation", lambda each: each[2].validation, "1", "metric on validation nodes"),
    ("test", lambda each: each[2].test, "1", "metric on test nodes"),
    ("seconds", lambda each: each[2].seconds, "s", "of souping; of best, of training all ingredients"),
    ("ingredients", lambda each: each[1].ingredients, "1", "that were trained"),
    ("best_epoch", lambda each: each[1].best_epoch, "1", "epoch after which the best ingredient was kept"),
    ("barrier", lambda each: each[1].barrier, "1", "mean fall halfway to the best ingredient, on validation nodes"),
    ("matched", lambda each: each[1].matched, "1", "the least of that over the ways to match units"),
    ("mean_test", lambda each: each[1].mean_test, "1", "mean test metric of the ingredients"),
)
