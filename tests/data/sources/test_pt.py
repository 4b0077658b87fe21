"""`pt:PATH`: what is read, what is refused, and that nothing in a file is run."""

from __future__ import annotations

import datetime
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch_geometric import EdgeIndex, transforms
from torch_geometric.data import Data, HeteroData, InMemoryDataset
from torch_geometric.data.storage import AttrType

from gnnsoup_hpc.config import GraphJob
from gnnsoup_hpc.data.sources import pt
from gnnsoup_hpc.data.sources.raw import RawGraph, SourceContext, describe_file, finish
from gnnsoup_hpc.data.sources.split import assign_roles
from gnnsoup_hpc.errors import GraphError
from gnnsoup_hpc.io import pickled
from gnnsoup_hpc.types import Role

DESK = SourceContext(Path("no scratch is needed"))
X = torch.arange(10.0).reshape(5, 2)
FIVE: dict[str, Any] = {
    "x": X,
    "y": torch.tensor([0, 1, 2, 0, -1]),
    "edge_index": torch.tensor([[0, 1, 4], [1, 2, 4]]),
    "train_mask": torch.tensor([True, True, False, False, False]),
    "val_mask": torch.tensor([False, False, True, False, False]),
    "test_mask": torch.tensor([False, False, False, True, False]),
}
SPLIT = {Role.TRAIN: [0, 1], Role.VALIDATION: [2], Role.TEST: [3]}


class Foreign:
    """A class that no file may bring."""


class Malicious:
    """Unpickled, it would make a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


class Runs:
    """Unpickled, it would run a command."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"open({str(self.trace)!r}, 'w')",)


def changed(**changes: Any) -> dict[str, Any]:
    """The five nodes' tensors; None leaves one out."""
    return {key: value for key, value in (FIVE | changes).items() if value is not None}


def saved(folder: Path, content: Any, **options: Any) -> Path:
    path = folder / "graph.pt"
    torch.save(content, path, **options)
    return path


def read(path: Path, **job: Any) -> RawGraph:
    return pt.read(str(path), GraphJob(**job), DESK)


def given(**changes: Any) -> RawGraph:
    return pt.from_data(changed(**changes), "five", (), "stored", GraphJob())


def stored(raw: RawGraph, column: int = 0) -> dict[Role, list[int]]:
    assert raw.splits is not None
    return {role: ids.tolist() for role, ids in raw.splits["stored"].ids(column).items()}


def refusal(path: Path, **job: Any) -> str:
    with pytest.raises(GraphError) as error:
        read(path, **job)
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("wrap", [dict, lambda d: Data(**d), lambda d: (d, None, Data), lambda d: (Data(**d), None)])
@pytest.mark.parametrize("zipped", [True, False])
def test_what_is_saved_is_read(tmp_path: Path, wrap: Any, zipped: bool) -> None:
    path = saved(tmp_path, wrap(FIVE), _use_new_zipfile_serialization=zipped)
    raw = read(path)
    assert np.array_equal(raw.x[:], X.numpy())
    assert raw.x[:].dtype == np.float32
    assert (raw.y.dtype, raw.y.tolist()) == (np.int64, [0, 1, 2, 0, -1])
    assert (raw.source.tolist(), raw.destination.tolist()) == ([0, 1, 4], [1, 2, 4])
    assert raw.source.dtype == raw.destination.dtype == np.int32
    assert stored(raw) == SPLIT
    assert raw.files == (describe_file(path),)
    assert (raw.sha256, raw.where) == (describe_file(path).sha256, str(path))


def test_a_file_of_pygs_own_cache_is_read(tmp_path: Path) -> None:
    InMemoryDataset.save([Data(**FIVE)], str(tmp_path / "data.pt"))
    assert stored(read(tmp_path / "data.pt")) == SPLIT


