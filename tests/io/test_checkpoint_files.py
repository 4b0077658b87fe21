"""Checkpoints of other programs: what is read, what is refused, and that nothing in a file is run."""

from __future__ import annotations

import argparse
import functools
import io
import pickle
import random
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gnnsoup_hpc.errors import FileError, RunError
from gnnsoup_hpc.io import checkpoint_files, export
from gnnsoup_hpc.io.checkpoint_files import fit, read
from gnnsoup_hpc.models.gnn import Architecture
from tests.arbitrary import normal

NET = Architecture("sage", 2, 4, 8, 3)
SHAPES = NET.shapes()
STATE = {name: normal(number, *shape, kind=torch.float32) for number, (name, shape) in enumerate(SHAPES.items())}
OTHER = {name: tensor + 1.0 for name, tensor in STATE.items()}


class Foreign:
    """A class that no file may bring."""

    def __init__(self, trace: Path | None = None) -> None:
        self.trace = trace

    def __setstate__(self, state: dict[str, Any]) -> None:
        raise AssertionError("it was made")


class Calls:
    """Unpickled, it would call something."""

    def __init__(self, function: Any, *given: Any) -> None:
        self.what = function, given

    def __reduce__(self) -> tuple[Any, ...]:
        return self.what


class Settings(dict[str, Any]):
    """As Lightning's AttributeDict."""


def save(path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def prefixed(prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in STATE.items()}


def assert_is_state(path: Path, key: str = "", found_key: str = "", prefix: str = "") -> None:
    found = read(path, key)
    fitted = fit(found, SHAPES)
    assert (found.key, fitted.prefix, fitted.differences) == (found_key or key, prefix, ())
    assert list(fitted.state) == list(SHAPES)
    assert all(torch.equal(fitted.state[name], tensor) for name, tensor in STATE.items())


@pytest.mark.parametrize("name", ["a.pt", "a.pth", "a.ckpt", "a.PT"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_state_is_read_from_new_and_old_files(name: str, zipped: bool, tmp_path: Path) -> None:
    assert_is_state(save(tmp_path / name, OrderedDict(STATE), _use_new_zipfile_serialization=zipped))


def test_a_state_is_read_from_safetensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "a.safetensors"
    save_file(prefixed("model."), path)
    assert_is_state(path, prefix="model.")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(FileError, match=r"a.safetensors: not a readable file of safetensors"):
        read(path)
    monkeypatch.setattr(export, "import_module", lambda name: (_ for _ in ()).throw(ModuleNotFoundError))
    with pytest.raises(RunError, match="pip install safetensors"):
        read(path)


def test_parameters_and_a_modules_own_state_are_read(tmp_path: Path) -> None:
    module = NET.to_module()
    module.load_state_dict(STATE)
    assert_is_state(save(tmp_path / "a.pt", module.state_dict()))
    assert_is_state(save(tmp_path / "b.pt", dict(module.named_parameters())))


def test_what_foreign_classes_hold_is_not_made(tmp_path: Path) -> None:
    """As in a Lightning checkpoint: classes of the user's, settings, partials, paths, numbers of NumPy."""
    content = {
        "epoch": 3,
        "state_dict": prefixed("model."),
        "callbacks": {"Checkpoint": {"best": torch.tensor(0.5), "path": tmp_path}},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1}]}],
        "hyper_parameters": Settings(net=Foreign(tmp_path), act=torch.relu, functions=[nn.functional.relu, torch.save]),
        "partial": functools.partial(nn.functional.relu, inplace=True),
        "score": np.float64(0.5),
        "arguments": argparse.Namespace(lr=0.1, kinds={Foreign}),
    }
    assert_is_state(save(tmp_path / "a.ckpt", content), found_key="state_dict", prefix="model.")


@pytest.mark.parametrize("prefix", ["model.", "module.", "_orig_mod.", "module._orig_mod.net.", "anything.at.all."])
def test_a_prefix_that_all_names_share_is_taken_off(prefix: str, tmp_path: Path) -> None:
    assert_is_state(save(tmp_path / "a.pt", prefixed(prefix)), prefix=prefix)


