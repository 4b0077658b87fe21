"""A field that changes a result changes its fingerprint: of ingredients those of [model] and [train], of soups [soup].

And one that is known to change nothing leaves the fingerprint as it is, so that a run goes on.
"""

from __future__ import annotations

import json

import h5py
import pytest

from gnnsoup_hpc.config import Job, ModelJob, SoupJob, TrainJob
from gnnsoup_hpc.config.loading import fields
from gnnsoup_hpc.io import soup as soup_store
from gnnsoup_hpc.runtime import launch
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.soup.runner import SoupRunner
from gnnsoup_hpc.soup.selection import Selection
from gnnsoup_hpc.utils.hashing import content_sha256
from tests import runs

# Another value of every field of [model] and [train].
TRAINED = {
    "model.kind": "gcn",
    "model.layers": "3",
    "model.hidden": "8",
    "model.heads": "4",
    "model.norm": "layer",
    "model.arguments": "{ act = 'elu' }",
    "train.seed": "3",
    "train.batch": "cluster",
    "train.clusters": "2",
    "train.first_hop": "exact",
    "train.batch_size": "50",
    "train.fanout": "[2]",
    "train.sampler": "own",
    "train.engine": "torch",
    "train.epochs": "3",
    "train.learning_rate": "0.05",
    "train.weight_decay": "0.1",
    "train.dropout": "0.2",
    "train.drop_edges": "0.3",
    "train.drop_features": "0.3",
    "train.recipe": "own",
    "train.labels": "all",
    "train.bag": "0.5",
    "train.optimiser": "adamw",
    "train.schedule": "cosine",
    "train.warmup_epochs": "1",
    "train.clip_norm": "0.01",
    "train.patience": "1",
    "train.validate_every": "2",
    "train.precision": "bfloat16",
    "train.average": "ema",
    "train.average_decay": "0.9",
    "train.average_from": "0.5",
    "train.start": "own",
    "train.trunk_epochs": "1",
    "train.trunk_starts": "2",
    "train.shared_draws": "['dropout', 'order']",
    "train.vary.learning_rate": "[0.01, 0.07]",
    "train.vary.weight_decay": "[0.0, 0.2]",
    "train.vary.dropout": "[0.5, 0.1]",
    "train.vary.drop_edges": "[0.0, 0.4]",
    "train.vary.drop_features": "[0.0, 0.4]",
    "train.vary.epochs": "[2, 4]",
    "train.ingredients": "3",
    "train.checkpoint_seconds": "0.5",
}
# Of torch modules alone: tests/models/test_module.py and tests/soup/test_module_runs.py have them.
OF_MODULES = {f"model.{name}" for name in ("factory", "takes", "hops", "groups", "revision", "folder")}
BASES = {
    "full": ("model.kind=sage",),
    "cluster": ("model.kind=sage", "train.batch=cluster"),
    "neighbour": ("model.kind=sage", "train.batch=neighbour", "train.batch_size=64", "train.fanout=[3, 4]"),
    "gat": ("model.kind=gat", "model.heads=2"),
}
# What has no effect in a base: mini-batches alone draw clusters, neighbour batches alone have sizes and a sampler.
MINI, NEIGHBOUR = {"train.clusters", "train.first_hop"}, {"train.batch_size", "train.fanout", "train.sampler"}
ALWAYS = {"train.ingredients", "train.recipe", "train.checkpoint_seconds", "train.average_decay", "train.average_from"}
WITHOUT_EFFECT = {
    "full": ALWAYS | MINI | NEIGHBOUR,
    "cluster": ALWAYS | NEIGHBOUR,
    "neighbour": ALWAYS,
    "gat": ALWAYS | MINI | NEIGHBOUR,
}
NOT_ALLOWED = {(base, "model.heads") for base in BASES if base != "gat"} | {("gat", "model.kind")}
NOT_ALLOWED |= {("neighbour", "train.first_hop"), ("gat", "train.first_hop")}
NOT_ALLOWED |= {(base, "train.trunk_starts") for base in BASES}  # without a trunk