def test_it_becomes_a_graph(tmp_path: Path) -> None:
    job = GraphJob(undirected=False)
    raw = read(saved(tmp_path, Data(**FIVE)))
    graph = finish(raw, assign_roles(raw, job), job)
    assert (graph.classes, graph.indices.tolist(), graph.role.tolist()) == (3, [0, 1, 4], [1, 1, 2, 3, 0])


def test_a_home_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, FIVE)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(read(Path("~/graph.pt")).y) == 5


@pytest.mark.parametrize("make", [torch.Tensor.to_sparse, torch.Tensor.to_sparse_csr, torch.Tensor.to_sparse_csc])
def test_sparse_features_stay_sparse(tmp_path: Path, make: Any) -> None:
    raw = read(saved(tmp_path, changed(x=make(X))))
    assert not isinstance(raw.x, np.ndarray)
    assert raw.x.shape == (5, 2)
    assert np.array_equal(raw.x[:], X.numpy())
    assert np.array_equal(raw.x[np.array([4, 0])], X.numpy()[[4, 0]])


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16, torch.float16, torch.uint8, torch.int64, torch.bool])
def test_features_are_read_as_they_are(kind: torch.dtype) -> None:
    x = X.to(kind)
    dense, sparse = given(x=x).x[:], given(x=x.to_sparse()).x[:]
    assert dense.dtype == (np.float32 if kind is torch.bfloat16 else x.numpy().dtype)
    assert dense.tolist() == sparse.tolist() == x.tolist()
    assert (
        given(x=torch.tensor([[2**40 + 1.0]] * 5, dtype=torch.float64).to_sparse()).x[:].tolist() == [[2**40 + 1]] * 5
    )


def test_features_in_a_graph_of_gradients_are_read() -> None:
    assert given(x=X.clone().requires_grad_()).x[:].tolist() == X.tolist()


def test_an_edge_index_of_pygs_own_class_is_read(tmp_path: Path) -> None:
    raw = read(saved(tmp_path, changed(edge_index=EdgeIndex(FIVE["edge_index"], sparse_size=(5, 5)))))
    assert (raw.source.tolist(), raw.destination.tolist()) == ([0, 1, 4], [1, 2, 4])


def test_hybrid_features_are_read() -> None:
    assert given(x=X.to_sparse(1)).x[:].tolist() == X.tolist()


def test_a_column_of_labels_is_a_row() -> None:
    assert given(y=FIVE["y"][:, None].to(torch.int16)).y.tolist() == [0, 1, 2, 0, -1]


def test_ids_and_masks_both_make_a_split() -> None:
    raw = given(train_mask=None, val_mask=None, train_idx=torch.tensor([3, 1]), valid_idx=torch.tensor([4]))
    assert stored(raw) == {Role.TRAIN: [3, 1], Role.VALIDATION: [4], Role.TEST: [3]}
    assert raw.splits is not None
    assert raw.splits["stored"].words == "masks and ids"


def test_other_names_of_validation() -> None:
    mask = FIVE["val_mask"]
    assert stored(given(val_mask=None, valid_mask=mask)) == SPLIT
    assert stored(given(val_mask=None, val_idx=torch.tensor([2]))) == SPLIT


def test_masks_of_zeros_and_ones() -> None:
    assert stored(given(train_mask=FIVE["train_mask"].to(torch.uint8))) == SPLIT


def test_no_masks_no_split() -> None:
    assert given(train_mask=None, val_mask=None, test_mask=None).splits == {}


def test_columns_of_masks_and_one_test_mask_for_all(tmp_path: Path) -> None:
    columns = {f"{name}_mask": torch.zeros(5, 3, dtype=torch.bool) for name in ("train", "val")}
    for column, (train, validation) in enumerate([(0, 1), (1, 2), (2, 0)]):
        columns["train_mask"][train, column] = columns["val_mask"][validation, column] = True
    path = saved(tmp_path, changed(**columns))
    for index, expected in enumerate([([0], [1]), ([1], [2]), ([2], [0])]):
        assert stored(read(path), index) == {
            Role.TRAIN: expected[0],
            Role.VALIDATION: expected[1],
            Role.TEST: [3],
        }
    with pytest.raises(GraphError, match=r"graph.split_index = 3: .* has 3 splits, counted from 0"):
        assign_roles(read(path), GraphJob(split_index=3))
    assign_roles(read(path, split="random"), GraphJob(split_index=3, split="random"))


