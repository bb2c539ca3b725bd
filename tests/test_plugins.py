"""Subscribers by name: ours without importing what they need, and those of other packages, in whatever state."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import asynchub.subscribers
from asynchub.errors import ArgumentError
from asynchub.plugins import Listed, find_subscriber, installed_subscribers, subscribers_table
from asynchub.subscribers.early_stopping import EarlyStopping

ROOT = Path(__file__).parent.parent
OURS = [one for one in installed_subscribers() if one.package == "asynchub"]

PACKAGE = '''
"""Rules of somebody else's."""

from asynchub.events import ScalarUpdated
from asynchub.requests import StopRequested


class StopAbove:
    """Request a stop when ``monitor`` is above ``limit``.

    The rest of the docstring is not shown.
    """

    role = "control"
    mode = "min"

    def __init__(self, monitor, *, limit=10.0):
        self.monitor = monitor
        self.keys = (monitor,)
        self.limit = limit
        self.highest = None

    async def __call__(self, events):
        async for event in events:
            if not isinstance(event, ScalarUpdated) or not event.count:
                continue
            value = event.value / event.count
            self.highest = value if self.highest is None else max(value, self.highest)
            if value > self.limit:
                events.request(StopRequested(reason=f"{value:g} is above {self.limit:g}"))

    def state_dict(self):
        return {"highest": self.highest}

    def load_state_dict(self, state):
        self.highest = state["highest"]


class Quiet:
    async def __call__(self, events):
        async for event in events:
            pass


def function(events):
    pass
