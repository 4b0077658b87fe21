"""Importing: files become ingredients of a run; what is refused, and what is not invented."""

from __future__ import annotations

import math
import re
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import h5py
import pytest
import torch

from gnnsoup_hpc.alignment.symmetry import permute
from gnnsoup_hpc.analysis.export import make_card, show_card
from gnnsoup_hpc.analysis.report.compare import compare_runs
from gnnsoup_hpc.analysis.report.contents import read_contents
from gnnsoup_hpc.analysis.report.table import show_run
from gnnsoup_hpc.analysis.status.read import read_status
from gnnsoup_hpc.analysis.status.table import show_status
from gnnsoup_hpc.config import Job
from gnnsoup_hpc.errors import FileError, MemoryLimitError, RunError
from gnnsoup_hpc.io import imports, report, states
from gnnsoup_hpc.io import ingredient as ingredient_store
from gnnsoup_hpc.io.model import read_model
from gnnsoup_hpc.models.registry import make_model
from gnnsoup_hpc.runtime import leases
from gnnsoup_hpc.runtime.launch import RankInfo
from gnnsoup_hpc.runtime.progress import Log
from gnnsoup_hpc.runtime.run_dir import RunDir
from gnnsoup_hpc.train import imports as imports_of_train
from gnnsoup_hpc.train.imports import find_files, import_all, import_files
from gnnsoup_hpc.types import State
from tests import runs
from tests.alignment.kit import shuffle
from tests.tiny import CLASSES, FEATURES

SAYS = Log()


@dataclass(frozen=True)
class Case:
    """A job on the graph of a trained run, whose three states lie in a.pt, b.pt and c.pt, or are their start."""

    path: Path
    folder: Path
    states: list[State]
    trained: RunDir

    @property
    def job(self) -> Job:
        return self.change()

    def change(self, *overrides: str) -> Job:
        return runs.jobs.load(str(self.path), [f"runs={self.path.parent / 'runs'}", *overrides])

    @property
    def run(self) -> RunDir:
        return RunDir.of(self.job)

    def files(self, names: str = "abc") -> list[Path]:
        return [self.folder / f"{name}.pt" for name in names]

    def bring(self, names: str = "abc", *overrides: str, key: str = "") -> None:
        import_files(self.change(*overrides), self.files(names), key, runs.ALONE, runs.CPU, SAYS)


@pytest.fixture
def case(trained: Job, tmp_path: Path) -> Case:
    before = runs.copy_run(trained, tmp_path)
    found = [ingredient_store.read(RunDir.of(before).ingredient(index)).state for index in range(3)]
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name, state in zip("abc", found, strict=True):
        torch.save({"state_dict": {f"model.{key}": value for key, value in state.items()}}, folder / f"{name}.pt")
    path = tmp_path / "mine.toml"
    text = before.to_toml().replace('name = "tiny"', 'name = "mine"').replace("ingredients = 3\n", "")
    path.write_text(text)
    case = Case(path, folder, found, RunDir.of(before))
    runs.prepare(case.job, runs.ALONE, runs.QUIET)
    return case


