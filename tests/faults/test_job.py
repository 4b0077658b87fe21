"""A wrong job: one line that names the key and what is allowed, and nothing is begun."""

from __future__ import annotations

import pytest

from tests.faults import kit
from tests.faults.kit import JOB, Workdir, fails

MISTAKES = [  # (line of the job file, what stands there instead, what the message must say)
    ("[machine]", "[machin]", "unknown key 'machin'; the nearest known one is 'machine'"),
    ("epochs = 12", "epoch = 12", "unknown key 'train.epoch'; the nearest known one is 'train.epochs'"),
    ("granularity = 5", "granularty = 5", "'soup.gis.granularty'; the nearest known one is 'soup.gis.granularity'"),
    ("parts = 8", "parts = 0", "partition.parts = 0: "),
    ("learning_rate = 0.02", "learning_rate = nan", "train.learning_rate = nan: "),
    (
        'kind = "sage"',
        'kind = "transformer"',
        "model.kind = 'transformer': input should be 'gcn', 'sage', 'gat', 'gatv2', 'gin'",
    ),
    ('name = "tiny"', 'name = "../tiny"', "name = '../tiny': "),
]

OVERRIDES = {
    "soup.plz.union=3": "unknown key 'soup.plz'; the nearest known one is 'soup.pls'",
    "soup.pls.unoin=3": "unknown key 'soup.pls.unoin'; the nearest known one is 'soup.pls.union'",
    "train.vary.dropouts=[0.1]": "unknown key 'train.vary.dropouts'; the nearest known one is 'train.vary.dropout'",
    "train.dropout=1.5": "train.dropout = 1.5: input should be less than 1",
    "soup.unfit=ignore": "soup.unfit = 'ignore': input should be 'refuse' or 'leave out'",
    "model.kind=gcm": "'edgecnn' or 'module'; the nearest known one is 'gcn'",
}


def test_all_mistakes_of_a_job_file_are_told_at_once(empty: Workdir) -> None:
    for old, new, _ in MISTAKES:
        empty.change_job(old, new)
    outcome = empty.gnnsoup("run")
    fails(outcome, JOB, *(said for _, _, said in MISTAKES))
    assert outcome.returncode == 2
    assert not (empty.folder / "runs").exists()


def test_wrong_overrides_are_told_and_lose_nothing(workdir: Workdir) -> None:
    before = workdir.digests()
    words = [word for override in OVERRIDES for word in ("--set", override)]
    fails(workdir.gnnsoup_here("run", *words), *OVERRIDES.values())
    assert workdir.digests() == before


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ("union = 3", "union = 9", ("soup.pls.union = 9", "partition.parts = 8")),
        ("heads = 1", "heads = 2", ("heads = 2", "'gat'")),
        ('name = "tiny"\n', "", ("'name'", "missing")),
        ("hidden = 16", "hidden = = 16", ("not valid TOML", "line 8")),
        ('source = "npz:tiny.npz"', 'source = "zip:tiny.npz"', ("graph.source = 'zip:tiny.npz'", "npz:", "bundled:")),
    ],
)
def test_a_wrong_job_file_is_refused(empty: Workdir, old: str, new: str, names: tuple[str, ...]) -> None:
    empty.change_job(old, new)
    fails(empty.gnnsoup_here("run"), *names)
    assert not empty.graph.exists()


@pytest.mark.parametrize(
    ("override", "names"),
    [("train.epochs", ("'train.epochs'", "KEY=VALUE")), ("name.first=3", ("'name.first=3'", "'name' is a value"))],
)
def test_an_override_that_is_none(empty: Workdir, override: str, names: tuple[str, ...]) -> None:
    fails(empty.gnnsoup_here("run", "--set", override), *names)


def test_a_missing_job_file_is_named_with_the_bundled_ones(empty: Workdir) -> None:
    fails(kit.here("run", "jobs/none.toml", cwd=empty.folder), "'jobs/none.toml'", str(empty.folder), "pubmed")


def test_a_job_file_that_is_no_text(empty: Workdir) -> None:
    (empty.folder / JOB).write_bytes(b"\xff\xfe\x00name")
    fails(empty.gnnsoup_here("run"), JOB, "not UTF-8 text", "save it as UTF-8")