def test_a_prefix_of_some_names_is_not(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pt", prefixed("model.") | {"loss.weight": torch.ones(3)})
    fitted = fit(read(path), SHAPES)
    assert fitted.prefix == ""
    assert {d.entry for d in fitted.differences} == {*SHAPES, *(f"model.{name}" for name in SHAPES), "loss.weight"}


def test_names_that_the_model_shares_are_no_prefix(tmp_path: Path) -> None:
    """All of the model's names begin with "convs."."""
    assert all(name.startswith("convs.") for name in SHAPES)
    assert_is_state(save(tmp_path / "a.pt", STATE))


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "net", "ema", "whatever"])
def test_the_only_state_in_a_file_is_found(key: str, tmp_path: Path) -> None:
    content = {"epoch": 1, "optimizer": torch.optim.Adam([nn.Parameter(torch.ones(2))]).state_dict(), key: STATE}
    assert_is_state(save(tmp_path / "a.pt", content), found_key=key)
    assert_is_state(save(tmp_path / "b.pt", {"best": content, "n": 1}), found_key=f"best.{key}")


def test_a_key_chooses_between_several(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pt", {"ema": {"decay": 0.9, "v.1": {"w": STATE}}, "model": OTHER, "best": OTHER})
    with pytest.raises(FileError, match=r"a.pt holds several states: choose one with --key model or --key best"):
        read(path)
    assert_is_state(path, "ema.v.1.w")
    assert torch.equal(read(path, "model").tensors["convs.0.lin_l.bias"], OTHER["convs.0.lin_l.bias"])
    with pytest.raises(FileError, match=r"--key ema.decay: float; it has ema \(dict\), model \(state\)"):
        read(path, "ema.decay")
    with pytest.raises(FileError, match="--key nets: nothing is there"):
        read(path, "nets")


# ---- refused

TRACE = "trace"


def runs(trace: Path) -> list[tuple[Any, str]]:
    """What would leave a trace if it were unpickled, and the name that it asks for."""
    import builtins
    import os
    import runpy
    import shutil
    import subprocess

    text = f"open({str(trace)!r}, 'w')"
    return [
        (Calls(os.system, f"touch {trace}"), "posix.system"),
        (Calls(os.mkdir, str(trace)), "posix.mkdir"),
        (Calls(subprocess.run, ["touch", str(trace)]), "subprocess.run"),
        (Calls(runpy.run_path, str(trace)), "runpy.run_path"),
        (Calls(shutil.copyfile, __file__, str(trace)), "shutil.copyfile"),
        (Calls(exec, text), "exec"),
        (Calls(eval, text), "eval"),
        (Calls(open, str(trace), "w"), "io.open"),
        (Calls(getattr, Path(trace), "touch"), "getattr"),
        (Calls(builtins.__import__, "antigravity"), "__import__"),
        (Calls(torch.load, str(trace)), "torch.*load"),
        (Calls(torch.storage._load_from_bytes, b"no"), "_load_from_bytes"),
        (subprocess.Popen, "subprocess.Popen"),  # named, and not called
    ]


@pytest.mark.parametrize("number", range(len(runs(Path()))))
@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_asks_for_what_runs_code_is_refused_by_name(number: int, zipped: bool, tmp_path: Path) -> None:
    what, name = runs(tmp_path / TRACE)[number]
    path = save(tmp_path / "a.pt", {"state_dict": STATE, "more": [what]}, _use_new_zipfile_serialization=zipped)
    with pytest.raises(FileError, match=rf"a.pt asks for \S*{name}, which can run any code: it is refused"):
        read(path)
    assert not (tmp_path / TRACE).exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_other_functions_are_not_called(zipped: bool, tmp_path: Path) -> None:
    """Wherever they are: what they would have given is missing, and what does not need them is read."""
    what = [Calls(Path.touch, tmp_path / TRACE), Calls(torch.save, 1, str(tmp_path / TRACE))]
    options = {"_use_new_zipfile_serialization": zipped, "pickle_protocol": 4}
    assert_is_state(save(tmp_path / "a.pt", {"model": STATE, "more": what}, **options), found_key="model")
    inside = STATE | {"convs.0.lin_l.bias": what[1]}
    (difference,) = fit(read(save(tmp_path / "a.pt", inside, **options)), SHAPES).differences
    assert difference.has == "torch.serialization.save"
    assert not (tmp_path / TRACE).exists()


@pytest.mark.parametrize(
    ("module", "name"), [("torch", "os.system"), ("torch.hub", "sys.modules"), ("os.path", "join")]
)
def test_names_within_names_are_refused_too(module: str, name: str, tmp_path: Path) -> None:
    words = (b"\x8c" + bytes([len(word)]) + word.encode() for word in (module, name))
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x04" + b"".join(words) + b"\x93.")
        archive.writestr("a/version", "3\n")
    with pytest.raises(FileError, match=f"a.pt asks for {module}.{name}"):
        read(path)


def test_a_plain_pickle_is_refused(tmp_path: Path) -> None:
    import os

    path = tmp_path / "a.pt"
    path.write_bytes(pickle.dumps({"model": 1}))
    with pytest.raises(FileError, match=r"a.pt: not a readable file of torch.save"):
        read(path)
    path.write_bytes(pickle.dumps(Calls(os.system, f"touch {tmp_path / TRACE}")))
    with pytest.raises(FileError, match=r"a.pt asks for posix.system"):
        read(path)
    assert not (tmp_path / TRACE).exists()


class Net(nn.Module):
    """A user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(2, 2)


@pytest.mark.parametrize("whole", [Net(), NET.to_module()])
def test_a_whole_module_is_refused_with_what_to_do(whole: nn.Module, tmp_path: Path) -> None:
    for content in (whole, {"epoch": 1, "model": whole}):
        path = save(tmp_path / "a.pt", content)
        with pytest.raises(FileError, match=rf"{type(whole).__name__}.*torch.save\(model.state_dict\(\), PATH\)"):
            read(path)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_is_no_checkpoint_is_one_line(tmp_path: Path) -> None:
    script = tmp_path / "script.pt"
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), str(script))
    with pytest.raises(FileError, match=r"script.pt is a TorchScript archive, which is code: save its weights"):
        read(script)
    whole = save(tmp_path / "a.pt", STATE).read_bytes()
    for name, content, message in [
        ("empty.pt", b"", "not a readable file of torch.save"),
        ("short.pt", whole[: len(whole) // 2], "not a readable file of torch.save"),
        ("text.pt", b"no checkpoint", "not a readable file of torch.save"),
        ("a.npz", b"", "checkpoints are files of .pt, .pth, .ckpt, .bin, .safetensors, or ingredients"),
        ("a.h5", b"short", "a.h5 is not a file of gnnsoup_hpc"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FileError, match=message) as caught:
            read(tmp_path / name)
        assert "\n" not in str(caught.value)
    for content in (torch.ones(2), [STATE], {}, {"epoch": 1}, 3, {0: torch.ones(2)}):
        with pytest.raises(FileError, match=r"b.pt holds no mapping of names to tensors"):
            read(save(tmp_path / "b.pt", content))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_with_wrong_bytes_is_read_or_is_one_line(zipped: bool, tmp_path: Path) -> None:
    content = {"state_dict": STATE, "more": [argparse.Namespace(what={1, 2}, kind=torch.float16), np.float64(0.5)]}
    whole = save(tmp_path / "a.pt", content, _use_new_zipfile_serialization=zipped).read_bytes()
    place, size = (whole.index(b"\x80\x02"), 600) if zipped else (0, len(whole))
    draw, said = random.Random(0), []
    values = [value for value in range(256) if value not in b"r\x96"]  # pickle's own, that ask for memory beyond reason
    for _ in range(200):
        damaged = bytearray(whole)
        for _ in range(draw.randint(1, 3)):
            damaged[place + draw.randrange(size)] = draw.choice(values)
        (tmp_path / "b.pt").write_bytes(without_checksums(damaged) if zipped else damaged)
        said.append(find_error(tmp_path / "b.pt"))
    assert not [line for line in said if "\n" in line]
    assert 50 < sum(map(bool, said)) < 200


def find_error(path: Path) -> str:
    try:
        fit(read(path), SHAPES)
    except FileError as error:
        return str(error)
    return ""


def without_checksums(archive: bytearray) -> bytes:
    """An archive whose members' checksums are those of what they hold now."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(made, "w") as new:
        for member in old.infolist():
            start = member.header_offset + 30 + len(member.filename) + _extra_size(archive, member.header_offset)
            new.writestr(member.filename, bytes(archive[start : start + member.file_size]))
    return made.getvalue()


def _extra_size(archive: bytearray, header: int) -> int:
    return int.from_bytes(archive[header + 28 : header + 30], "little")


def test_a_tar_of_the_first_torch_is_one_line(tmp_path: Path) -> None:
    import tarfile

    path = tmp_path / "a.pt"
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("pickle"), io.BytesIO())
    with pytest.raises(FileError, match=r"a.pt is of a torch before 0.1.10"):
        read(path)


