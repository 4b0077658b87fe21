"""Installations that may only be read, users without a home, and commands that load no more than they need."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gnnsoup_hpc.engine.compiled.kernels import base
from tests.faults import kit
from tests.faults.kit import JOB, Workdir

PACKAGE = Path(base.__file__).parents[3]
HEAVY = {"torch", "numba", "scipy.stats", "torch_geometric", "mpi4py", "pymetis", "ogb", "pandas"}
LIGHT = HEAVY | {"numpy", "h5py", "pydantic", "tqdm", "scipy"}
FEW = ("--set", "train.ingredients=2", "--set", "train.epochs=2", "--set", "soup.methods=['best', 'pls']")
KEPT = "gnnsoup: compiled kernels are kept in "
ANEW = "kernels are compiled anew by each process; set NUMBA_CACHE_DIR to a folder that you can write to"
# Any user may then read what only root may, such as its Python, and write nothing of it.
MAY_READ = ("--clear-groups", "--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search")
NO_HOME = "/proc/version/home"  # no user can make it

LOADED = """\
import sys
from gnnsoup_hpc.__main__ import main
try:
    code = main(sys.argv[1:])
except SystemExit as ended:
    code = ended.code
print(*sorted(sys.modules), file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("words", "absent"),
    [
        pytest.param(["--version"], LIGHT, id="--version"),
        pytest.param(["--help"], LIGHT, id="--help"),
        pytest.param(["run", "--help"], LIGHT, id="run --help"),
        pytest.param(["train", "--help"], LIGHT, id="train --help"),
        pytest.param(["nothing"], LIGHT, id="no such command"),
        pytest.param(["job", "pubmed"], HEAVY | {"h5py"}, id="job"),
        pytest.param(["job", "pubmed", "--logs"], HEAVY | {"h5py"}, id="job --logs"),
        pytest.param(["run", "pubmed", "--set", "nothing=1"], {"mpi4py.MPI"}, id="run"),
        pytest.param(["status", "--help"], HEAVY, id="status --help"),
        pytest.param(["status", "runs/tiny"], HEAVY, id="status"),
        pytest.param(["status", JOB, "--json"], HEAVY, id="status of a job"),
        pytest.param(["run", JOB, "--set", "name=anew", *FEW], {"torch._dynamo", "sympy"}, id="run of all phases"),
    ],
)
def test_commands_load_what_they_need(finished_workdir: Workdir, words: list[str], absent: set[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *words],
        cwd=finished_workdir.folder,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode in ((2,) if "nothing" in words or "nothing=1" in words else (0,)), done.stderr
    loaded = set(done.stderr.splitlines()[-1].split())
    assert "gnnsoup_hpc.cli.commands" in loaded
    assert not loaded & absent


@pytest.fixture(scope="module")
def finished_workdir(tmp_path_factory: pytest.TempPathFactory) -> Workdir:
    """A finished run; not to be changed."""
    workdir = kit.make_workdir(tmp_path_factory.mktemp("finished"))
    kit.succeeds(workdir.gnnsoup_here("run", *FEW))
    return workdir


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A user's and a temporary folder; the former's parent."""
    home = tmp_path / "home"
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    return home


def choose_for_a_locked_package() -> tuple[str | None, str]:
    return base.choose_cache("", Path(NO_HOME))


def test_the_packages_own_folder_is_the_usual_place(locked: Path, tmp_path: Path) -> None:
    assert base.choose_cache("", tmp_path / "package") == ("", "")


def test_a_folder_that_is_given_is_taken(locked: Path, tmp_path: Path) -> None:
    assert base.choose_cache(str(tmp_path / "given"), Path(NO_HOME)) == ("", "")
    folder, said = base.choose_cache(NO_HOME, tmp_path)
    assert folder is None
    assert said == f"{NO_HOME} (NUMBA_CACHE_DIR) cannot be written: {ANEW}"


def test_a_locked_package_uses_the_users_folder(locked: Path) -> None:
    folder, said = choose_for_a_locked_package()
    assert folder == str(locked / "gnnsoup_hpc")
    assert said == f"compiled kernels are kept in {folder}, for the package's folder cannot be written"
    assert Path(folder).stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("home", [NO_HOME, "relative"])
def test_without_a_home_it_is_a_private_folder_among_temporary_ones(
    monkeypatch: pytest.MonkeyPatch, locked: Path, tmp_path: Path, home: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", home)
    monkeypatch.chdir(tmp_path)
    folder, said = choose_for_a_locked_package()
    assert folder == str(tmp_path / "temporary" / f"gnnsoup_hpc-{os.getuid()}")
    assert folder in said
    assert Path(folder).stat().st_mode & 0o777 == 0o700
    assert not (tmp_path / "relative").exists()


@pytest.mark.parametrize("trap", ["others may write", "group may write", "a link", "a file", "another's"])
def test_what_others_may_have_put_code_into_is_never_used(
    monkeypatch: pytest.MonkeyPatch, locked: Path, tmp_path: Path, trap: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", NO_HOME)
    folder = tmp_path / "temporary" / f"gnnsoup_hpc-{os.getuid()}"
    if trap == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "elsewhere")
    elif trap == "a file":
        folder.touch()
    else:
        folder.mkdir(mode=0o700)
    if trap.endswith("may write"):
        folder.chmod(0o702 if trap.startswith("others") else 0o720)
    if trap == "another's":
        if os.geteuid() != 0:
            pytest.skip("only root can give a folder away")
        os.chown(folder, 65534, 65534)
    assert choose_for_a_locked_package() == (None, f"no folder can be written: {ANEW}")


def test_without_any_place_for_temporary_files(monkeypatch: pytest.MonkeyPatch, locked: Path) -> None:
    def none() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setenv("XDG_CACHE_HOME", NO_HOME)
    monkeypatch.setattr("tempfile.gettempdir", none)
    assert choose_for_a_locked_package() == (None, f"no folder can be written: {ANEW}")


def test_machine_code_that_cannot_be_saved_is_used_all_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(self: object, sig: object, data: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numba.core.caching.Cache.save_overload", full)
    monkeypatch.setattr(base, "FOLDER", "")
    assert base.compile_kernel(_one_more)(1) == 2


def _one_more(number: int) -> int:
    return number + 1


class User:
    """Another user, and a copy of the package that it may read alone."""

    def __init__(self, folder: Path, uid: int) -> None:
        if os.geteuid() != 0 or not shutil.which("setpriv"):
            pytest.skip("only root can be another user")
        self.uid, self.workdir = uid, kit.make_workdir(folder / "work")
        shutil.copytree(PACKAGE, folder / "site" / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(PACKAGE.parent / "jobs", folder / "site" / "jobs")
        self.site, self.own, self.temporary = folder / "site", folder / "own", folder / "temporary"
        self.home = folder / "home"
        for place in (self.own, self.temporary, self.home):
            place.mkdir()
            os.chown(place, uid, uid)
        self._environment = {"PYTHONPATH": str(self.site), "TMPDIR": str(self.temporary)}
        if self("--version").returncode:
            pytest.skip("another user cannot start this Python")

    def __call__(self, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """`gnnsoup WORDS` as this user, without HOME unless `variables` name one."""
        known = {"PATH": os.environ["PATH"]} | self._environment | variables
        user = ["setpriv", f"--reuid={self.uid}", f"--regid={self.uid}", *MAY_READ]
        return subprocess.run(
            [*user, sys.executable, "-m", "gnnsoup_hpc", *words],
            cwd=self.workdir.folder,
            env=known,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )


def known_users() -> dict[str, int]:
    """One that the machine knows, and one that it does not, as in containers."""
    return {"nobody": 65534, "a number without a name": 54321}


@pytest.fixture
def user(request: pytest.FixtureRequest, tmp_path: Path) -> User:
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(folder.stat().st_mode | 0o055)
    return User(tmp_path, known_users()[request.param])


def of_users(here: str) -> pytest.MarkDecorator:
    """One of them, and in the slow tests the others too."""
    others = [pytest.param(name, marks=pytest.mark.slow) for name in known_users() if name != here]
    return pytest.mark.parametrize("user", [here, *others], indirect=True)


@of_users("a number without a name")
def test_another_user_without_a_home(user: User) -> None:
    mine = ("--set", f"runs={user.own}")
    for words in (["--version"], ["--help"], ["job", JOB], ["status", JOB]):
        assert kit.succeeds(user(*words))
    cache = user.temporary / f"gnnsoup_hpc-{user.uid}"
    prepared = user("prepare", JOB, *mine)
    kit.succeeds(prepared)
    assert prepared.stderr == f"{KEPT}{cache}, for the package's folder cannot be written\n"
    kit.succeeds(user("run", JOB, *mine, *FEW))
    assert list(cache.rglob("*.nbc"))
    for words in (["status", f"{user.own}/tiny"], ["report", f"{user.own}/tiny"]):
        assert "2" in kit.succeeds(user(*words))
    assert not list(user.site.rglob("__pycache__"))


@of_users("nobody")
def test_another_user_with_a_home_and_with_nothing(user: User) -> None:
    mine = ("--set", f"runs={user.own}")
    with_home = user("prepare", JOB, *mine, HOME=str(user.home))
    kit.succeeds(with_home)
    assert f"{KEPT}{user.home}/.cache/gnnsoup_hpc, " in with_home.stderr
    (user.temporary / f"gnnsoup_hpc-{user.uid}").mkdir()  # which is root's, so what lies there is not trusted
    nothing = user("prepare", JOB, *mine, HOME=NO_HOME, NUMBA_CACHE_DIR="")
    kit.succeeds(nothing)
    assert nothing.stderr == f"gnnsoup: no folder can be written: {ANEW}\n"
    given = user("prepare", JOB, *mine, NUMBA_CACHE_DIR=str(user.own / "cache"))
    assert (kit.succeeds(given), given.stderr) == (given.stdout, "")
    refused = user("prepare", JOB, *mine, NUMBA_CACHE_DIR=NO_HOME)
    kit.succeeds(refused)
    assert refused.stderr == f"gnnsoup: {NO_HOME} (NUMBA_CACHE_DIR) cannot be written: {ANEW}\n"


@pytest.mark.parametrize("user", ["a number without a name"], indirect=True)
def test_a_home_that_is_not_known_is_one_line(user: User) -> None:
    kit.fails(user("job", "~/mine.toml"), "~/mine.toml: no home folder is known for ~")
    kit.fails(user("status", "~/runs/mine"), "no home folder is known for ~")
