"""The shape of the package: who may import whom, what is public, how long a file is, what an import costs."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "asynchub"

ROWS = (
    ("errors",),
    ("ancestry", "events", "patterns", "ranks"),
    ("requests", "stretches", "dataflow", "bridging"),
    ("declaring",),
    ("answering", "eventforms"),
    ("compiling", "scalars", "columns", "codec", "loops", "every", "channels"),
    ("windows", "pending", "pausing", "allowing"),
    ("ledger", "applying"),
    ("folding",),
    ("history",),
    ("past", "state", "live", "going_back"),
    ("filing",),
    ("statefile", "taps", "holding", "locking"),
    ("intake", "routing", "stations", "chunks", "control_folder"),
    ("snapshot", "generations", "batches"),
    ("hubfile", "saving"),
    ("bus",),
    ("handling",),
    ("subscription",),
    ("settled", "catching", "collecting"),
    ("rounds",),
    ("control", "runner", "watch"),
    ("tapping",),
    ("terms",),
    ("standing",),
    ("attachments",),
    ("lifetime",),
    ("manager",),
    ("publishing",),
    ("recording",),
    ("record",),
    ("feed",),
    ("resuming",),
    ("hub",),
    ("testing", "trying", "tables", "specimens", "redirecting"),
    ("contract", "plugins", "rich_live"),
    ("rules",),
    ("subscribers", "journal", "devices", "pipeline", "bridges", "integrations"),
    ("dashboard",),
    ("recorded",),
    ("lines",),
    ("what_if", "exporting", "inspecting", "verifying", "looking", "piping", "afar", "spooling"),
    ("weighing", "overlay_rows"),
    ("overlaying",),
    ("demo",),
    ("demo_ranks",),
    ("cli_afar", "cli_looking"),
    ("cli",),
    ("__init__", "__main__"),
)
"""A module or folder imports only from rows above its own; some names are of rooms to come."""

MAX_LINES = 400
MAX_IMPORT_COST = 0.3
"""Seconds of CPU time that ``import asynchub`` may take beyond its dependencies without torch."""

NOT_LOADED = (
    "IPython",
    "PIL",
    "accelerate",
    "ignite",
    "keras",
    "lightning",
    "matplotlib",
    "mlflow",
    "mmengine",
    "nats",
    "opentelemetry",
    "optuna",
    "prometheus_client",
    "psutil",
    "pynvml",
    "pytest",
    "requests",
    "rich",
    "scipy",
    "sklearn",
    "spdl",
    "sqlite3",
    "starlette",
    "tensorboard",
    "tensorboardX",
    "textual",
    "torch",
    "tqdm",
    "trackio",
    "transformers",
    "trio",
    "uvicorn",
    "uvloop",
    "wandb",
    "websockets",
)

PICKLES = {"_pickle", "cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}


def _module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {_module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
every_module = pytest.mark.parametrize("module", FILES)


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(FILES[module].read_text(encoding="utf-8"), str(FILES[module]))


def _imports(module: str) -> Iterator[tuple[int, str, str | None]]:
    """Yield line, module and name of each import, those under ``TYPE_CHECKING`` and in functions too."""
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, None
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield node.lineno, "." * node.level + (node.module or ""), alias.name


def _own_imports(module: str) -> Iterator[tuple[int, str, str | None]]:
    """Yield the imports from this package."""
    for line, source, name in _imports(module):
        if source.split(".")[0] in ("asynchub", ""):
            yield line, source, name


def _room(module: str) -> str:
    """Return the module or folder directly under ``asynchub`` that ``module`` belongs to."""
    _, *rest = module.split(".")
    return rest[0] if rest else "__init__"


def _row(room: str) -> int | None:
    return next((number for number, rooms in enumerate(ROWS) if room in rooms), None)


def _defined(body: list[ast.stmt]) -> Iterator[str]:
    """Yield the names that statements at module level define; an import defines none."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                yield from (name.id for name in ast.walk(target) if isinstance(name, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id
        elif isinstance(node, ast.If | ast.Try | ast.With):
            for part in ("body", "orelse", "finalbody"):
                yield from _defined(getattr(node, part, []))
            for handler in getattr(node, "handlers", []):
                yield from _defined(handler.body)


def _public(module: str) -> tuple[str, ...] | None:
    """Return the ``__all__`` of a module, or None if it has none that is a tuple of names."""
    for node in _tree(module).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            try:
                value = ast.literal_eval(node.value)
            except ValueError:
                return None
            return value if isinstance(value, tuple) and all(isinstance(name, str) for name in value) else None
    return None


def _is_empty(module: str) -> bool:
    """Tell whether a module holds no code but a docstring and ``from __future__``."""
    return not [
        node
        for node in _tree(module).body
        if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        and not (isinstance(node, ast.ImportFrom) and node.module == "__future__")
    ]


@every_module
def test_a_module_has_its_place_in_the_order(module: str) -> None:
    assert _row(_room(module)) is not None, f"{module}: give {_room(module)!r} a row in ROWS, with those it may import"


