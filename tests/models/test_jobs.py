"""[model] of a job names a model that there is, with what that takes; a job that is right is read without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gnnsoup_hpc.errors import JobError
from gnnsoup_hpc.models.jobs import load_job

WRONG = [
    (["model.kind=gcnn"], r"model.kind = 'gcnn': input should be 'gcn', 'sage' or 'gat'$"),
    (["model.kind=gcn", "model.heads=2"], r"model: heads = 2 is for kind = 'gat'; gcn has none$"),
    (
        ["model.kind=gat", "soup.pls.first_hop=exact"],
        "soup.pls.first_hop = 'exact' cannot be had with model.kind = 'gat'",
    ),
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
