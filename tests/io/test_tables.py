"""Tables for other programs: pandas, CSV, Parquet and xarray have the same, to the last digit, and by name."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray

from gnnsoup_hpc.__main__ import main
from gnnsoup_hpc.api import read_report
from gnnsoup_hpc.config import Job
from gnnsoup_hpc.errors import RunError
from gnnsoup_hpc.io import soup as soup_store
from gnnsoup_hpc.io.tables import write_tables
from gnnsoup_hpc.runtime.run_dir import RunDir

FRAMES = ("methods", "ingredients", "phases", "baseline", "diagnosis", "histories/ls", "histories/distil", "verdicts")


@pytest.fixture(scope="module")
def folder(finished: Job, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All tables of a finished run, in both formats."""
    folder = tmp_path_factory.mktemp("tables")
    root = str(RunDir.of(finished).root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.excepthook", sys.excepthook)
        assert main(["report", root, "--csv", str(folder), "--parquet", str(folder / "parquet")]) == 0
    return folder


@pytest.mark.parametrize("name", FRAMES)
def test_csv_and_parquet_have_what_pandas_has(finished: Job, folder: Path, name: str) -> None:
    frame, file = read_report(RunDir.of(finished).root)[name], name.replace("/", "-")
    texts = {column: str for column in frame.columns if pd.api.types.is_string_dtype(frame[column])}
    csv = pd.read_csv(
        folder / f"{file}.csv", dtype=texts, keep_default_na=False, na_values={c: [""] for c in frame if c not in texts}
    )
    parquet = pd.read_parquet(folder / "parquet" / f"{file}.parquet")
    for found in (csv, parquet):
        pd.testing.assert_frame_equal(found, frame, check_exact=True, check_dtype=False)
    assert {column: parquet[column].dtype for column in frame} == {column: frame[column].dtype for column in frame}


@pytest.mark.parametrize("name", FRAMES[:-1])
def test_xarray_knows_tables_by_their_first_columns(finished: Job, name: str) -> None:
    run = RunDir.of(finished)
    frame = read_report(run.root)[name]
    first, *others = frame.columns
    with xarray.open_dataset(run.report, group=name, engine="h5netcdf", phony_dims=None) as found:
        assert dict(found.sizes) == {first: len(frame)}
        assert list(found.coords) == [first]
        assert set(found.data_vars) == set(others)
        for column in others:
            np.testing.assert_array_equal(found[column].values, frame[column].values)


def test_xarray_knows_whose_share_is_which(finished: Job) -> None:
    run = RunDir.of(finished)
    for method in ("uniform", "ls", "pls", "ensemble"):
        made = soup_store.read(run.soup(method))
        with xarray.open_dataset(run.report, group=f"mixtures/{method}", engine="h5netcdf", phony_dims=None) as found:
            assert found.alpha.dims == ("group", "ingredient")
            assert found.attrs == {"of": made.mixture.of, "by": made.mixture.by}
            np.testing.assert_array_equal(found.alpha.values, made.mixture.alpha.numpy())
            assert list(found["ingredient"].values) == list(made.ingredients)
            shares = found.alpha.sel(ingredient="0001").values
            np.testing.assert_array_equal(shares, made.mixture.alpha[:, 1].numpy())


def test_what_is_missing_or_ambiguous_is_said(
    finished: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = str(RunDir.of(finished).root)
    assert main(["report", root, root, "--csv", str(tmp_path)]) == 2
    assert "--csv takes the tables of one run, and 2 are named" in capsys.readouterr().err
    monkeypatch.setattr("gnnsoup_hpc.io.tables.find_spec", lambda name: None)
    with pytest.raises(
        RunError, match=r"need the package pyarrow, which is not here: pip install pyarrow, or take --csv"
    ):
        write_tables({"a": {"b": [1]}}, tmp_path, "parquet")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="file"):
        write_tables({"a": {"b": [1]}}, tmp_path / "file", "csv")