'''

ENTRY_POINTS = """
[asynchub.subscribers]
StopAbove = others_rules:StopAbove
Quiet = others_rules:Quiet
Function = others_rules:function
Missing = others_rules:Missing
Broken = others_broken:Anything
Lacking = others_lacking:Anything
EarlyStopping = others_rules:StopAbove
"""


def install(folder: Path, name: str, entry_points: str, **modules: str) -> None:
    """Write an installed package into a folder, as pip leaves it."""
    folder.mkdir(exist_ok=True)
    for module, text in modules.items():
        (folder / f"{module}.py").write_text(text)
    info = folder / f"{name}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(entry_points)


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a package that brings subscribers, good and bad ones."""
    folder = tmp_path_factory.mktemp("others")
    install(
        folder,
        "others-rules",
        ENTRY_POINTS,
        others_rules=PACKAGE,
        others_broken="raise RuntimeError('two\\nlines')",
        others_lacking="import no_such_package_anywhere",
    )
    return folder


def asynchub_with(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in an interpreter that has what is installed in ``folder``."""
    path = os.pathsep.join([str(folder), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-m", "asynchub", *arguments],
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# --- ours


def subscribers_of(module: str) -> list[str]:
    """Return the public classes of a module that are subscribers, if what it needs is installed."""
    try:
        loaded = importlib.import_module(f"asynchub.subscribers.{module}")
    except ImportError:
        return []
    return [
        name
        for name in getattr(loaded, "__all__", ())
        if isinstance(kind := getattr(loaded, name), type)
        and kind.__module__ == loaded.__name__
        and inspect.iscoroutinefunction(kind.__call__)
    ]


BASES = {"TrackerLogger", "TrialRule", "WindowMonitor"}
"""What others derive from, and nobody attaches."""


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # of what is imported
def test_every_subscriber_of_this_package_is_listed() -> None:
    modules = [one.name for one in pkgutil.iter_modules(asynchub.subscribers.__path__)]
    found = {name for module in modules for name in subscribers_of(module)} - BASES
    assert found - {one.name for one in OURS} == set()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # of what is imported
@pytest.mark.parametrize("listed", OURS, ids=lambda one: one.name)
def test_what_is_listed_is_there(listed: Listed) -> None:
    if importlib.util.find_spec(listed.path.rpartition(".")[0]) is None:
        pytest.skip("it is not written yet")
    if listed.error:
        pytest.skip(listed.error)
    kind = find_subscriber(listed.name)
    assert f"{kind.__module__}.{kind.__name__}" == listed.path
    assert kind.role == listed.role
    assert listed.summary
    assert listed.summary == inspect.cleandoc(kind.__doc__).splitlines()[0].replace("``", "")


def test_listing_ours_imports_none_of_them_nor_what_they_need() -> None:
    code = (
        "import sys; from asynchub.plugins import installed_subscribers; installed_subscribers();"
        "print(*sorted(one for one in sys.modules if one.startswith('asynchub.subscribers.') or '.' not in one))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not {one for one in loaded if one.startswith("asynchub.subscribers.")}
    assert not loaded & {"torch", "wandb", "mlflow", "matplotlib", "rich", "tqdm", "optuna", "pytest", "tensorboard"}


def test_an_extra_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # tensorboardX would do
    listed = {one.name: one for one in installed_subscribers()}
    assert listed["TqdmProgress"].extra == "tqdm"
    assert listed["TqdmProgress"].error == "install it with: pip install 'asynchub[tqdm]'"
    assert listed["TensorBoardLogger"].error == ""
    table = subscribers_table(list(listed.values()), 100).splitlines()
    assert "! TqdmProgress: install it with: pip install 'asynchub[tqdm]'" in table
    assert next(line for line in table if line.startswith("!")).startswith("!  TqdmProgress")


@pytest.mark.parametrize("width", [50, 80, 120])
def test_the_table_keeps_to_its_width(width: int) -> None:
    lines = subscribers_table([one for one in OURS if not one.error], width).splitlines()
    assert max(map(len, lines)) <= max(width, 62)


def test_a_name_is_found_and_so_is_a_path() -> None:
    assert find_subscriber("EarlyStopping") is EarlyStopping
    assert find_subscriber("asynchub.subscribers.early_stopping.EarlyStopping") is EarlyStopping
    with pytest.raises(ArgumentError, match="did you mean EarlyStopping"):
        find_subscriber("EarlyStoping")


# --- those of others


def test_others_are_listed_with_ours_and_a_broken_one_breaks_nothing(others: Path) -> None:
    done = asynchub_with(others, "subscribers", "--json")
    assert done.returncode == 0, done.stderr
    listed = {(one["package"], one["name"]): one for one in json.loads(done.stdout)}
    assert len(listed) == len(OURS) + 7
    good = listed["others-rules 1.2", "StopAbove"]
    assert good["role"] == "control"
    assert good["summary"] == "Request a stop when monitor is above limit."
    assert good["path"] == "others_rules.StopAbove"
    assert listed["others-rules 1.2", "Quiet"]["role"] == "observer"
    errors = {name: one["error"] for (_, name), one in listed.items() if one["error"]}
    assert "RuntimeError: two" in errors["Broken"]
    assert "No module named 'no_such_package_anywhere'" in errors["Lacking"]
    assert "AttributeError" in errors["Missing"]
    assert "must name a class" in errors["Function"]


def test_the_table_says_where_others_are_from(others: Path) -> None:
    lines = asynchub_with(others, "subscribers").stdout.splitlines()
    assert lines[0].split() == ["name", "role", "from", "does"]
    assert any("StopAbove" in line and "others-rules 1.2" in line for line in lines)
    assert any(line.startswith("! Broken: 'Broken' of others-rules 1.2 cannot be loaded") for line in lines)
    assert max(len(line) for line in lines if not line.startswith("! ")) <= 100


def recorded(folder: Path) -> Path:
    lines = [
        {"event": "ScalarUpdated", "seq": n, "time": float(n), "step": n, "key": "loss", "value": v, "count": 1}
        for n, v in enumerate((1.0, 5.0, 11.0, 30.0), 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return folder


def test_a_rule_of_others_is_tried_by_its_name_or_its_path(others: Path, tmp_path: Path) -> None:
    run = recorded(tmp_path)
    for name in ("StopAbove", "others_rules.StopAbove"):
        done = asynchub_with(others, "replay", str(run), "--rule", f"{name}:loss:limit=4,20,50", "--json")
        assert done.returncode == 0, done.stderr
        stops = [one["stop"] for one in json.loads(done.stdout)]
        assert [stop and stop["step"] for stop in stops] == [2, 4, None]


@pytest.mark.parametrize(
    ("rule", "status", "said"),
    [
        ("Quiet", 2, "Quiet is an observer"),
        ("Broken:loss", 1, "'Broken' of others-rules 1.2 cannot be loaded: RuntimeError"),
        ("Lacking:loss", 1, "no_such_package_anywhere"),
        ("StopAbov:loss", 2, "did you mean StopAbove"),
        ("StopAbove:loss:limt=3", 2, "no argument 'limt' (did you mean limit?); write e.g. StopAbove:val/loss"),
    ],
)
def test_a_rule_of_others_that_cannot_be_tried_is_explained(
    rule: str, status: int, said: str, others: Path, tmp_path: Path
) -> None:
    done = asynchub_with(others, "replay", str(recorded(tmp_path)), "--rule", rule)
    assert done.returncode == status
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_name_of_ours_stays_ours_and_one_of_several_packages_is_refused(
    others: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(
        tmp_path / "more",
        "more-rules",
        "[asynchub.subscribers]\nStopAbove = more_rules:StopAbove\n",
        more_rules=PACKAGE,
    )
    monkeypatch.syspath_prepend(str(others))
    monkeypatch.syspath_prepend(str(tmp_path / "more"))
    assert find_subscriber("EarlyStopping") is EarlyStopping
    with pytest.raises(ArgumentError, match=r"several packages; write more_rules.StopAbove or others_rules.StopAbove"):
        find_subscriber("StopAbove")
    found: Any = find_subscriber("more_rules.StopAbove")
    assert found.__module__ == "more_rules"


# --- the contract, in somebody else's tests

CONTRACT = """
from asynchub.contract import SubscriberContract
from others_rules import Quiet, StopAbove


class TestQuiet(SubscriberContract):
    def make(self, folder):
        return Quiet()


class TestStopAbove(SubscriberContract):
    def make(self, folder):
        return StopAbove("loss", limit=2.0)
"""


def test_others_run_the_contract_with_pytest_alone_and_it_finds_what_is_wrong(others: Path, tmp_path: Path) -> None:
    (tmp_path / "test_others.py").write_text(CONTRACT)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rf", "-p", "no:cacheprovider", "-p", "no:anyio", "test_others.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(others), str(ROOT)])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    failed = {line.split("::", 1)[1].split(" - ")[0] for line in done.stdout.splitlines() if line.startswith("FAILED")}
    refuses = "TestStopAbove::test_it_refuses_a_state_that_is_not_its_own_and_keeps_what_it_had"
    assert failed == {  # its load_state_dict looks at nothing
        *(f"{refuses}[{state}]" for state in ("None", "state1", "state2", "state3", "text")),
        "TestStopAbove::test_it_refuses_a_state_with_one_field_that_is_wrong_and_keeps_what_it_had",
    }, done.stdout
    assert "load_state_dict took an object() for 'highest'; it must raise StateDictError" in done.stdout


def test_importing_the_package_does_not_load_the_contract_or_pytest() -> None:
    code = "import sys, asynchub; print('asynchub.contract' in sys.modules, 'pytest' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_the_contract_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytest", None)
    monkeypatch.delitem(sys.modules, "asynchub.contract", raising=False)
    with pytest.raises(ModuleNotFoundError, match="pip install pytest"):
        importlib.import_module("asynchub.contract")