def test_the_second_of_one_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="has 1 split,"):
        assign_roles(read(saved(tmp_path, FIVE)), GraphJob(split_index=1))


@pytest.mark.parametrize("key", ["x", "y", "edge_index"])
def test_what_is_missing_is_named(tmp_path: Path, key: str) -> None:
    message = refusal(saved(tmp_path, Data(**changed(**{key: None}))))
    assert f"{key!r} is missing" in message
    assert "train_mask" in message
    assert str(tmp_path) in message


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"x": X[:, 0]}, "x holds float32 of shape (5,)"),
        ({"x": X.to(torch.complex64)}, "x holds complex64"),
        ({"x": [[1.0]]}, "x is a list"),
        ({"x": X.to("meta")}, "x is a tensor on another device, quantised or nested; expected numbers"),
        ({"y": torch.nested.nested_tensor([X[0], X[1][:1]])}, "y is a tensor on another device, quantised or nested"),
        ({"y": torch.eye(5)}, "y holds float32 of shape (5, 5); expected one class a node"),
        ({"y": torch.full((5,), torch.inf)}, "y holds inf at node 0; expected classes as whole numbers"),
        ({"edge_index": torch.zeros(3, 2, dtype=torch.int64)}, "edge_index holds int64 of shape (3, 2)"),
        ({"edge_index": torch.zeros(2, 2)}, "edge_index holds float32 of shape (2, 2)"),
        ({"edge_index": torch.eye(2, dtype=torch.int64).to_sparse()}, "edge_index holds int64"),
        ({"train_mask": torch.ones(4, dtype=torch.bool)}, "train_mask holds bool of shape (4,)"),
        ({"val_mask": torch.rand(5)}, "val_mask holds float32 of shape (5,)"),
        ({"test_mask": torch.ones(5, 1, 1, dtype=torch.bool)}, "test_mask holds bool of shape (5, 1, 1)"),
        ({"train_idx": torch.tensor([0.5, 1.0])}, "train_idx holds float32 of shape (2,)"),
        ({"train_idx": torch.ones(4, dtype=torch.bool)}, "train_idx holds bool of shape (4,)"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(GraphError) as error:
        given(**changes)
    assert expected in str(error.value)
    assert str(error.value).startswith("five: ")


@pytest.mark.parametrize("bad", [2**31, 2**32 + 1, -(2**31) - 1])
def test_ids_beyond_int32_are_not_wrapped_into_range(bad: int) -> None:
    raw = given(edge_index=torch.tensor([[0, bad], [1, 2]]))
    assert raw.source.tolist() == [0, bad]
    with pytest.raises(GraphError, match="out of range"):
        finish(raw, assign_roles(raw, GraphJob()), GraphJob())


@pytest.mark.parametrize("evil", [Malicious, Runs])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_file_is_refused_and_not_run(tmp_path: Path, evil: Any, zipped: bool) -> None:
    trace = tmp_path / "trace"
    path = saved(tmp_path, changed(note=evil(trace)), _use_new_zipfile_serialization=zipped)
    message = refusal(path)
    assert not trace.exists()
    assert "not unpickled" in message
    torch.load(path, weights_only=False)
    assert trace.exists(), "the file is harmless, and this test would show nothing"


FOREIGN: list[tuple[dict[str, Any], str]] = [
    ({"names": np.array(["a", "b"])}, "names holds a numpy.ndarray, which is not unpickled"),
    ({"x": np.ones((5, 2))}, "data['x'] = torch.as_tensor(data['x']), then"),
    ({"one": np.zeros(2), "two": np.zeros(2)}, "one, two each hold a numpy.ndarray"),
    ({"meta": {"stats": [np.arange(3)]}}, "meta holds a numpy.ndarray"),
    ({"gamma": np.float64(1.0)}, "gamma holds a numpy._core.multiarray.scalar"),
    ({"adj": sp.eye(3, format="csr")}, "adj holds a scipy.sparse._csr.csr_matrix"),
    ({"made": datetime.date(2020, 1, 1)}, "made holds a datetime.date"),
    ({"part": slice(1, 2)}, "part holds a slice"),
    ({"note": Foreign()}, f"note holds a {__name__}.Foreign"),
    ({"model": torch.nn.Linear(2, 2)}, "model holds a torch.nn.modules.linear.Linear"),
]


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrap", [dict, lambda d: Data(**d)])
@pytest.mark.parametrize(("more", "message"), FOREIGN, ids=[next(iter(more)) for more, _ in FOREIGN])
def test_what_is_refused_is_named(tmp_path: Path, more: dict[str, Any], message: str, wrap: Any, zipped: bool) -> None:
    path = saved(tmp_path, wrap(FIVE | more), _use_new_zipfile_serialization=zipped)
    told = refusal(path)
    assert message in told
    advised = {key: value for key, value in FIVE.items() if key not in more or key == "x"}
    assert ("leave it out: del data" in told) == ("x" not in more)
    assert stored(read(saved(tmp_path, wrap(advised)))) == SPLIT


def test_a_class_with_no_name_of_its_own(tmp_path: Path) -> None:
    path = saved(tmp_path, Foreign())
    assert f"it holds a {__name__}.Foreign" in refusal(path)
    assert pickled.inspect("no.such", path) == pickled.PickleContents(f"{__name__}.Foreign", (), "no.such")


@pytest.mark.parametrize("evil", [Malicious, Runs])
@pytest.mark.parametrize("zipped", [True, False])
def test_looking_for_a_class_runs_nothing(tmp_path: Path, evil: Any, zipped: bool) -> None:
    trace, name = tmp_path / "trace", "exec" if evil is Runs else "pathlib.Path.touch"
    path = saved(tmp_path, {"a": {"b": [evil(trace)]}}, _use_new_zipfile_serialization=zipped)
    found = pickled.inspect(name, path)
    assert not trace.exists()
    assert found.root == ""
    assert found.keys == (("a",) if evil is Runs else ())


HOSTILE = {
    "calls what it has made": b"cos\nsystem\n(S'touch trace'\ntR(S'touch trace'\ntR.",
    "sets a state": b"cos\nsystem\n(S'touch trace'\ntR}S'a'\ncos\nsystem\nsb.",
    "makes an instance": b"(S'touch trace'\nios\nsystem\n.",
    "a new object": b"\x80\x02cos\nsystem\nU\x0btouch trace\x85\x81.",
    "an extension": b"\x80\x02\x82\x01.",
    "no end": b"\x80\x02]",
    "a state for a class": b"cos\nsystem\n}S'held'\nS'x'\nsb.",
    "deep": b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b".",
    "doubled again and again": b"\x80\x02]q\x00" + b"".join(b"]q%c(h%ch%ce" % (n + 1, n, n) for n in range(60)) + b".",
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_pickles_are_looked_at_without_harm(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile(tmp_path / "it.pt", "w") as archive:
        archive.writestr("it/data.pkl", content)
    assert pickled.inspect("os.system", tmp_path / "it.pt").keys in ((), ("a",))
    assert not (tmp_path / "trace").exists()


class Gets:
    """Unpickled, it is an attribute of something."""

    def __init__(self, of: Any, name: str) -> None:
        self.of, self.name = of, name

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self.of, self.name)


def test_a_member_of_an_enumeration_is_read_as_older_pythons_pickle_it(tmp_path: Path) -> None:
    """And no attribute of anything else."""
    assert read(saved(tmp_path, FIVE | {"cache": Gets(AttrType, "NODE")})).x.shape == FIVE["x"].shape
    for of, name in ((Data, "to_dict"), (AttrType, "__subclasses__")):
        with pytest.raises(GraphError, match=r"graph\.pt: "):
            read(saved(tmp_path, FIVE | {"cache": Gets(of, name)}))


def touched(data: Data) -> Data:
    """With all caches that PyG keeps in a Data."""
    data.is_node_attr("x")
    data.put_edge_index(data.edge_index, layout="coo")
    data.get_all_edge_attrs()
    data.get_all_tensor_attrs()
    return data


TRANSFORMS = [touched, transforms.NormalizeFeatures(), transforms.ToUndirected(), transforms.ToSparseTensor()]


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("transform", TRANSFORMS, ids=["caches", "normalised", "undirected", "sparse"])
@pytest.mark.filterwarnings("ignore:Sparse")
def test_a_data_after_a_transform_is_read(tmp_path: Path, transform: Any, zipped: bool) -> None:
    data = transform(Data(**FIVE))
    data.is_node_attr("x")
    raw = read(saved(tmp_path, data, _use_new_zipfile_serialization=zipped))
    edges = {*zip(raw.source.tolist(), raw.destination.tolist(), strict=True)}
    assert edges >= {(0, 1), (1, 2), (4, 4)}
    assert stored(raw) == SPLIT


@pytest.mark.parametrize("zipped", [True, False])
def test_a_data_of_pyg_1_is_read(tmp_path: Path, zipped: bool) -> None:
    old = Data.__new__(Data)
    vars(old).update(FIVE | {"edge_attr": None, "pos": None, "__num_nodes__": 5})
    path = saved(tmp_path, old, _use_new_zipfile_serialization=zipped)
    assert stored(read(path)) == SPLIT
    vars(old)["__num_nodes__"] = 6
    assert "num_nodes is 6" in refusal(saved(tmp_path, old))


def test_what_torch_may_unpickle_is_afterwards_as_before(tmp_path: Path) -> None:
    torch.serialization.add_safe_globals([Data])  # as PyG does when it is imported
    before = set(torch.serialization.get_safe_globals())
    read(saved(tmp_path, Data(**FIVE)))
    refusal(saved(tmp_path, Foreign()))
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, zipped: bool, share: float) -> None:
    path = saved(tmp_path, Data(**FIVE), _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    message = refusal(path)
    assert message.startswith(f"{path}: not a readable file of torch.save, or a truncated one")


@pytest.mark.parametrize("content", [b"x,y\n1,2\n" * 50, b"\x80\x02}q\x00.", b"PK\x03\x04" + bytes(100), bytes(64)])
def test_another_kind_of_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "graph.pt").write_bytes(content)
    assert "not a readable file of torch.save" in refusal(tmp_path / "graph.pt")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert "not a readable file" in refusal(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no.pt").startswith(f"graph.source: there is no file {tmp_path / 'no.pt'}")


def test_one_of_several_is_to_be_saved(tmp_path: Path) -> None:
    for several in ([Data(**FIVE)], (Data(**FIVE), Data(**FIVE), Data(**FIVE))):
        assert "torch.save(data[0], PATH)" in refusal(saved(tmp_path, several))


@pytest.mark.parametrize("content", [X, [1, 2], ({"x": X}, {"x": X}), (1, 2, 3, 4)])
def test_other_contents_are_refused(tmp_path: Path, content: Any) -> None:
    assert f"it holds a {type(content).__name__}" in refusal(saved(tmp_path, content))


def test_a_heterogeneous_graph_is_refused(tmp_path: Path) -> None:
    data = HeteroData()
    data["paper"].x = X
    for content in (data, data.to_dict()):
        assert "'edge_index': data[T, R, T].edge_index" in refusal(saved(tmp_path, content))
