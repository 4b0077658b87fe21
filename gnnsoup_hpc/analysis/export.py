"""Export of a soup; what its card says: where it is from, how it was mixed, how good it is, with errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gnnsoup_hpc.analysis.report.contents import Contents
from gnnsoup_hpc.config.task import WORDS
from gnnsoup_hpc.errors import RunError
from gnnsoup_hpc.evaluation.tasks import score
from gnnsoup_hpc.io import export, files, imports
from gnnsoup_hpc.io.model import read_model
from gnnsoup_hpc.io.records import Soup


def choose_soup(run: Contents, method: str | None, ensembles: bool = False) -> Soup:
    """The soup of a method; without one, of those that are one model that with the best validation metric.

    ensembles: whether a method may be named that makes several models. Of equals the first; where ingredients were
    trained on validation labels too, which can choose nothing, the last that the job lists.
    Raises: RunError where it is not there, or is no one model.
    """
    single = [soup for soup in run.soups if soup.state is not None]
    if not single and (method is None or not ensembles):
        raise RunError(f"{run.run.root} holds no soup that is one model: add one to soup.methods, and soup again")
    if method is None and has_all_labels(run):
        return single[-1]
    if method is None:
        return max(single, key=lambda soup: score(run.task, soup.validation_accuracy))
    found = run.soup(method)
    if found is None or (found.state is None and not ensembles):
        why = "it is not one model" if found else "the run has no such soup"
        why = "the run's job does not list it (soup.methods)" if method in run.unlisted else why
        there = run.soups if ensembles else single
        raise RunError(f"--method {method}: {why}; there are: {', '.join(soup.method for soup in there)}")
    return found


def has_all_labels(run: Contents) -> bool:
    """Whether an ingredient was trained on validation labels too, so that these can choose nothing."""
    return any(one.hyperparameters is not None and one.hyperparameters.labels == "all" for one in run.ingredients)


def export_soup(run: Contents, soup: Soup, to: Path) -> list[Path]:
    """Publish a soup of a run as `io.export.write` does; the files. Raises: as that."""
    card = make_card(run, soup)
    return export.write(to, read_model(run.run.soup(soup.method)), card, show_card(card, to.name))


def make_card(run: Contents, soup: Soup) -> dict[str, Any]:
    """The card but for what the weights' file itself says."""
    mixture, best = soup.mixture, run.best
    rows = [row for row in imports.read(run.run.imported) if row.ingredient in soup.ingredients]
    names = imports.name_apart([Path(row.file) for row in rows])
    imported = {row.ingredient: name for row, name in zip(rows, names, strict=True)}
    return {
        "format": "gnnsoup_hpc/card",
        "format_version": 2,
        "run": run.job.name,
        "method": soup.method,
        "source": soup.source,
        "options": dict(soup.options),
        "graph": {"source": run.job.graph.source, "about": run.graph, "split": run.split},
        "metrics": {
            "validation_accuracy": soup.validation_accuracy,
            "test_accuracy": soup.test_accuracy,
            "metric": run.task.name,
            "test_error": run.error_of(soup),
            "test_nodes": run.test_nodes,
            "best_ingredient": f"{best.index:04d}",
            "best_ingredient_test_accuracy": best.test_accuracy,
        },
        "task": {
            "kind": run.kind,
            "target_mean": list(soup.judged.target_mean),
            "target_spread": list(soup.judged.target_spread),
        },
        "mixture": {
            "of": mixture.of,
            "by": mixture.by,
            "groups": list(mixture.groups),
            "ingredients": list(soup.ingredients),
            "alpha": mixture.alpha.tolist(),
            "aligned_by": soup.alignment.by if soup.alignment else "none",
            **({"imported": imported} if imported else {}),
        },
        "versions": files.versions(),
    }


def show_card(card: dict[str, Any], name: str) -> str:
    """The same for people, in Markdown."""
    metrics, mixture, stem = card["metrics"], card["mixture"], name.rpartition(".")[0]
    named = WORDS[metrics["metric"]]
    best = f"{metrics['best_ingredient']}, test {named} {metrics['best_ingredient_test_accuracy']:.4f}"
    error = f"standard error {metrics['test_error']:.4f} of {metrics['test_nodes']} nodes"
    header = " | ".join(["", *mixture["ingredients"]])
    files_of = [f"{name} from `{file}`" for name, file in mixture.get("imported", {}).items()]
    imported = f"\n- Imported, not trained in this run: {', '.join(files_of)}" if files_of else ""
    rows = [
        " | ".join(["", group, *(f"{share:.4f}" for share in shares)]).strip() + " |"
        for group, shares in zip(mixture["groups"], mixture["alpha"], strict=True)
    ]
    distilled = mixture["of"] == "distilled"
    what = "model distilled from" if distilled else f"{card['method']} soup of"
    shares_of = (
        "Shares of the ingredients in the mean outputs that it was taught" if distilled else "Shares of the ingredients"
    )
    return f"""# {what} {len(mixture["ingredients"])} ingredients of the run {card["run"]}

One model: weights in `{name}`, what is done to features and edges before it sees them in `{stem}.json`.
`python {stem}.py GRAPH SCORES.npy` predicts without gnnsoup_hpc, where what makes the model can be imported; GRAPH is a
file of .npz, or of torch.save, as sources of runs are.

- Graph: {card["graph"]["about"]}. {card["graph"]["split"]}
- Method: {card["source"]}
- Validation {named} {metrics["validation_accuracy"]:.4f}, of nodes that it may have been chosen by or trained on
- Test {named} {metrics["test_accuracy"]:.4f}, {error}
- Best ingredient on validation: {best}{imported}

{shares_of}:

| parameters {header} |
|{"---|" * (len(mixture["ingredients"]) + 1)}
{chr(10).join(rows)}
"""
