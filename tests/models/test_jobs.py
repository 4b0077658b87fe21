"""[model] of a job names a model that there is, with what that takes; a job that is right is read without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gnnsoup_hpc.errors import JobError
from gnnsoup_hpc.models.jobs import load_job

WRONG = [
    (
        ["model.kind=gcnn"],
        r"model.kind = 'gcnn': input should be 'gcn', 'sage', .* or 'module'; the nearest known one is 'gcn'$",
    ),
    (["model.kind=gcn", "model.heads=2"], r"model: heads = 2 is for kind = 'gat' or 'gatv2'; gcn has none$"),
    (["model.factory=a:b"], r"model.factory = 'a:b' says nothing of kind = 'sage' of plain options: leave it out$"),
    (["model.takes=sparse"], "model.takes = 'sparse' says nothing of kind = 'sage' of plain options: leave it out"),
    (["model.kind=module"], r"model.factory = '': kind = 'module' wants 'package.module:function'"),
    (["model.kind=module", "model.factory=models"], "model.factory = 'models': kind = 'module' wants"),
    (["model.kind=module", "model.factory=a:b", "model.hidden=64"], "model.hidden = 64 says nothing of kind"),
    (
        ["model.kind=module", "model.factory=a:b", "train.dropout=0.1"],
        "train.dropout = 0.1: dropout of kind = 'module' is the module's own",
    ),
    (
        ["model.kind=module", "model.factory=a:b", "train.dropout=0.5", "train.batch=neighbour"],
        "train.batch = 'neighbour' samples a hop a layer: give model.hops",
    ),
    (["model.kind=gin", "model.arguments.when=2026-01-01"], "model.arguments = .*: give numbers, text"),
    (
        ["model.kind=gat", "soup.pls.first_hop=exact"],
        "soup.pls.first_hop = 'exact' cannot be had with model.kind = 'gat'",
    ),
    (
        ["model.kind=gin", "soup.align=weights"],
        "soup.align = 'weights' knows the hidden units of stacks of gcn, sage and",
    ),
    (["model.norm=batch", "soup.pls.first_hop=exact"], "soup.pls.first_hop = 'exact' cannot be had"),
    (
        ["model.kind=gat", "train.batch=cluster", "train.first_hop=exact"],
        "train.first_hop = 'exact' cannot be had with model.kind = 'gat'",
    ),
]


@pytest.mark.parametrize(("overrides", "message"), WRONG)
def test_what_no_model_takes_is_named(overrides: list[str], message: str) -> None:
    with pytest.raises(JobError, match=f"pubmed.toml with {', '.join(overrides)}: {message}"):
        load_job("pubmed", overrides)


def test_a_job_is_read_without_torch() -> None:
    code = "import sys; from gnnsoup_hpc.models.jobs import load_job; load_job(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
