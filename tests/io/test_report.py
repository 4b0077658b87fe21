"""A finished run from Python: the page's example, on a run of its name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

import gnnsoup_hpc as gs
from gnnsoup_hpc.config import Job
from gnnsoup_hpc.errors import FileError
from gnnsoup_hpc.runtime.run_dir import RunDir

DOCS = Path(__file__).resolve().parent.parent.parent / "docs" / "python.md"


def test_the_pages_example_reads_a_run(
    finished: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDir.of(finished)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "pubmed").symlink_to(run.root.resolve())
    monkeypatch.chdir(tmp_path)
    _, code, _ = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.S)
    found: dict[str, Any] = {}
    exec(compile(code, str(DOCS), "exec"), found)
    assert "pls" in capsys.readouterr().out
    assert isinstance(found["model"], torch.nn.Module)
    assert not found["model"].training
    with h5py.File(run.soup("pls")) as file:
        soup, mixture = found["soup"], file["mixture"]
        assert np.array_equal(soup.alpha, mixture["alpha"][:])
        assert soup.ingredients == tuple(mixture["ingredients"].asstr()[:])
        assert soup.groups == tuple(mixture["groups"].asstr()[:])
    with h5py.File(run.report) as file:
        tables = {name for name, each in file.items() if "columns" in each.attrs}
        tables |= {f"histories/{name}" for name in file["histories"]}
        assert found["tables"].keys() == tables | {"verdicts", "notes"}
        for name in tables:
            assert list(found["tables"][name].columns) == list(file[name].attrs["columns"])
        assert list(found["tables"]["methods"]["test_accuracy"]) == file["methods/test_accuracy"][:].tolist()


def test_what_is_not_there_is_said(finished: Job, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"lsp\.h5"):
        gs.load_soup(RunDir.of(finished).root, "lsp")
    with pytest.raises(FileError, match=r"report\.h5"):
        gs.read_report(tmp_path)
