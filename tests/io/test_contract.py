"""Files that another program writes from docs/format.md alone: every command takes them."""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from gnnsoup_hpc.__main__ import main
from gnnsoup_hpc.config import Job
from gnnsoup_hpc.config.turns import Hyperparameters
from gnnsoup_hpc.errors import FileError
from gnnsoup_hpc.io import ingredient as store
from gnnsoup_hpc.io import states
from gnnsoup_hpc.io.ingredient import Origin
from gnnsoup_hpc.models.gnn import Architecture
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.utils.hashing import canonical, fingerprint
from tests import runs
from tests.io import foreign

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "format.md"


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return runs.prepare_run(tmp_path_factory.mktemp("bare"), "soup.methods=['best', 'uniform', 'gis', 'ensemble']")


@pytest.fixture
def job(bare: Job, tmp_path: Path) -> Job:
    return runs.copy_run(bare, tmp_path)


def lines_of(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """What a command prints; it must succeed."""
    code = main([str(word) for word in words])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return printed.out + printed.err


def all_commands_take(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    """Train finds all ingredients there, and every other command works with them."""
    run = RunDir.of(job)
    path = run.root / "given.toml"
    path.write_text(job.to_toml())
    before = {file: file.read_bytes() for file in [run.initial, *run.ingredients.iterdir()]}
    assert len(before) == 4
    assert "3 of 3 ingredients are there already" in lines_of(capsys, "train", path)
    assert {file: file.read_bytes() for file in before} == before
    with h5py.File(run.gathered) as stack, h5py.File(run.ingredient(1)) as one:
        name = "convs.0.lin_l.weight"
        assert np.array_equal(stack[f"state/{name}"][1], one[f"state/{name}"][:].astype("f4"))
    said = lines_of(capsys, "soup", path)
    assert "3 ingredients: validation" in said
    told = [store.read(run.ingredient(index)).validation_accuracy for index in range(3)]
    assert f"validation {max(told):.4f}" in said  # that of the best, as souping finds it
    assert "mean ± standard deviation" in lines_of(capsys, "report", run.root)
    assert "finished" in lines_of(capsys, "status", run.root)
    for piece in json.loads(lines_of(capsys, "status", run.root, "--json"))["ingredients"]:
        assert (piece["state"], piece["host"], piece["seconds"]) == ("finished", "unknown", None)
    assert "basin" in lines_of(capsys, "diagnose", run.root, "--again")


@pytest.mark.usefixtures("own_excepthook")
def test_every_command_takes_what_another_program_wrote(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    foreign.write_run(RunDir.of(job).root, 3)
    all_commands_take(job, capsys)


@pytest.mark.usefixtures("own_excepthook")
def test_every_command_takes_other_types_and_layouts(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    foreign.write_run(
        RunDir.of(job).root,
        3,
        dtype=">f8",
        dataset={"compression": "gzip", "chunks": True},
        text=np.bytes_,
        one=lambda value: np.array([value], ">i2"),
        libver="latest",
    )
    all_commands_take(job, capsys)


@pytest.mark.usefixtures("own_excepthook")
def test_the_pages_own_writer_is_taken(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = [block for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S) if "SEAL" in block]
    page: dict[str, Any] = {}
    exec(compile(block, "docs/format.md", "exec"), page)
    assert "gnnsoup_hpc" not in {word for name in imports(block) for word in name.split(".")}
    foreign.write_run(RunDir.of(job).root, 3, page["write_initial"], page["write_ingredient"])
    all_commands_take(job, capsys)


@pytest.mark.usefixtures("own_excepthook")
def test_train_says_what_is_wrong_with_a_file_that_it_replaces(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunDir.of(job)
    foreign.write_run(run.root, 3)
    foreign.seal(run.ingredient(1), b" by hand")
    (run.root / "given.toml").write_text(job.to_toml())
    said = lines_of(capsys, "train", run.root / "given.toml")
    assert "may follow the seal's digits; set aside as 0001.h5.damaged, and trained again" in said


@pytest.mark.usefixtures("own_excepthook")
def test_souping_needs_no_train_before_it(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunDir.of(job)
    foreign.write_run(run.root, 3)
    (run.root / "given.toml").write_text(job.to_toml())
    assert "3 ingredients: validation" in lines_of(capsys, "soup", run.root / "given.toml")


def test_the_page_names_every_key_of_an_origin() -> None:
    net = Architecture("gat", 2, 3, 4, 2, heads=2, norm="layer")
    how = Hyperparameters(3, 0.01, 0.0, 0.5, 0.1, ("order",), "own", 2)
    batches = dict.fromkeys(("part_sha256", "train.clusters", "train.batch_size", "train.fanout"), 1)
    origin = Origin("a", "b", net, "neighbour", 0, 1, how, batches | {"train.sampler": "own"}, "c")
    page = PAGE.read_text()
    assert [key for key in origin.values if not re.search(rf"^\|[^|]*\b{re.escape(key)}\b[^|]*\|", page, re.M)] == []


@pytest.mark.parametrize("kind", ["sage", "gcn", "gat"])
def test_the_page_names_every_parameter(kind: str) -> None:
    (row,) = re.findall(rf"^\| {kind} \|.*$", PAGE.read_text(), re.M)
    names = {name for name in Architecture(kind, 2, 3, 4, 2, norm="layer").shapes() if name.startswith("convs.0.")}
    assert set(re.findall(r"`([a-z_.]+)`", row)) == {name.removeprefix("convs.0.") for name in names}
    assert all(f"`norms.L.{name}`" in PAGE.read_text() for name in ("weight", "bias"))


def imports(source: str) -> set[str]:
    return {alias.name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import) for alias in node.names}


def test_the_other_program_knows_nothing_of_this_package() -> None:
    source = Path(foreign.__file__).read_text()
    assert imports(source) == {"h5py", "hashlib", "json", "numpy"}
    assert not any(isinstance(node, ast.ImportFrom) for node in ast.walk(ast.parse(source)))


ORIGIN = {
    "graph_sha256": "a" * 64,
    "initial_sha256": "b" * 64,
    "index": 2,
    "train.batch": "full",
    "train.seed": 0,
    "train.epochs": 3,
    "train.learning_rate": 0.01,
    "train.weight_decay": 0.0,
    "train.dropout": 0.5,
    "model.kind": "sage",
    "model.layers": 2,
    "model.features": 3,
    "model.hidden": 4,
    "model.classes": 2,
    "model.heads": 1,
    "model.norm": "none",
}
STATE = {name: np.random.default_rng(0).normal(size=shape) for name, shape in foreign.shapes(3, 4, 2).items()}


def written(folder: Path, origin: dict[str, Any] = ORIGIN, accuracies: object = (0.5, 0.25), **how: Any) -> Path:
    path = folder / "0002.h5"
    foreign.write_ingredient(path, STATE, origin, accuracies, **how)
    return path


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"tail": b"\n"},
        {"dtype": "<f8"},
        {"dtype": "<f2"},
        {"dtype": ">f4"},
        {"dtype": ">f2"},
        {"libver": "earliest"},
        {"libver": "latest"},
        {"libver": ("v108", "v108")},
        {"track_order": True},
        {"dataset": {"compression": "gzip"}},
        {"dataset": {"compression": "lzf", "shuffle": True, "chunks": True}},
        {"dataset": {"chunks": True, "maxshape": None, "fletcher32": True}},
        {"text": np.bytes_},
        {"text": lambda text: np.array(text.encode(), "S2000")},
        {"text": lambda text: np.array([text], h5py.string_dtype())},
        {"one": np.uint8},
        {"one": bool},
        {"one": float},
        {"one": lambda value: np.array([[value]], ">f4")},
        {"one": lambda value: np.array([value])},
        {"also": lambda file: file.attrs.update({"creator": "another", "note": "x", "recipe": "0" * 64})},
        {"also": lambda file: file.create_group("cost").attrs.update({"note": 1})},
        {"also": lambda file: file.create_group("cost").create_dataset("seconds", data=[2.5])},
        {"also": lambda file: file.create_group("optimizer").create_dataset("m", data=[1, 2])},
        {"also": lambda file: file.create_dataset("metrics/best_epoch", data=np.array([3], ">u2"))},
        {"also": lambda file: file["state"].attrs.update({"sha256": "cast"}), "cast": True},
    ],
)
def test_what_other_programs_write_otherwise_is_read(tmp_path: Path, how: dict[str, Any]) -> None:
    how = dict(how)
    stored = {name: array.astype(how.get("dtype", "f4")).astype("f4") for name, array in STATE.items()}
    if how.pop("cast", False):
        how["also"] = lambda file: file["state"].attrs.update({"sha256": foreign.state_sha256(stored)})
    found = store.read(written(tmp_path, **how))
    assert {name: tensor.numpy().tolist() for name, tensor in found.state.items()} == {
        name: array.tolist() for name, array in stored.items()
    }
    assert all(tensor.dtype.itemsize == 4 for tensor in found.state.values())
    assert (found.index, found.validation_accuracy, found.test_accuracy) == (2, 0.5, 0.25)
    assert found.history == ()
    assert np.isnan(found.measurement["peak_host_bytes"])


def test_a_history_may_lack_columns(tmp_path: Path) -> None:
    def also(file: h5py.File) -> None:
        file["history/epoch"], file["history/loss"] = np.array([1, 2], ">i4"), [0.5, 0.25]

    history = store.read(written(tmp_path, also=also)).history
    assert [(epoch.epoch, epoch.loss) for epoch in history] == [(1, 0.5), (2, 0.25)]
    assert all(np.isnan(epoch.seconds) for epoch in history)


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in ORIGIN.items() if name != key}


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"dtype": "<i4"}, "state/convs.0.lin_l.bias holds int32, where floating numbers are expected"),
        ({"dtype": "S3"}, "state/convs.0.lin_l.bias holds .S3, where floating numbers are expected"),
        ({"tail": b" by hand"}, "only a newline and NULs may follow the seal's digits"),
        ({"tail": b"\n\n"}, "only a newline and NULs may follow the seal's digits"),
        ({"one": lambda value: 2}, "has format version 2; this .* reads up to 1: use a newer one"),
        ({"one": lambda value: 1.5}, "attribute format_version of / is 1.5, where an integer is expected"),
        ({"one": str}, "attribute format_version of / is '1', where an integer is expected"),
        ({"text": lambda text: 7}, "attribute format of / is 7, where a text is expected"),
        ({"accuracies": (float("nan"), 0.5)}, "metrics/validation_accuracy is nan, where an accuracy from 0 to 1"),
        ({"accuracies": (0.5, 87.5)}, "metrics/test_accuracy is 87.5, where an accuracy from 0 to 1 is expected"),
        ({"accuracies": (0.5, [0.5, 0.6])}, r"metrics/test_accuracy of / is array.*, where one number is expected"),
        ({"origin": [1]}, r"attribute origin of /provenance is \[1\], where a JSON object is expected"),
        ({"origin": without("train.epochs")}, "origin has train.epochs = None, where a number is expected"),
        ({"origin": {**ORIGIN, "train.dropout": "0.5"}}, "origin has train.dropout = '0.5', where a number"),
        ({"also": lambda file: file["provenance"].attrs.update({"origin": "{"})}, "origin of /provenance is no JSON"),
        ({"also": lambda file: file.pop("provenance")}, "is damaged or incomplete: .*provenance"),
        ({"also": lambda file: file["provenance"].attrs.pop("origin")}, "attribute origin of /provenance is missing"),
        ({"also": lambda file: file.pop("state")}, "is damaged or incomplete: .*state"),
        ({"also": lambda file: file["metrics"].pop("test_accuracy")}, "is damaged or incomplete: .*test_accuracy"),
        ({"also": lambda file: file["state"].attrs.update({"sha256": "0" * 64})}, "weights do not have the hash"),
        ({"also": lambda file: file.create_group("state/deep/er")}, "state/deep is a group, where a dataset"),
        (
            {"also": lambda file: file.create_group("history").update({"epoch": [1, 2], "loss": [0.5]})},
            r"history/loss holds float64 of shape \(1,\), where 2 numbers are expected",
        ),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, how: dict[str, Any], message: str) -> None:
    with pytest.raises(FileError, match=f"0002.h5.*{message}") as caught:
        store.read(written(tmp_path, **how))
    assert "\n" not in str(caught.value)


