"""[task] of a job beside what a graph has: which kind of task, which metric, and what a fingerprint says of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from gnnsoup_hpc.config import METRICS, SoupJob, TaskJob
from gnnsoup_hpc.errors import JobError
from gnnsoup_hpc.types import MetricName, TargetKind, TaskKind

WORDS: dict[MetricName, str] = {
    "accuracy": "accuracy",
    "roc_auc": "ROC-AUC",
    "average_precision": "average precision",
    "f1_micro": "micro F1",
    "f1_macro": "macro F1",
    "mae": "mean absolute error",
    "r2": "R²",
}
RANGES: dict[str, tuple[float, float]] = {  # others are from 0 to 1
    "mae": (0.0, float("inf")),
    "r2": (float("-inf"), 1.0),
}
TARGETS: dict[TaskKind, TargetKind] = {  # what each kind of task is of
    "multiclass": "classes",
    "binary": "classes",
    "multilabel": "multilabel",
    "regression": "regression",
}
NO_TASK: dict[str, Any] = {  # what a file says of its task that says nothing
    "task.kind": "multiclass",
    "task.metric": "accuracy",
    "task.label_smoothing": 0.0,
    "task.class_weights": "none",
    "task.targets": "standardise",
}
_HAVE: dict[TargetKind, str] = {
    "classes": "one class a node",
    "multilabel": "yes-or-no labels",
    "regression": "numbers to be predicted",
}


@dataclass(frozen=True)
class TaskSpec:
    """What a job asks for, `auto` resolved. outputs: of a model, a node; ogb_set: whose Evaluator has the metric."""

    kind: TaskKind
    metric: MetricName
    outputs: int
    label_smoothing: float = 0.0
    class_weights: Literal["none", "balanced"] = "none"
    targets: Literal["standardise", "none"] = "standardise"
    ogb_set: str = ""

    @property
    def values(self) -> dict[str, Any]:
        """By dotted name, what differs from classes judged by accuracy, which older files do not name."""
        own = {name: getattr(self, name.removeprefix("task.")) for name in NO_TASK}
        return {name: value for name, value in own.items() if value != NO_TASK[name]}

    def list_unused(self, soup: SoupJob) -> list[str]:
        """Fields of [soup] that are on, and change nothing: of a regression the scale of logits."""
        learned = {"ls": soup.ls, "pls": soup.pls} if self.kind == "regression" else {}
        return [f"soup.{name}.logit_scale" for name, how in learned.items() if name in soup.methods and how.logit_scale]

    @property
    def words(self) -> str:
        """The task for people."""
        count = f" of {self.outputs} target{'s' if self.outputs > 1 else ''} a node"
        outputs = "" if self.kind in ("multiclass", "binary") else count
        return f"{self.kind}{outputs}, judged by {WORDS[self.metric]}"


def resolve_targets(kind: str, found: TargetKind) -> TargetKind:
    """What a job's task.kind takes a source's labels for, of which `auto` would take them for `found`."""
    return TARGETS.get(kind, found)  # type: ignore[call-overload, no-any-return]


def resolve_task(task: TaskJob, targets: TargetKind, classes: int, source: str) -> TaskSpec:
    """The task of a graph with these targets, of so many classes, or numbers a node.

    Raises: JobError where the job asks for what means nothing there.
    """
    kind: TaskKind = task.kind if task.kind != "auto" else "multiclass" if targets == "classes" else targets
    if TARGETS[kind] != targets:
        raise JobError(f"task.kind = {kind!r}: the graph has {_HAVE[targets]}: prepare it by a job of another name")
    if kind == "binary" and classes != 2:
        raise JobError(f"task.kind = 'binary': the graph has {classes} classes; use 'multiclass'")
    try:
        task.check(kind)
    except ValueError as error:
        raise JobError(f"task.{error}") from None
    metric: MetricName = METRICS[kind][0] if task.metric == "auto" else task.metric
    origin, _, name = source.partition(":")
    outputs = 1 if kind == "binary" else classes
    how = task.label_smoothing, task.class_weights, task.targets
    return TaskSpec(kind, metric, outputs, *how, name if origin == "ogb" else "")
