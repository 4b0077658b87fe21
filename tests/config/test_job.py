"""The typed job: every bundled one loads, mistakes are named, the resolved job loads to the same."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gnnsoup_hpc.config import METHOD_NAMES, Job
from gnnsoup_hpc.config import loading as jobs
from gnnsoup_hpc.config.turns import without_effect
from gnnsoup_hpc.errors import JobError
from gnnsoup_hpc.utils import hashing

FOLDER = Path(__file__).resolve().parents[2] / "jobs"
FILES = sorted(FOLDER.glob("*.toml"))


def named(**sections: Any) -> Job:
    """A job that says no more than its sections."""
    return jobs.validate({"name": "x", **sections}, "here")


def written(folder: Path, text: str) -> str:
    path = folder / "job.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_bundled_job_loads_and_is_named_as_its_file(path: Path) -> None:
    assert jobs.load(str(path)).name == path.stem
    assert jobs.load(path.stem) == jobs.load(str(path))
    assert path in jobs.bundled_jobs()


def test_no_job_means_pubmed() -> None:
    assert jobs.load() == jobs.load("pubmed")
    assert jobs.load().graph.source == "bundled:pubmed"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_resolved_job_loads_to_an_equal_one(path: Path, tmp_path: Path) -> None:
    job = jobs.load(str(path))
    assert jobs.load(written(tmp_path, job.to_toml())) == job
    assert jobs.load(written(tmp_path, jobs.explain(job))) == job


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = {
    "name": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True),
    "runs": st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
    "graph": st.fixed_dictionaries(
        {},
        optional={"source": st.text(st.characters(exclude_categories=["Cs"])), "split_seed": st.integers(0, 2**32 - 1)},
    ),
    "train": st.fixed_dictionaries(
        {},
        optional={
            "learning_rate": st.floats(0.0, 1000.0, exclude_min=True),
            "weight_decay": st.floats(0.0, 1.0),
            "vary": st.fixed_dictionaries({}, optional={"dropout": st.lists(st.floats(0.0, 1.0, exclude_max=True))}),
        },
    ),
    "soup": st.fixed_dictionaries({"methods": st.lists(st.sampled_from(METHOD_NAMES), min_size=1, unique=True)}),
}


@given(st.fixed_dictionaries(VALUES))
def test_any_resolved_job_loads_to_an_equal_one(tree: dict[str, Any]) -> None:
    job = jobs.validate(tree, "here")
    for text in (job.to_toml(), jobs.explain(job)):
        assert jobs.validate(tomllib.loads(text), "again") == job


def test_every_field_is_described_and_explained() -> None:
    explained = jobs.explain(named())
    for name, about in jobs.fields():
        assert about, name
        assert f"# {about}\n" in explained, name
    assert "soup.pls.union" in dict(jobs.fields())
    assert "train.vary.learning_rate" in dict(jobs.fields())


@pytest.mark.parametrize(
    ("line", "quoted"),
    [
        ("kind = gin  # of PyG", 'kind = "gin"'),
        ("methods=[ls, pls]", 'methods = ["ls", "pls"]'),
        ("memory_limit = 2 GiB", 'memory_limit = "2 GiB"'),
        ("source = pt:data/my graph.pt", 'source = "pt:data/my graph.pt"'),
        ("arguments = {jk = cat, act_first = True}", 'arguments = {jk = "cat", act_first = true}'),
    ],
)
def test_text_without_quotes_is_shown_with_them(line: str, quoted: str, tmp_path: Path) -> None:
    with pytest.raises(JobError) as error:
        jobs.load(written(tmp_path, f'name = "x"\n[model]\n{line}\n'))
    assert str(error.value).endswith(f": text stands in quotes, true and false in small letters: {quoted}")
    assert "(at line 3, column" in str(error.value)


@pytest.mark.parametrize("line", ["hidden = = 16", "hidden = 1__6", "[model", "hidden", 'kind = "gin', "kind = 'a' b"])
def test_another_mistake_of_toml_is_left_as_it_is(line: str, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"not valid TOML: [^:]*$"):
        jobs.load(written(tmp_path, line))


UNKNOWN = [
    ({"graf": {}}, "graf", "graph"),
    ({"train": {"learning_rates": 0.1}}, "train.learning_rates", "train.learning_rate"),
    ({"train": {"vary": {"drop": [0.5]}}}, "train.vary.drop", "train.vary.dropout"),
    ({"soup": {"pls": {"unions": 2}}}, "soup.pls.unions", "soup.pls.union"),
    ({"partition": {"part": 8}}, "partition.part", "partition.parts"),
]


@pytest.mark.parametrize(("sections", "key", "near"), UNKNOWN)
def test_unknown_key_is_named_with_the_nearest_known_one(sections: dict[str, Any], key: str, near: str) -> None:
    with pytest.raises(JobError, match=f"^here: unknown key '{key}'; the nearest known one is '{near}'$"):
        named(**sections)


WRONG = [
    ({"train": {"ingredients": 0}}, "train.ingredients = 0"),
    ({"train": {"learning_rate": 0.0}}, "train.learning_rate = 0.0"),
    ({"train": {"learning_rate": 1001.0}}, "train.learning_rate = 1001.0"),
    ({"train": {"learning_rate": float("nan")}}, "train.learning_rate = nan"),
    ({"train": {"dropout": 1.0}}, "train.dropout = 1.0"),
    ({"train": {"drop_edges": 1.0}}, "train.drop_edges = 1.0"),
    ({"train": {"vary": {"drop_edges": [0.1, -0.1]}}}, "train.vary.drop_edges.1 = -0.1"),
    ({"train": {"trunk_epochs": -1}}, "train.trunk_epochs = -1"),
    ({"train": {"drop_features": 1.0}}, "train.drop_features = 1.0"),
    ({"train": {"bag": 0.0}}, "train.bag = 0.0"),
    ({"train": {"bag": 1.1}}, "train.bag = 1.1"),
    ({"train": {"labels": "both"}}, "train.labels = 'both': input should be 'training' or 'all'"),
    (
        {"train": {"labels": "all"}},
        "as soup.methods does with best, greedy, gis, ls, pls: name uniform, ensemble, distil",
    ),
    (
        {"train": {"labels": "all"}, "soup": {"methods": ["uniform", "distil"], "distil": {"start": "ls"}}},
        "does with distil: name uniform",
    ),
    ({"train": {"recipe": "onw"}}, "'tournament' or 'bagged'; the nearest known one is 'own'"),
    ({"train": {"recipe": ["own"]}}, r"train.recipe = \['own'\]: input should be '', 'shared'"),
    ({"train": {"recipe": "trunk", "start": "own"}}, "trunk_epochs = 50 contradict each other"),
    ({"train": {"recipe": "varied", "learning_rate": 600.0}}, "train.vary.learning_rate.2 = 1200.0"),
    ({"train": {"start": "own", "trunk_epochs": 3}}, "start = 'own' and trunk_epochs = 3 contradict each other"),
    ({"train": {"shared_draws": ["seed"]}}, "train.shared_draws.0 = 'seed': input should be 'order', 'dropout', "),
    ({"train": {"start": "common"}}, "train.start = 'common': input should be 'shared', 'own' or 'snapshots'"),
    ({"train": {"trunk_starts": 0}}, "train.trunk_starts = 0"),
    ({"train": {"trunk_starts": 3}}, "trunk_starts = 3 chooses among trunks, and trunk_epochs = 0 trains none: set"),
    ({"train": {"shared_draws": ["order", "order"]}}, "shared_draws names a draw twice"),
    ({"train": {"weight_decay": -0.1}}, "train.weight_decay = -0.1"),
    ({"train": {"weight_decay": float("nan")}}, "train.weight_decay = nan"),
    ({"train": {"vary": {"epochs": [1, 0]}}}, "train.vary.epochs.1 = 0"),
    ({"train": {"epochs": 1.5}}, "train.epochs = 1.5"),
    ({"train": {"epochs": "many"}}, "train.epochs = 'many'"),
    ({"train": {"epochs": True}}, "train.epochs = True"),
    ({"train": {"learning_rate": True}}, "train.learning_rate = True"),
    ({"train": {"shared_draws": "order"}}, r"""should be a list, as in '\["ls", "pls"\]' or '\[0.1, 0.3\]'"""),
    ({"train": {"first_hop": "exact", "batch": "neighbour"}}, "first_hop = 'exact' is for batch = 'cluster'"),
    ({"train": {"first_hop": "exact", "vary": {"drop_edges": [0.5]}}}, "and drop_edges leaves some out"),
    ({"model": {"layers": 0}}, "model.layers = 0"),
    ({"model": {"kind": "gat", "hidden": 10, "heads": 4}}, "hidden = 10 must be a multiple of heads = 4"),
    ({"graph": {"train_share": 0.7, "validation_share": 0.3}}, "must stay below 1"),
    ({"graph": {"features": "standardise", "feature_layout": "sparse"}}, "leaves none: use 'scale'"),
    ({"graph": {"split_seed": 2**32}}, "graph.split_seed = 4294967296"),
    ({"partition": {"parts": 4}, "soup": {"pls": {"union": 5}}}, r"soup.pls.union = 5 parts \(R\) cannot be drawn"),
    ({"soup": {"methods": []}}, "soup.methods"),
    ({"soup": {"methods": ["ls", "ls"]}}, "names a method twice"),
    ({"soup": {"methods": ["sl"]}}, "soup.methods.0 = 'sl': input should be 'best', .* or 'distil'$"),
    ({"soup": {"methods": ["gsi"]}}, "or 'distil'; the nearest known one is 'gis'$"),
    ({"soup": {"methods": ["GIS"]}}, "; the nearest known one is 'gis'$"),
    ({"soup": {"unfit": "leave it out"}}, "'refuse' or 'leave out'; the nearest known one is 'leave out'$"),
    ({"task": {"metric": "acuracy"}}, "task.metric = 'acuracy': .* or 'r2'; the nearest known one is 'accuracy'$"),
    ({"task": {"class_weights": "balancd"}}, "'none' or 'balanced'; the nearest known one is 'balanced'$"),
    ({"soup": {"gis": {"granularity": 1}}}, "soup.gis.granularity = 1"),
    ({"soup": {"ls": {"momentum": 1.0}}}, "soup.ls.momentum = 1.0"),
    ({"machine": {"threads": -1}}, "machine.threads = -1"),
    ({"runs": ""}, "runs = ''"),
    ({"name": "../up"}, "name = '../up'"),
    ({"name": ".hidden"}, "name = '.hidden'"),
    ({"name": "two\nlines"}, "name = "),
]


@pytest.mark.parametrize(("sections", "message"), WRONG)
def test_value_out_of_range_is_named(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(JobError, match=message):
        named(**sections)


def test_all_mistakes_are_named_at_once() -> None:
    with pytest.raises(JobError) as caught:
        named(graf={}, train={"epochs": 0})
    assert "unknown key 'graf'" in str(caught.value)
    assert "train.epochs = 0" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_job_without_a_name_is_refused() -> None:
    with pytest.raises(JobError, match=r"^here: the key 'name' is missing$"):
        jobs.validate({}, "here")


OVERRIDES = [
    ("soup.pls.union=8", lambda job: job.soup.pls.union, 8),
    ("train.vary.dropout=[0.4, 0.5]", lambda job: job.train.vary.dropout, (0.4, 0.5)),
    ("soup.methods=['ls']", lambda job: job.soup.methods, ("ls",)),
    ("soup.unfit=leave out", lambda job: job.soup.unfit, "leave out"),
    ("graph.source=npz:/data/a=b.npz", lambda job: job.graph.source, "npz:/data/a=b.npz"),
    (" train.learning_rate = 1e-3", lambda job: job.train.learning_rate, 0.001),
    ("graph.undirected=false", lambda job: job.graph.undirected, False),
    ("name=2024", lambda job: job.name, "2024"),
    ("name=other", lambda job: job.name, "other"),
]


@pytest.mark.parametrize(("text", "take", "value"), OVERRIDES)
def test_override(text: str, take: Any, value: object) -> None:
    assert take(jobs.load("pubmed", [text])) == value


def test_later_overrides_win_and_leave_the_rest() -> None:
    job = jobs.load("pubmed", ["train.epochs=3", "train.epochs=5"])
    assert job.train.epochs == 5
    assert job.train.ingredients == jobs.load("pubmed").train.ingredients


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train.epochs", "expected KEY=VALUE"),
        ("=5", "expected KEY=VALUE"),
        ("name.first=5", "'name' is a value, not a table"),
        ("train.epoch=5", "the nearest known one is 'train.epochs'"),
    ],
)
def test_wrong_override(text: str, message: str) -> None:
    with pytest.raises(JobError, match=re.escape(message)):
        jobs.load("pubmed", [text])


def test_files_that_are_no_job(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"job.toml: not valid TOML"):
        jobs.load(written(tmp_path, "name = "))
    with pytest.raises(JobError, match=r"there is no job file 'none.toml'.*bundled: .*pubmed"):
        jobs.load("none.toml")
    with pytest.raises(JobError, match="the bundled job 'pubmed' needs no path"):
        jobs.load("none/pubmed.toml")


def test_the_name_or_folder_of_a_run_is_told_where_its_job_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kept = tmp_path / "runs" / "mine" / "job.toml"
    kept.parent.mkdir(parents=True)
    kept.touch()
    for text in ("mine", "runs/mine"):
        with pytest.raises(JobError, match=r"the job of that run is 'runs/mine/job\.toml'"):
            jobs.load(text)


def test_canonical_text_is_one_per_value() -> None:
    assert hashing.canonical({"b": 1, "a": [1.5, None]}) == '{"a":[1.5,null],"b":1}'
    assert hashing.fingerprint({"a": 1, "b": 2}) == hashing.fingerprint({"b": 2, "a": 1})
    assert hashing.fingerprint({"a": 1}) != hashing.fingerprint({"a": 2})
    with pytest.raises(ValueError, match="not JSON compliant"):
        hashing.canonical(float("nan"))


@pytest.mark.parametrize(
    ("words", "differ"),
    [
        ([], True),
        (["train.dropout=0.0"], False),
        (["train.dropout=0.0", "train.start=own"], True),
        (["train.dropout=0.0", "train.start=snapshots"], True),
        (["train.dropout=0.0", "train.batch=cluster"], True),
        (["train.dropout=0.0", "train.vary.dropout=[0.0, 0.5]"], True),
        (["train.dropout=0.0", "train.vary.learning_rate=[0.01, 0.01]"], False),
        (["train.dropout=0.0", "train.vary.epochs=[3, 4]"], True),
        (['train.shared_draws=["dropout"]'], False),
        (['train.shared_draws=["dropout"]', "train.drop_edges=0.1"], True),
        (["train.batch=cluster", 'train.shared_draws=["dropout", "order"]'], False),
        (["train.dropout=0.0", "train.bag=0.5"], True),
        (["train.dropout=0.0", "train.bag=0.5", 'train.shared_draws=["nodes"]'], False),
        (["train.dropout=0.0", "train.vary.drop_features=[0.1]"], True),
        (["train.dropout=0.0", "train.drop_features=0.1", 'train.shared_draws=["features"]'], False),
    ],
)
def test_whether_anything_makes_ingredients_differ(words: list[str], differ: bool) -> None:
    assert jobs.load("pubmed", words).train.differ == differ


@pytest.mark.parametrize(
    ("overrides", "found"),
    [
        ((), []),
        (("train.fanout=[3]", "train.batch_size=7"), ["train.batch_size", "train.fanout"]),
        (("train.batch=cluster", "train.clusters=2", "train.sampler=own"), ["train.sampler"]),
        (("train.clusters=2",), ["train.clusters"]),
        (("train.batch=neighbour", "train.fanout=[3, 4, 5]"), ["train.fanout beyond its first 2, one a layer"]),
        (("train.batch=neighbour", "train.fanout=[3, 4]"), []),
        (("train.dropout=0.9", "train.vary.dropout=[0.1, 0.2]"), ["train.dropout"]),
        (("train.dropout=0.9", "train.vary.dropout=[0.1, 0.2]", "train.trunk_epochs=2"), []),
        (
            ("train.labels=all", "train.patience=3", "train.validate_every=2", 'soup.methods=["uniform"]'),
            ["train.patience", "train.validate_every"],
        ),
        (("train.recipe=dropped",), []),
        (("train.recipe=dropped", "train.drop_edges=0.1"), ["train.recipe's drop_edges"]),
        (("train.recipe=varied", "train.vary.weight_decay=[0.1]"), ["train.recipe's vary.weight_decay"]),
        (("train.start=snapshots",), []),
        (("train.start=snapshots", "train.ingredients=1"), ["train.start"]),
    ],
)
def test_fields_of_training_without_effect_are_known(overrides: tuple[str, ...], found: list[str]) -> None:
    assert without_effect(jobs.load("pubmed", overrides)) == found