# ---- whether it fits

BIAS, WEIGHT = "convs.0.lin_l.bias", "convs.1.lin_r.weight"


def differences(tmp_path: Path, changes: dict[str, Any], gone: str = "") -> list[tuple[str, str, str]]:
    state = {name: tensor for name, tensor in (STATE | changes).items() if name != gone}
    fitted = fit(read(save(tmp_path / "a.pt", state)), SHAPES)
    assert {d.file for d in fitted.differences} <= {str(tmp_path / "a.pt")}
    return [(d.entry, d.has, d.wants) for d in fitted.differences]


def test_every_kind_of_difference_is_named(tmp_path: Path) -> None:
    half = STATE[BIAS].clone()
    half[3:5] = torch.tensor([float("nan"), float("-inf")])
    changes = {
        BIAS: half,
        WEIGHT: torch.ones(3, 5),
        "convs.0.lin_l.weight": torch.ones(8, 4, dtype=torch.int64),
        "convs.0.lin_r.weight": torch.ones(8, 4, dtype=torch.complex64),
        "convs.1.lin_l.weight": torch.eye(3, 8).to_sparse_csr(),
        "head.weight": torch.ones(2, dtype=torch.float16),
    }
    assert sorted(differences(tmp_path, changes, gone="convs.1.lin_l.bias")) == [
        (BIAS, "2 of 8 not finite", "finite numbers"),
        ("convs.0.lin_l.weight", "int64 (8, 4)", "float32 (8, 4)"),
        ("convs.0.lin_r.weight", "complex64 (8, 4)", "float32 (8, 4)"),
        ("convs.1.lin_l.bias", "nothing", "float32 (3)"),
        ("convs.1.lin_l.weight", "torch._utils._rebuild_sparse_tensor", "float32 (3, 8)"),
        (WEIGHT, "float32 (3, 5)", "float32 (3, 8)"),
        ("head.weight", "float16 (2)", "nothing"),
    ]


