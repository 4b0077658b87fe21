"""The order of the rooms, read from the code: imports point one way, and some things have one user alone."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "gnnsoup_hpc"

# From the top, a room a line: a room imports from lines below its own, and within itself.
ORDER = [
    "api",
    "cli",
    "bench",
    "analysis",
    "soup",
    "train",
    "evaluation",
    "memory",
    "alignment",
    "data",
    "engine",
    "io",
    "models",
    "graph",
    "runtime",
    "config",
    "utils",
    "types",
    "errors",
    "__init__",
]

# What only one room may import, and what is there for it while the program runs.
ONLY_USERS = {
    "h5py": {"io"},
    "pymetis": {"data.partition"},
    "numba": {"engine.compiled"},
    "triton": {"engine.triton"},
    "threadpoolctl": {"engine.threads"},
    "mpi4py": {"runtime"},
    "torch_geometric": {"models", "data.sources", "graph.sampling", "bench", "io.standalone"},  # the last: for exports
    "ogb": {"data.sources"},
    "pandas": {"api", "data.sources", "io.tables"},
}
LAUNCHERS_VARIABLE = re.compile(r"(SLURM|PMI|PMIX|OMPI|MPI|HYDRA)_[A-Z_]+")
MOST_LINES_OF_A_FUNCTION = 50


@dataclass(frozen=True)
class Module:
    """One file of the package; `name` is dotted and leaves the package's own name out."""

    name: str
    path: Path

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.path.read_text(encoding="utf-8"))

    @cached_property
    def for_types(self) -> set[ast.AST]:
        """Everything under `if TYPE_CHECKING`."""
        blocks = [n for n in ast.walk(self.tree) if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
        return {inner for block in blocks for inner in ast.walk(block)}

    def imports(self, types_too: bool = True) -> Iterator[str]:
        """Full dotted names of what is imported, wherever in the file."""
        for node in ast.walk(self.tree):
            if node in self.for_types and not types_too:
                continue
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{self.path} imports relatively"
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules() -> dict[str, Module]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        found[name] = Module(name, path)
    return found


MODULES = modules()
every_module = pytest.mark.parametrize("module", MODULES.values(), ids=lambda module: module.name)


def imported(module: Module, types_too: bool = True) -> set[str]:
    """Modules of the package that a module imports."""
    return {target for name in module.imports(types_too) if (target := target_of(name)) and target != module.name}


def target_of(name: str) -> str | None:
    """The module of the package that a dotted import leads to: `gnnsoup_hpc.io.files.put` is `io.files`."""
    first, _, rest = name.partition(".")
    if first != PACKAGE.name:
        return None
    while rest and rest not in MODULES:
        rest = rest.rpartition(".")[0]
    return rest or "__init__"


def room_of(name: str) -> str:
    """The room that a module belongs to; entry points only call cli, and count as it."""
    return "cli" if name.rpartition(".")[2] == "__main__" else name.partition(".")[0]


@every_module
def test_imports_point_down(module: Module) -> None:
    room = room_of(module.name)
    above = ORDER[: ORDER.index(room)]
    assert [target for target in imported(module) if room_of(target) in above] == []


def test_every_room_has_its_line() -> None:
    assert len(set(ORDER)) == len(ORDER)
    assert {room_of(name) for name in MODULES} == set(ORDER)


def test_no_module_imports_itself_through_others() -> None:
    try:
        TopologicalSorter({name: imported(module) for name, module in MODULES.items()}).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


def test_methods_never_import_each_other() -> None:
    methods = {name: module for name, module in MODULES.items() if name.startswith("soup.methods.")}
    assert len(methods) >= 4
    assert {name: found for name, module in methods.items() if (found := imported(module) & methods.keys())} == {}


@pytest.mark.parametrize(("library", "rooms"), ONLY_USERS.items())
def test_some_libraries_have_few_users(library: str, rooms: set[str]) -> None:
    users = {
        name
        for name, module in MODULES.items()
        if any(imported.partition(".")[0] == library for imported in module.imports(types_too=False))
    }
    assert all(any(f"{user}.".startswith(f"{room}.") for room in rooms) for user in users), users
    assert all(any(f"{user}.".startswith(f"{room}.") for user in users) for room in rooms), users


def test_only_ranks_reads_the_environment_and_launchers_variables() -> None:
    readers = set()
    for name, module in MODULES.items():
        for node in ast.walk(module.tree):
            text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            attribute = node.attr if isinstance(node, ast.Attribute) else ""
            if LAUNCHERS_VARIABLE.fullmatch(text) or attribute in {"environ", "getenv", "COMM_WORLD"}:
                readers.add(name)
    # OpenMP is told how to wait before anything loads it; variables may stand in the paths of a job.
    assert readers == {"__main__", "runtime.launch", "utils.paths"}


def test_mpi_is_imported_only_when_it_is_needed() -> None:
    at_the_top = [node for node in MODULES["runtime.launch"].tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert not any("mpi4py" in ast.unparse(node) for node in at_the_top)


@every_module
def test_no_worker_is_forked(module: Module) -> None:
    """A process that was forked after MPI started may hang or corrupt memory; threads and new programs are safe."""
    forks = {"multiprocessing", "torch.multiprocessing", "concurrent.futures.ProcessPoolExecutor", "pty"}
    assert not [name for name in module.imports() if any(name == fork or name.startswith(f"{fork}.") for fork in forks)]
    calls = {ast.unparse(node.func) for node in ast.walk(module.tree) if isinstance(node, ast.Call)}
    assert not calls & {"os.fork", "os.forkpty"}
    keywords = {word.arg for node in ast.walk(module.tree) if isinstance(node, ast.Call) for word in node.keywords}
    assert not keywords & {"num_workers", "preexec_fn"}


@every_module
def test_functions_are_short(module: Module) -> None:
    functions = [node for node in ast.walk(module.tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = {node.name: (node.end_lineno or node.lineno) - node.lineno + 1 for node in functions}
    assert {name: length for name, length in lengths.items() if length > MOST_LINES_OF_A_FUNCTION} == {}


def compared_words(module: Module) -> Iterator[str]:
    """Strings that a module compares with something, matches, or looks up in a dictionary that it writes out."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Compare):
            operands = [node.left, *node.comparators]
            inner = [each for operand in operands for each in getattr(operand, "elts", [operand])]
        elif isinstance(node, ast.MatchValue):
            inner = [node.value]
        elif isinstance(node, ast.Dict):
            inner = [key for key in node.keys if key is not None]
        elif isinstance(node, ast.Subscript):
            inner = [node.slice]
        else:
            continue
        yield from (each.value for each in inner if isinstance(each, ast.Constant) and isinstance(each.value, str))


@every_module
def test_kinds_of_models_are_told_apart_in_models_and_engines_alone(module: Module) -> None:
    of_pickles = {"module"} if module.name == "io.pickled" else set()  # torch's own word in a file
    if room_of(module.name) not in ("models", "engine"):
        assert {"gcn", "sage", "gat", "module"} & set(compared_words(module)) - of_pickles == set()


def test_no_class_name_occurs_twice() -> None:
    found: dict[str, list[str]] = {}
    for name, module in MODULES.items():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, []).append(name)
    assert {name: places for name, places in found.items() if len(places) > 1} == {}


def test_ranks_speak_through_comm_alone() -> None:
    """No orders by name, no messages of one's own: what ranks do together are the collectives of runtime/comm.py."""
    calls = {
        "send",
        "recv",
        "isend",
        "irecv",
        "Isend",
        "Irecv",
        "iprobe",
        "probe",
        "Ibcast",
        "Iallgather",
        "Iallgatherv",
    }
    users = {
        name
        for name, module in MODULES.items()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute) and node.attr in calls
    }
    assert users == {"runtime.comm"}
