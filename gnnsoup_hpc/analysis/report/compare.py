"""Several runs side by side; those that differ in their seeds alone, as mean and spread of each method's accuracy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import mean, stdev
from typing import Any

from scipy.special import stdtrit  # Student's t, inverted: scipy.stats has it too, and takes a second to import

from gnnsoup_hpc.analysis.report.contents import Contents
from gnnsoup_hpc.analysis.report.table import show_spread
from gnnsoup_hpc.config.task import NO_TASK, WORDS
from gnnsoup_hpc.config.turns import without_effect
from gnnsoup_hpc.evaluation.tasks import score
from gnnsoup_hpc.utils.text_table import align_columns

# Fields of a job in which runs of one average may differ: they decide what is drawn at random, and nothing else.
SEEDS = ("train.seed", "soup.seed", "graph.split_seed", "graph.split_index", "partition.seed")
# Fields that no accuracy of a method depends on. A source is known by its content, not by its place.
_WITHOUT_EFFECT = (
    *("name", "runs", "graph.source", "graph.root", "train.checkpoint_seconds", "train.recipe"),
    *("soup.methods", "soup.unfit", "soup.leave_out", "soup.diagnose"),
)
_EQUAL = 1e-9  # differences of accuracies that are equal but for rounding
FEWEST_RUNS = 3  # of which a mean difference is judged
_SHOWN = 4  # settings in the table of runs that differ


@dataclass(frozen=True)
class GroupKey:
    """A run, the seeds it was made by, and `settings`: what else has an effect, equal in runs of one average."""

    run: Contents
    settings: Mapping[str, Any]
    seeds: Mapping[str, Any]

    @classmethod
    def of(cls, run: Contents) -> GroupKey:
        """Fields of the job by their dotted names; the graph by its content."""
        tree = run.job.model_dump(mode="json", exclude={"machine", "graph", "partition", "task"})
        fields = dict(_flatten(tree)) | dict(run.graph_made_with) | NO_TASK | dict(run.means)
        unused = {*SEEDS, *_WITHOUT_EFFECT, *without_effect(run.job)}
        imported = run.run.imported.exists()
        unused |= {key for key in fields if imported and key.startswith("train.")}
        source = [run.job.graph.source.partition(":")[0], run.source_sha256]
        settings = {"graph": source, "ingredients": len(run.ingredients)}
        settings |= {key: value for key, value in fields.items() if key not in unused}
        settings["train.engine"] = ", ".join(run.engines)  # which "auto" leaves open
        # Other files are another experiment, and no other seed.
        settings["imported"] = run.soups[0].ingredients_sha256[:12] if imported else "no"
        return cls(run, settings, {key: fields.get(key) for key in SEEDS})

    def repeats(self, other: GroupKey) -> bool:
        """Whether two runs of one average are one experiment: equal seeds, or equal ingredients and one soup seed."""
        made_of = {one.run.soups[0].ingredients_sha256 for one in (self, other)}
        return self.seeds == other.seeds or (len(made_of) == 1 and self.seeds["soup.seed"] == other.seeds["soup.seed"])


def group_runs(runs: Sequence[Contents]) -> tuple[list[list[GroupKey]], list[str]]:
    """Runs that may be averaged together, in their order, and a sentence for each run that repeats another one."""
    groups: list[list[GroupKey]] = []
    repeats: list[str] = []
    for one in map(GroupKey.of, runs):
        group = next((group for group in groups if group[0].settings == one.settings), None)
        first = next((known for known in group or () if known.repeats(one)), None)
        if first is not None:
            repeats.append(f"{one.run.run.root} is the same experiment as {first.run.run.root}, and is counted once.")
        elif group is None:
            groups.append([one])
        else:
            group.append(one)
    return groups, repeats


def _flatten(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def compare_runs(runs: Sequence[Contents]) -> str:
    """Tables of runs: of those that differ in their seeds alone a mean, of others a line; a repeat counts once."""
    groups, repeats = group_runs(runs)
    lines = list(repeats)
    if len(groups) > 1:
        lines += ["", *_side_by_side(groups)]
    for group in groups:
        if len(group) > 1:
            lines += ["", *_average([one.run for one in group])]
    return "\n".join(lines).strip("\n")


def _side_by_side(groups: Sequence[Sequence[GroupKey]]) -> list[str]:
    """A line a run: settings that all groups have and in which they differ, `graph` first, and the test accuracies."""
    runs = [one for group in groups for one in group]
    first, *others = (group[0].settings for group in groups)
    common = [key for key in first if all(key in other for other in others)]
    keys = [key for key in common if any(other[key] != first[key] for other in others)]
    methods = list(dict.fromkeys(soup.method for one in runs for soup in one.run.soups))
    head = ("run", *keys[:_SHOWN], "mean ingredient", *methods)
    rows = []
    for one in runs:
        soups = [one.run.soup(method) for method in methods]
        tests = [f"{soup.test_accuracy:.4f}" if soup else "-" for soup in soups]
        shown = {**one.settings, "graph": one.run.job.graph.source}
        settings = (str(shown[key]) for key in keys[:_SHOWN])
        rows.append((str(one.run.run.root), *settings, f"{_average_tests([one.run])[0]:.4f}", *tests))
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    metrics = list(dict.fromkeys(one.run.metric for one in runs))
    values = "test accuracies" if metrics == [WORDS["accuracy"]] else f"test: {', '.join(metrics)}"
    about = f"These runs differ in more than their seeds ({', '.join(keys[:_SHOWN])}{more}): no mean is taken over all."
    return [about, "", *align_columns([head, *rows]), "", f"{values}; -: the run has no such soup."]


def _average(runs: Sequence[Contents]) -> list[str]:
    """A table of the methods that all of these runs have, mean ± standard deviation over runs."""
    common = [soup.method for soup in runs[0].soups if all(run.soup(soup.method) for run in runs)]
    head = ("", "validation", "test", "test - mean ingredient", "test - best", "runs above best", "error", "verdict")
    validations = [mean(i.validation_accuracy for i in run.ingredients) for run in runs]
    first = ("mean ingredient", show_spread(validations), show_spread(_average_tests(runs)), *[""] * 5)
    rows = [first, *(_method_row(runs, method) for method in common)]
    missing = sorted({soup.method for run in runs for soup in run.soups} - set(common))
    about = (
        "±: standard deviation over runs. error: half of the 95 % interval of the mean of test - best (Student's t),"
        " each run's\ntwo measured on the same nodes; a mean beyond it is a gain or a loss, and none is judged of fewer"
        f" than {FEWEST_RUNS} runs."
    )
    if not runs[0].task.counts_hits:
        sign = "" if runs[0].task.higher_is_better else "; differences have the sign that makes a high one good"
        about += f"\nvalidation, test: {runs[0].metric}{sign}."
    left_out = [f"Not in all of these runs, and so in no mean: {', '.join(missing)}."] if missing else []
    named = f"{len(runs)} runs: {', '.join(str(run.run.root) for run in runs)}"
    return [named, "", *align_columns([head, *rows]), "", about, *left_out]


def _method_row(runs: Sequence[Contents], method: str) -> tuple[str, ...]:
    soups = [soup for run in runs if (soup := run.soup(method))]
    tests = [soup.test_accuracy for soup in soups]
    task = runs[0].task
    gains = [score(task, test - base) for test, base in zip(tests, _average_tests(runs), strict=True)]
    above = [score(task, test - run.best.test_accuracy) for test, run in zip(tests, runs, strict=True)]
    wins = f"{sum(gain > 0 for gain in above)} of {len(runs)}"
    validations = show_spread([s.validation_accuracy for s in soups])
    return method, validations, show_spread(tests), _show_signed(gains), _show_signed(above), wins, *judge(above)


def judge(differences: Sequence[float]) -> tuple[str, str]:
    """The error of the mean of paired differences, and what the mean is: gain, loss, or neither."""
    if not any(differences):
        return "", "the same"
    if len(differences) < FEWEST_RUNS:
        return "", "too few runs"
    if max(differences) - min(differences) < _EQUAL:
        return "", "equal in all runs"  # no spread, so nothing to judge a mean by
    error, middle = error_of_mean(differences), mean(differences)
    verdict = "within its error" if abs(middle) <= error else "gain" if middle > 0 else "loss"
    return f"{error:.4f}", verdict


def error_of_mean(differences: Sequence[float]) -> float:
    """Half of the 95 % interval of the mean of at least two differences.

    The standard error times Student's t, which is 4.3 for three differences, 2.8 for five and 2 for many: few of them
    say little of their own spread (Student, Biometrika 6(1), 1908).
    """
    count = len(differences)
    return float(stdtrit(count - 1, 0.975)) * stdev(differences) / sqrt(count)


def _average_tests(runs: Sequence[Contents]) -> list[float]:
    return [mean(i.test_accuracy for i in run.ingredients) for run in runs]


def _show_signed(values: Sequence[float]) -> str:
    """Mean ± standard deviation of differences."""
    return show_spread(values) if mean(values) < 0 else f"+{show_spread(values)}"