def test_weights_too_large_for_float32_are_not_finite(tmp_path: Path) -> None:
    huge = {name: array * 1e300 for name, array in STATE.items()}
    foreign.write_ingredient(tmp_path / "0002.h5", huge, ORIGIN, (0.5, 0.5), dtype="<f8")
    with pytest.raises(FileError, match=r"weights that are not finite, in convs.0.lin_l.bias"):
        store.read(tmp_path / "0002.h5")


def test_hashes_are_the_pages(trained: Job) -> None:
    """Ours of an ingredient and of a graph, by the page's words alone."""
    run = RunDir.of(trained)
    with h5py.File(run.ingredient(1)) as file, h5py.File(run.graph) as graph:
        origin = json.loads(file["provenance"].attrs["origin"])
        assert foreign.recipe(origin) == fingerprint(origin) == file.attrs["recipe"]
        assert json.dumps(origin, sort_keys=True, separators=(",", ":")) == canonical(origin)
        state = {name: data[:] for name, data in file["state"].items()}
        assert foreign.state_sha256(state) == file["state"].attrs["sha256"]
        assert origin["initial_sha256"] == states.sha256(initial(run))
        columns = {name: file["history"][name][:] for name in ("epoch", "loss", "validation_accuracy")}
        weights = {f"state/{name}": array for name, array in state.items()}
        assert content({**columns, **weights}) == file.attrs["content_sha256"]
        assert content(in_the_sources_order(graph)) == graph.attrs["graph_sha256"] == origin["graph_sha256"]


def initial(run: RunDir) -> Any:
    with h5py.File(run.initial) as file:
        return states.get(file)


def content(arrays: dict[str, Any]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode() + array.tobytes())
    return digest.hexdigest()


def in_the_sources_order(graph: h5py.File) -> dict[str, Any]:
    ids = graph["nodes/original_id"][:]
    indptr, indices = graph["edges/indptr"][:], graph["edges/indices"][:]
    rows: list[Any] = [None] * len(ids)
    for new, old in enumerate(ids):
        rows[old] = np.sort(ids[indices[indptr[new] : indptr[new + 1]]])
    place = np.argsort(ids)
    found: dict[str, Callable[[], Any]] = {
        "indices": lambda: np.concatenate(rows).astype("<i8"),
        "indptr": lambda: np.cumsum([0, *map(len, rows)]).astype("<i8"),
        "role": lambda: graph["nodes/split"][:][place],
        "x": lambda: graph["nodes/x"][:][place],
        "y": lambda: graph["nodes/y"][:][place],
    }
    return {name: take() for name, take in found.items()}