def names(*sections: tuple[str, type]) -> set[str]:
    """Dotted names of the fields of sections of a job, tables left out."""
    every = {name for prefix, section in sections for name, _ in fields(section, f"{prefix}.")}
    return {name for name in every if not any(other.startswith(f"{name}.") for other in every)}


def test_every_field_is_under_the_law() -> None:
    assert names(("model", ModelJob), ("train", TrainJob)) == set(TRAINED) | OF_MODULES
    assert names(("soup", SoupJob)) == set(SOUPED) | set(NO_METHODS)


@pytest.fixture(autouse=True)
def _any_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """One without bfloat16 products imitates them."""
    monkeypatch.setattr(launch, "check_precision", lambda *words: None)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A job of two ingredients and two epochs, with its graph."""
    small = ("model.hidden=16", "train.ingredients=2", "train.epochs=2", "partition.parts=4", "soup.pls.union=1")
    small += ('soup.methods=["uniform"]',)  # which train.labels = "all" leaves any
    return runs.prepare_run(tmp_path_factory.mktemp("trained"), *small)


def trained(job: Job, *overrides: str) -> tuple[str, str]:
    """(fingerprint, hash of weights and losses) of ingredient 1, trained anew."""
    job = runs.change_job(job, "name=other", *overrides)
    runs.prepare(job, runs.ALONE, runs.QUIET)
    run = RunDir.of(job)
    runs.train(job)
    with h5py.File(run.ingredient(1)) as file:
        found = str(file.attrs["recipe"]), str(file.attrs["content_sha256"])
    runs.shutil.rmtree(run.root)
    return found


@pytest.mark.parametrize(
    ("base", "section"),
    [
        *((base, "") for base in BASES if base != "gat"),
        ("gat", "model."),
        pytest.param("gat", "train.", marks=pytest.mark.slow),
    ],
)
def test_a_field_that_changes_an_ingredient_changes_its_fingerprint(base: str, section: str, prepared: Job) -> None:
    fingerprint, content = trained(prepared, *BASES[base])
    assert trained(prepared, *BASES[base]) == (fingerprint, content)
    for field, value in TRAINED.items():
        if (base, field) in NOT_ALLOWED or not field.startswith(section):
            continue
        if base == "gat" and field.startswith("train.vary."):
            continue
        other, found = trained(prepared, *BASES[base], f"{field}={value}")
        assert found == content or other != fingerprint, f"{field} changes weights, and no fingerprint"
        if field in WITHOUT_EFFECT[base]:
            assert (other, found) == (fingerprint, content), f"{field} has an effect on {base} batches"


def test_starts_change_fingerprints(prepared: Job) -> None:
    """Of ingredients that branch from another start's trunk, and of those that go on from one another."""
    trunk, snapshots = ("train.trunk_epochs=1",), ("train.start=snapshots",)
    found = [trained(prepared, *base) for base in ((), trunk, (*trunk, "train.trunk_starts=3"), snapshots)]
    assert len({fingerprint for fingerprint, _ in found}) == len(found)


def test_another_graph_or_other_parts_of_mini_batches_are_other_ingredients(prepared: Job) -> None:
    """Full batches do not depend on the parts."""
    for base, differs in (("full", False), ("cluster", True), ("neighbour", True)):
        parts = trained(prepared, *BASES[base])[0] != trained(prepared, *BASES[base], "partition.seed=5")[0]
        assert parts == differs, base
    assert trained(prepared, "graph.features=none")[0] != trained(prepared)[0]