def test_files_become_ingredients_with_accuracies_of_their_own(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    case.bring()
    said = capsys.readouterr().out
    for index, state in enumerate(case.states):
        path = case.run.ingredient(index)
        found, before = ingredient_store.read(path), ingredient_store.read(case.trained.ingredient(index))
        assert states.sha256(found.state) == states.sha256(state)
        assert (found.validation_accuracy, found.test_accuracy) == (before.validation_accuracy, before.test_accuracy)
        assert found.imported == f"{'abc'[index]}.pt"
        line = f"import: {index:04d} from {case.folder / found.imported} (state_dict; without model.): validation"
        assert f"{line} {found.validation_accuracy:.4f}, test {found.test_accuracy:.4f}\n" in said
        assert list(read_model(path).state) == list(state)
    assert [row.file for row in imports.read(case.run.imported)] == [str(path) for path in case.files()]
    with h5py.File(case.run.gathered) as file:
        assert file["names"].asstr()[:].tolist() == ["0000", "0001", "0002"]
    assert not list(case.run.root.glob("leases/*"))


def test_what_is_not_known_of_them_is_not_in_their_files(case: Case) -> None:
    case.bring("a")
    found = ingredient_store.read(case.run.ingredient(0))
    assert (found.hyperparameters, found.history, found.stopped, found.engine) == (None, (), "", "")
    assert all(math.isnan(value) for value in found.measurement.values())
    with h5py.File(case.run.ingredient(0)) as file:
        assert not {"history", "cost"} & set(file)
        assert set(file["metrics"]) == {"validation_accuracy", "test_accuracy"}
    origin = ingredient_store.origin(case.run.ingredient(0))
    assert not [name for name in origin if name.startswith("train.") or name == "initial_sha256"]
    assert origin["imported"]["file"] == "a.pt"
    assert (origin["imported"]["key"], origin["imported"]["prefix"]) == ("state_dict", "model.")
    assert len(origin["imported"]["sha256"]) == 64


def test_the_same_command_goes_on_and_more_files_are_added(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    case.bring("ab")
    kept = {path: path.stat().st_mtime_ns for path in case.run.ingredients.iterdir()}
    case.run.ingredient(1).unlink()
    capsys.readouterr()
    case.bring("ab")
    assert "import: 1 of 2 ingredients are there already\nimport: 0001 from" in capsys.readouterr().out
    case.run.ingredient(0).write_bytes(b"damaged")
    case.bring("abc")
    said = capsys.readouterr().out
    assert "0000.h5 is damaged: set aside as 0000.h5.damaged, and imported again" in said
    assert imports.read(case.run.imported)[2].file.endswith("c.pt")
    assert kept.keys() <= set(case.run.ingredients.iterdir())
    names = {path.name: path.stat().st_mtime_ns for path in case.run.ingredients.iterdir()}
    case.bring("c")  # the others stay
    assert names == {path.name: path.stat().st_mtime_ns for path in case.run.ingredients.iterdir()}
    assert "import: 3 of 3 ingredients are there already" in capsys.readouterr().out


def test_a_half_import_is_not_souped(case: Case) -> None:
    case.bring()
    case.run.ingredient(2).unlink()
    with pytest.raises(RunError, match=r"0002.h5 is not imported yet: give the same `gnnsoup import JOB FILES` again"):
        runs.soup_run(case.job)
    text = show_status(read_status(case.job, case.run))
    assert "1 of 3 ingredients are not imported yet: give the same `gnnsoup import JOB FILES` again" in text
    with leases.hold(case.run.lease("import")):
        assert "not imported yet: which is done now" in show_status(read_status(case.job, case.run))
    with pytest.raises(RunError, match=r"0002.h5 is not there, and .*c.pt, from which it was imported, is not named"):
        case.bring("ab")


def test_a_damaged_list_is_made_again(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    case.bring()
    case.run.imported.write_bytes(b"short")
    with pytest.raises(RunError, match=r"imported.h5 .*: give the same `gnnsoup import JOB FILES` again"):
        runs.soup_run(case.job)
    with pytest.raises(RunError, match=r"0000.h5 .*weights than those that were imported from .*b.pt"):
        case.bring("bc")
    case.bring()
    assert "import: 3 of 3 ingredients are there already" in capsys.readouterr().out


def test_weights_that_are_there_are_not_imported_twice(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(case.states[0], case.folder / "d.pt")
    torch.save({"ema": case.states[0], "model": case.states[1]}, case.folder / "e.pt")
    case.bring("ad")
    assert f"{case.folder / 'd.pt'} has the weights of 0000 ({case.folder / 'a.pt'}), and is left out" in (
        capsys.readouterr().out
    )
    case.bring("e", key="model")
    assert [row.key for row in imports.read(case.run.imported)] == ["state_dict", "model"]


def test_files_may_be_moved(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    case.bring()
    moved = case.folder.rename(case.folder.with_name("moved"))
    case.run.ingredient(1).unlink()
    capsys.readouterr()
    import_files(case.job, find_files([str(moved / "*.pt")]), "", runs.ALONE, runs.CPU, SAYS)
    first, second = capsys.readouterr().out.splitlines()
    assert first == "import: 2 of 3 ingredients are there already"
    assert second.startswith(f"import: 0001 from {moved / 'b.pt'} (")


def test_too_little_memory_is_said_before_anything_is_written(case: Case) -> None:
    with pytest.raises(MemoryLimitError):
        case.bring("abc", "machine.memory_limit=1 MiB")
    assert not case.run.imported.exists()


def test_a_file_that_has_changed_is_refused(case: Case) -> None:
    case.bring()
    torch.save({"state_dict": {name: tensor + 1 for name, tensor in case.states[0].items()}}, case.folder / "b.pt")
    with pytest.raises(RunError, match=r"b.pt has changed since it was imported as 0001"):
        case.bring()


def test_a_run_of_trained_ingredients_is_left_alone(case: Case) -> None:
    job = case.job.model_copy(update={"name": case.trained.root.name})
    with pytest.raises(RunError, match=r"is a run of trained ingredients \(initial.h5\)"):
        import_files(job, case.files(), "", runs.ALONE, runs.CPU, SAYS)
    case.trained.initial.unlink()
    with pytest.raises(RunError, match=r"is a run of trained ingredients \(0000.h5\).*these can be imported too"):
        import_files(job, case.files(), "", runs.ALONE, runs.CPU, SAYS)
    assert not case.trained.imported.exists()


def test_nothing_is_trained_in_a_run_of_imported_ones(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    case.bring()
    runs.train_all(case.job, runs.ALONE, runs.CPU, SAYS)
    assert f"train: the 3 ingredients of {case.run.root} were imported: nothing is trained" in capsys.readouterr().out
    assert not case.run.initial.exists()


def test_another_number_of_ingredients_is_refused(case: Case) -> None:
    message = r"is a run of 3 imported ingredients, and the job says train.ingredients = 4: .*train.ingredients=3"
    with pytest.raises(RunError, match=message):
        case.bring("abc", "train.ingredients=4")
    assert not case.run.imported.exists()
    case.bring("abc", "train.ingredients=3")
    four = case.change("train.ingredients=4")
    for do in (runs.train, runs.soup_run):
        with pytest.raises(RunError, match=message):
            do(four)


def test_two_commands_do_not_import_at_once(
    case: Case, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as other:
        other.enter_context(leases.hold(case.run.lease("import")))
        monkeypatch.setattr(imports_of_train.time, "sleep", lambda seconds: other.close())
        case.bring()
    first, *others = capsys.readouterr().out.splitlines()
    assert re.match(r"import: waiting for process \d+ on .*, who imports to .*mine", first)
    assert len(others) == 3


def test_from_python_all_is_one_call(case: Case) -> None:
    import gnnsoup_hpc as gs

    run = gs.import_checkpoints(case.job, [case.folder / "*.pt"])
    assert run.path == case.run.root
    assert len(run.ingredients) == 3
    assert len(imports.read(case.run.imported)) == 3


def test_ranks_beside_the_first_do_nothing(case: Case) -> None:
    import_all(case.job, ["no such file"], "", RankInfo(1, 2, 1, 2, "here"), SAYS)
    assert not case.run.imported.exists()


def test_all_differences_of_all_files_are_listed(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    state = case.states[0]
    first, *_, last = state
    torch.save(state | {"head.weight": torch.ones(2), first: state[first].half()[:3]}, case.folder / "d.pt")
    torch.save(state | {last: torch.full_like(state[last], math.nan)}, case.folder / "e.pt")
    with pytest.raises(FileError, match=r"2 of 3 files do not fit the job's model \(kind sage, .*\), as listed"):
        case.bring("ade")
    table = capsys.readouterr().out.partition("where files differ from the job's model:\n")[2].splitlines()
    assert [line.split()[:2] for line in table] == [
        ["file", "entry"],
        [f"{case.folder}/d.pt", first],
        [f"{case.folder}/d.pt", "head.weight"],
        [f"{case.folder}/e.pt", last],
    ]
    assert not case.run.imported.exists()
    assert not case.run.ingredients.exists()


def test_ingredients_of_other_runs_keep_what_is_known_of_them(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [*find_files([str(case.trained.ingredients / "*.h5")])[1:], *case.files("a")]
    import_files(case.job, paths, "", runs.ALONE, runs.CPU, SAYS)
    found, before = ingredient_store.read(case.run.ingredient(0)), ingredient_store.read(case.trained.ingredient(1))
    assert found.hyperparameters == before.hyperparameters
    assert found.measurement == pytest.approx(before.measurement, nan_ok=True)
    assert (found.history, found.engine) == (before.history, before.engine)
    assert (found.best_epoch, found.stopped) == (before.best_epoch, before.stopped)
    assert (found.index, found.imported) == (0, "tiny/0001.h5")
    assert "another graph" not in capsys.readouterr().out
    run = read_contents(RunDir.of(runs.soup_run(case.job)).root)
    assert (
        "3 of 3 ingredients were imported, and their accuracies measured here; what it cost to train 1 of them is"
        in (show_run(run))
    )
    with pytest.raises(FileError, match=r"0001.h5: --key model names an entry of a checkpoint"):
        import_files(case.job, paths, "model", runs.ALONE, runs.CPU, SAYS)


def test_an_ingredient_of_another_split_is_said_to_be(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    """It may have been trained on what are test nodes here; its metrics are those of here, as of another program's."""
    found = []
    for name, file in (("own", case.trained.ingredient(0)), ("foreign", *case.files("a"))):
        job = case.change("graph.split_seed=1", f"name={name}")
        runs.prepare(job, runs.ALONE, runs.QUIET)
        import_files(job, [file], "", runs.ALONE, runs.CPU, SAYS)
        found.append(ingredient_store.read(RunDir.of(job).ingredient(0)))
    assert "0000.h5 is of another graph, or another split, than the run's" in capsys.readouterr().out
    assert len({(one.validation_accuracy, one.test_accuracy) for one in found}) == 1
    before = ingredient_store.read(case.trained.ingredient(0))
    assert (found[0].validation_accuracy, found[0].test_accuracy) != (before.validation_accuracy, before.test_accuracy)


def test_a_card_tells_files_of_one_name_apart(case: Case) -> None:
    other = case.folder / "other"
    other.mkdir()
    case.files("b")[0].rename(other / "a.pt")
    job = case.change("soup.methods=['uniform']", "soup.diagnose=false")
    import_files(job, [*case.files("ac"), other / "a.pt"], "", runs.ALONE, runs.CPU, SAYS)
    runs.soup_run(job)
    run = read_contents(case.run.root)
    card = make_card(run, run.soups[0])
    assert card["mixture"]["imported"] == {"0000": "checkpoints/a.pt", "0001": "c.pt", "0002": "other/a.pt"}
    assert "0002 from `other/a.pt`" in show_card(card, "soup.pt")


def test_names_have_as_many_folders_as_tell_them_apart() -> None:
    paths = [
        Path(f"/x/{place}") for place in ("a/ck/0.pt", "b/ck/0.pt", "1.pt", "r/ingredients/1.h5", "s/ingredients/1.h5")
    ]
    assert imports.name_apart(paths) == ["a/ck/0.pt", "b/ck/0.pt", "1.pt", "r/1.h5", "s/1.h5"]
    assert imports.name_apart([Path("/0.pt")] * 2) == ["//0.pt"] * 2  # one file twice
    assert imports.name_apart([]) == []


def test_a_report_of_imported_ingredients_invents_nothing(case: Case) -> None:
    case.bring()
    runs.soup_run(case.job)
    tables = report.read_tables(case.run.report)
    assert list(tables["ingredients"]["imported"]) == ["a.pt", "b.pt", "c.pt"]
    for name in ("seconds", "learning_rate", "epochs", "best_epoch", "peak_host_bytes"):
        assert all(math.isnan(value) for value in tables["ingredients"][name])
    assert set(tables["ingredients"]["engine"]) | set(tables["ingredients"]["stopped"]) == {""}
    text = show_run(read_contents(case.run.root))
    assert (
        "3 of 3 ingredients were imported, and their accuracies measured here; what it cost to train them is not"
        in text
    )
    (line,) = (line.split() for line in text.splitlines() if line.startswith("train "))
    assert line == ["train", "-", "-"]
    status = show_status(read_status(case.job, case.run))
    assert "ingredients    3: 3 finished" in status
    assert "nothing is trained: the ingredients were imported" in status


def test_soups_are_those_of_the_ingredients_that_were_trained(case: Case, finished: Job) -> None:
    """A soup is a function of weights, graph and model, and not of where a file lies."""
    case.bring()
    runs.soup_run(case.job)
    for method in ("greedy", "gis", "ls", "pls"):
        one, other = (read_model(run.soup(method)).state for run in (case.run, RunDir.of(finished)))
        assert states.sha256(one) == states.sha256(other)


def test_imports_of_other_files_are_other_experiments(case: Case) -> None:
    """Not the same one with another seed, nor the same one twice."""
    case.bring("ab")
    runs.soup_run(case.job)
    other = case.change("name=other")
    runs.prepare(other, runs.ALONE, runs.QUIET)
    import_files(other, case.files("bc"), "", runs.ALONE, runs.CPU, runs.QUIET)
    runs.soup_run(other)
    text = compare_runs([read_contents(RunDir.of(job).root) for job in (case.job, other)])
    assert "same experiment" not in text
    assert "imported" in text


def test_states_of_another_basin_are_told_by_the_barrier(case: Case) -> None:
    """Equal shapes, equal accuracy, hidden units in another order: as if it were trained from another start."""
    model = make_model(case.job.model, FEATURES, CLASSES)
    for number, name in enumerate("defg"):
        torch.save(permute(model, case.states[number % 3], shuffle(model, number)), case.folder / f"{name}.pt")
    job = case.change('soup.align="none"')
    import_files(job, case.files("adefg"), "", runs.ALONE, runs.CPU, SAYS)
    runs.soup_run(job)
    text = show_run(read_contents(case.run.root))
    assert "Not one basin as trained" in text
    assert "They were imported, so what they started from is not known" in text
    assert 'match the units before mixing (soup.align = "weights"), or leave out' in text
    assert "share their initial state" not in text


def test_a_shared_start_is_not_claimed(case: Case) -> None:
    case.bring()
    runs.soup_run(case.job)
    text = show_run(read_contents(case.run.root))
    assert "One basin: all 3 ingredients lie in one basin" in text
    assert "shared initial state" not in text
    assert "no alignment needed: no barrier to the mean of all; uniform soup" in text


def test_checkpoints_of_other_features_are_said_to_be_of_no_use(case: Case, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({name: torch.zeros_like(tensor) for name, tensor in case.states[0].items()}, case.folder / "d.pt")
    case.bring("d")
    said = capsys.readouterr().out
    assert "is hardly better than that of majority class" in said
    assert (
        "see that the checkpoints were trained on what this job makes of features and edges (graph.features ="
        ' "standardise", graph.undirected = true), and on labels in the same order' in said
    )
    case.bring("ad")
    assert "hardly better" not in capsys.readouterr().out  # half of them have learned
    raw = case.change("name=raw", "graph.features=none", "graph.undirected=false")
    runs.prepare(raw, runs.ALONE, runs.QUIET)
    import_files(raw, case.files("d"), "", runs.ALONE, runs.CPU, SAYS)
    assert "trained on these features and edges, and on labels in the same order" in capsys.readouterr().out


def test_paths_and_patterns_name_files_once_and_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    names = ["b.pt", "a.pt", "in/c.pt", "[1].pt"]
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / "link.pt").symlink_to(tmp_path / "a.pt")
    found = find_files(["**/*.pt", "b.pt", "./b.pt", "[1].pt", str(tmp_path / "a.pt")])
    assert [str(path) for path in found] == ["[1].pt", "a.pt", "b.pt", "in/c.pt"]
    with pytest.raises(FileError, match=r"no file is named '\*.ckpt', nor fits it as a pattern"):
        find_files(["a.pt", "*.ckpt"])
    with pytest.raises(FileError, match=r"in is a folder: name its files, for example 'in/\*.pt'"):
        find_files(["in"])