def test_numbers_beyond_float32_are_not_finite(tmp_path: Path) -> None:
    found = differences(tmp_path, {BIAS: torch.full((8,), 1e300, dtype=torch.float64)})
    assert found == [(BIAS, "8 of 8 not finite", "finite numbers")]


def test_other_floating_types_are_cast_and_said(tmp_path: Path) -> None:
    changes = {BIAS: STATE[BIAS].half(), WEIGHT: STATE[WEIGHT].bfloat16()}
    changes |= {"convs.1.lin_l.weight": STATE["convs.1.lin_l.weight"].double()}
    fitted = fit(read(save(tmp_path / "a.pt", STATE | changes)), SHAPES)
    assert fitted.types == ("bfloat16", "float16", "float64")
    assert not fitted.differences
    assert {tensor.dtype for tensor in fitted.state.values()} == {torch.float32}
    assert torch.equal(fitted.state[BIAS], STATE[BIAS].half().float())


def test_views_of_one_storage_come_apart(tmp_path: Path) -> None:
    room = torch.arange(64.0)
    changes = {"convs.0.lin_l.weight": room.view(8, 8)[:, ::2], "convs.0.lin_r.weight": room[:32].view(4, 8).t()}
    fitted = fit(read(save(tmp_path / "a.pt", STATE | changes)), SHAPES)
    assert not fitted.differences
    assert all(tensor.is_contiguous() for tensor in fitted.state.values())
    assert all(torch.equal(fitted.state[name], tensor) for name, tensor in changes.items())


def test_names_of_what_runs_code_are_no_classes_of_users() -> None:
    """Only whole modules are meant: a user's package may have a part called code, or os."""
    unpickler = checkpoint_files._TensorUnpickler(io.BytesIO())
    assert unpickler.find_class("mine.code.os", "Net").name == "mine.code.os.Net"