# Another value of every field of [soup], but for those that say which soups there are.
NO_METHODS = {"soup.methods", "soup.unfit", "soup.leave_out", "soup.diagnose"}
SOUPED = {
    "soup.seed": "3",
    "soup.precision": "bfloat16",
    "soup.align": "weights",
    "soup.recompute": "end",
    "soup.gis.granularity": "3",
    **{
        f"soup.{method}.{key}": value
        for method in ("ls", "pls")
        for key, value in {
            "optimiser": "eg",
            "epochs": "3",
            "tolerance": "0.1",
            "learning_rate": "0.7",
            "momentum": "0.5",
            "restart": "2",
            "restart_factor": "3",
            "start": "xavier",
            "alpha": "model",
            "weights": "affine",
            "regularise": "0.5",
            "holdout": "0.4",
            "logit_scale": "false",
        }.items()
    },
    "soup.pls.reuse": "2",
    "soup.pls.union": "1",
    "soup.pls.first_hop": "exact",
    "soup.pls.prefetch": "false",
    **{
        f"soup.distil.{key}": value
        for key, value in {
            "start": "scratch",
            "epochs": "3",
            "union": "1",
            "learning_rate": "0.05",
            "schedule": "constant",
            "weight_decay": "0.1",
            "dropout": "0.2",
            "temperature": "3.0",
            "label_share": "0.5",
            "patience": "1",
        }.items()
    },
}


# What an optimiser has not, and the job refuses.
_SEARCH = ("learning_rate", "momentum", "restart", "restart_factor")
NOT_FOR = {
    "soup.align=none": [
        *(f"soup.ls.{key}" for key in _SEARCH),
        *(f"soup.pls.{key}" for key in (*_SEARCH[1:], "tolerance")),
    ],
    "soup.ls.optimiser=paper": ["soup.ls.tolerance"],
    "soup.pls.optimiser=paper": ["soup.pls.tolerance"],
}


@pytest.fixture(scope="module")
def trained_run(trained: Job, tmp_path_factory: pytest.TempPathFactory) -> Job:
    return runs.copy_run(trained, tmp_path_factory.mktemp("souped"))


def make_soups(job: Job, method: str, *overrides: str) -> tuple[str, str]:
    """(fingerprint of what a soup is, hash of its alpha and weights), made anew."""
    job = runs.change_job(job, f"soup.methods=['{method}']", "soup.diagnose=false", *overrides)
    runs.soup_run(job)
    path = RunDir.of(job).soup(method)
    soup = soup_store.read(path)
    with h5py.File(path) as file:
        recipe = str(file.attrs["recipe"])
        assert json.loads(file["provenance"].attrs["recipe"])["method"] == method
    state = {name: tensor.numpy() for name, tensor in (soup.state or {}).items()}
    path.unlink()
    return recipe, content_sha256({"alpha": soup.mixture.alpha.numpy()} | state)


@pytest.mark.parametrize(
    ("method", "base"),
    [
        *(("gis", ()), ("ls", ()), ("pls", ()), ("ls", ("soup.ls.optimiser=paper",))),
        *(("pls", ("soup.pls.optimiser=paper",)), ("uniform", ()), ("greedy", ())),
        ("distil", ()),
    ],
)
def test_a_field_that_changes_a_soup_changes_its_fingerprint(
    method: str, base: tuple[str, ...], trained_run: Job
) -> None:
    base = ("soup.align=none", *base)
    fingerprint, content = make_soups(trained_run, method, *base)
    for field, value in SOUPED.items():
        if field in ("soup.precision", *NOT_FOR.get(base[-1], ())):
            continue
        section = field.split(".")[1] if field.count(".") > 1 else method
        if section != method and method != "gis":  # once is enough
            continue
        # What the optimiser of the other methods has not is refused, and says nothing of this one.
        also = [f"soup.{section}.optimiser=paper"] if section in ("ls", "pls") and section != method else []
        if also and field.endswith((".optimiser", ".holdout", ".reuse")):
            continue
        other, found = make_soups(trained_run, method, *base, *also, f"{field}={value}")
        assert found == content or other != fingerprint, f"{field} changes the {method} soup, and no fingerprint"
        if section != method:
            assert other == fingerprint, f"{field} is not of {method}"


def test_precision_is_in_the_fingerprint(trained_run: Job) -> None:
    """Not every processor has its products, so nothing is souped."""
    with runs.open_mixtures(trained_run) as mixtures:
        selection = Selection({0: "a", 1: "b", 2: "c"}, {})
        made = set()
        for precision in ("float32", "bfloat16"):
            job = runs.change_job(trained_run, f"soup.precision={precision}")
            runner = SoupRunner(job, selection, mixtures, runs.QUIET)
            made.add(runner.fingerprint("ls").sha256)
    assert len(made) == 2