@every_module
def test_imports_point_to_rows_above(module: str) -> None:
    room = _room(module)
    row = _row(room)
    for line, source, _ in _own_imports(module):
        assert source.startswith("asynchub"), f"{module}:{line}: write {source} as an absolute import"
        above = _row(_room(source))
        if row is not None and above is not None and _room(source) != room:
            assert above < row, f"{module}:{line}: {room} may not import from {_room(source)}: it does not stand above"


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {module: {source for _, source, _ in _own_imports(module) if source != module} for module in FILES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@every_module
def test_a_name_is_imported_from_the_module_that_defines_it(module: str) -> None:
    for line, source, name in _own_imports(module):
        where = f"{module}:{line}"
        assert name is not None, f"{where}: import names from {source}, not the module"
        assert source != "asynchub", f"{where}: import {name} from the module that defines it, not from asynchub"
        assert source in FILES, f"{where}: there is no module {source}"
        assert name in set(_defined(_tree(source).body)), f"{where}: {name} is not defined in {source}"


@every_module
def test_public_means_listed_in_all(module: str) -> None:
    if module.endswith("__main__") or _is_empty(module):
        return
    public = _public(module)
    assert public is not None, f"{module}: __all__ must be a tuple of names"
    assert len(set(public)) == len(public), f"{module}: __all__ names something twice"
    if FILES[module].name != "__init__.py":
        defined = set(_defined(_tree(module).body))
        assert set(public) <= defined, f"{module}: __all__ names what is not defined here: {set(public) - defined}"
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    unlisted = [
        node.name
        for node in _tree(module).body
        if isinstance(node, definitions) and not node.name.startswith("_") and node.name not in public
    ]
    assert not unlisted, f"{module}: list in __all__, or begin with an underscore: {unlisted}"


@pytest.mark.parametrize("module", [name for name, path in FILES.items() if path.name == "__init__.py"])
def test_the_public_names_of_a_package_can_be_had(module: str) -> None:
    package = importlib.import_module(module)
    for name in getattr(package, "__all__", ()):
        assert hasattr(package, name), f"{module}.{name} cannot be had"


def _written_docstring(value: object, name: str) -> str:
    """Return the docstring of a class or function; what ``dataclass`` makes up does not count."""
    text = (value.__dict__.get("__doc__") if isinstance(value, type) else getattr(value, "__doc__", None)) or ""
    return "" if text.startswith(f"{name}(") else text


@pytest.mark.parametrize("name", _public("asynchub") or ())
def test_a_public_name_is_documented(name: str) -> None:
    value = getattr(importlib.import_module("asynchub"), name)
    if not isinstance(value, type | ModuleType) and not inspect.isroutine(value):
        return  # a constant or a type alias
    assert _written_docstring(value, name), f"{name} has no docstring"
    if isinstance(value, type):
        for member_name, member in vars(value).items():
            plain = getattr(member, "__func__", member)
            if not member_name.startswith("_") and (inspect.isroutine(plain) or isinstance(plain, property)):
                assert inspect.getdoc(getattr(value, member_name)), f"{name}.{member_name} has no docstring"


@every_module
def test_a_module_says_what_it_is(module: str) -> None:
    text = FILES[module].read_text(encoding="utf-8")
    if not text.strip():
        return
    assert ast.get_docstring(_tree(module)), f"{module} has no docstring"
    if not _is_empty(module):
        futures = [name for _, source, name in _imports(module) if source == "__future__"]
        assert futures == ["annotations"], f"{module}: begin with `from __future__ import annotations`"


@every_module
def test_a_file_is_no_longer_than_400_lines(module: str) -> None:
    lines = len(FILES[module].read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_LINES, f"{module} has {lines} lines"


@every_module
def test_no_assert_statement_stands_in_for_validation(module: str) -> None:
    lines = [node.lineno for node in ast.walk(_tree(module)) if isinstance(node, ast.Assert)]
    assert not lines, f"{module}: assert in lines {lines}"


@every_module
def test_nothing_is_pickled(module: str) -> None:
    used = {source.split(".")[0] for _, source, _ in _imports(module)} & PICKLES
    assert not used, f"{module} imports {used}"


@every_module
def test_no_error_is_swallowed_unseen(module: str) -> None:
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.ExceptHandler):
            where = f"{module}:{node.lineno}"
            assert node.type is not None, f"{where}: say which errors are caught"
            broad = isinstance(node.type, ast.Name) and node.type.id in ("BaseException", "Exception")
            assert not (broad and all(isinstance(part, ast.Pass) for part in node.body)), f"{where}: nothing is done"


def test_the_package_ships_its_types() -> None:
    assert (PACKAGE / "py.typed").is_file()


def _python(code: str) -> str:
    """Run code in an interpreter of its own, from the root of the repository, and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


USE = "import asynchub; getattr(asynchub, 'MessageHub', None)"


def test_importing_the_package_loads_neither_torch_nor_an_extra() -> None:
    loaded = set(_python(f"import sys; {USE}; print(*sys.modules)").split())
    assert "asynchub" in loaded
    assert not loaded.intersection(NOT_LOADED)


def test_importing_the_package_costs_little_more_than_its_dependencies() -> None:
    dependencies = "import anyio, msgpack, numpy"
    clock = "import time; print(time.process_time())"
    without, whole = [], []
    for _ in range(5):  # in turn, so that a busy machine weighs on both
        without.append(float(_python(f"{dependencies}; {clock}")))
        whole.append(float(_python(f"{dependencies}; {USE}; {clock}")))
    assert min(whole) - min(without) < MAX_IMPORT_COST
