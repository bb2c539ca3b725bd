"""The subscribers that are installed, by name: those of this package, and those that other packages bring.

A package brings a subscriber by naming it in its metadata, in the group ``asynchub.subscribers``::

    [project.entry-points."asynchub.subscribers"]
    StopAbove = "package.module:StopAbove"

Cost: no subscriber of this package is imported to be listed, nor what it needs; one of another package is. What cannot
    be imported is listed with the reason.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import importlib
import importlib.util
import inspect
import json
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.abc import InspectLoader
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, NamedTuple

from asynchub.errors import ArgumentError
from asynchub.tables import Column, table_lines

__all__ = ("GROUP", "Listed", "find_subscriber", "installed_subscribers", "subscribers_json", "subscribers_table")

GROUP = "asynchub.subscribers"
"""The group of entry points; also the package that ours are in."""
OWN = "asynchub"


class _Own(NamedTuple):
    """A subscriber of this package.

    Attributes:
        role: its role.
        module: the file it is in.
        extra: the extra that it needs; empty for none.
        needs: the modules that this extra brings, one of which must be there.
    """

    role: Literal["control", "observer"]
    module: str
    extra: str = ""
    needs: tuple[str, ...] = ()


# Not entry points of our own: those are read from metadata that an editable install keeps as they were on its day.
_OWN = {
    "ASHA": _Own("control", "trials"),
    "AutoClip": _Own("control", "clipping"),
    "BatchSizeScheduler": _Own("control", "batch_size"),
    "CheckpointPolicy": _Own("control", "checkpoint_policy"),
    "ConsoleLogger": _Own("observer", "console"),
    "CsvLogger": _Own("observer", "csv"),
    "DeviceStatsMonitor": _Own("observer", "device_stats", "system", ("psutil",)),
    "EarlyStopping": _Own("control", "early_stopping"),
    "GradNoiseScale": _Own("control", "noise_scale"),
    "HubMonitor": _Own("observer", "hub_monitor"),
    "JsonlLogger": _Own("observer", "jsonl"),
    "LearningRateMonitor": _Own("control", "learning_rate"),
    "MLflowLogger": _Own("observer", "mlflow", "mlflow", ("mlflow",)),
    "MatplotlibPlot": _Own("observer", "plot", "plot", ("matplotlib",)),
    "MaxSteps": _Own("control", "limits"),
    "MedianStopping": _Own("control", "trials"),
    "NanGuard": _Own("control", "nan_guard"),
    "OTelMetrics": _Own("observer", "otel", "otel", ("opentelemetry",)),
    "OptunaPruning": _Own("control", "optuna", "optuna", ("optuna",)),
    "PrometheusExporter": _Own("observer", "prometheus", "prometheus", ("prometheus_client",)),
    "ReduceLROnPlateau": _Own("control", "plateau"),
    "RemoteControl": _Own("observer", "remote_control"),
    "RichProgress": _Own("observer", "rich_progress", "rich", ("rich",)),
    "SQLiteLogger": _Own("observer", "sqlite"),
    "SchedulerStep": _Own("control", "scheduler_step"),
    "SpikeDetection": _Own("control", "spikes"),
    "StepTimeMonitor": _Own("observer", "monitors"),
    "StopOnFile": _Own("observer", "stop_on"),
    "StopOnSignal": _Own("control", "stop_on"),
    "TensorBoardLogger": _Own("observer", "tensorboard", "tensorboard", ("tensorboard", "tensorboardX")),
    "ThroughputMonitor": _Own("observer", "monitors"),
    "Timer": _Own("control", "limits"),
    "TqdmProgress": _Own("observer", "tqdm_progress", "tqdm", ("tqdm",)),
    "TrackioLogger": _Own("observer", "trackio", "trackio", ("trackio",)),
    "WandbLike": _Own("observer", "wandb_like"),
    "WandbLogger": _Own("observer", "wandb", "wandb", ("wandb",)),
    "ZClip": _Own("control", "clipping"),
}


@dataclass(frozen=True, slots=True)
class Listed:
    """A subscriber that is installed.

    Attributes:
        name: what it is called.
        role: ``"control"`` or ``"observer"``; empty if it could not be imported.
        summary: the first line of its docstring.
        path: where it is: ``package.module.Class``.
        package: the distribution that brings it.
        extra: the extra of this package that must be installed first; empty if none is missing.
        error: why it cannot be used; empty if it can.
    """

    name: str
    role: str
    summary: str
    path: str
    package: str
    extra: str = ""
    error: str = ""


def installed_subscribers() -> list[Listed]:
    """Return the subscribers that are installed, those of this package first, each lot by name.

    Imports those of other packages; what one of them raises is in its ``error``.
    """
    others = sorted(_others(), key=lambda one: (one.name.casefold(), one.value))
    return [*(_own(name) for name in sorted(_OWN, key=str.casefold)), *(_other(entry) for entry in others)]


def find_subscriber(name: str) -> Any:
    """Return the class that is installed as ``name``, or that stands at the path ``package.module.Class``.

    Raises:
        ArgumentError: there is none, or there are several.
        ImportError: it cannot be imported.
    """
    if name in _OWN:
        return getattr(importlib.import_module(f"{GROUP}.{_OWN[name].module}"), name)
    found = [entry for entry in _others() if entry.name == name]
    if len(found) > 1:
        paths = " or ".join(sorted(_path_of(entry) for entry in found))
        raise ArgumentError(f"{name!r} is brought by several packages; write {paths}")
    if found:
        return _loaded(found[0])
    if "." in name:
        return _at(name)
    known = [*_OWN, *(entry.name for entry in _others())]
    near = difflib.get_close_matches(name, known, 3, 0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "`asynchub subscribers` lists what there is"
    raise ArgumentError(f"there is no subscriber {name!r}; {hint}")


def subscribers_table(listed: Sequence[Listed], width: int) -> str:
    """Return a table of subscribers; below it, what those with a ``!`` lack.

    Args:
        listed: at least one.
        width: characters that a line may have, if that can be kept.
    """
    others = any(one.package != OWN for one in listed)
    columns = [
        Column("", ["!" if one.error else "" for one in listed]),
        Column("name", [one.name for one in listed], text=True),
        Column("role", [one.role for one in listed], text=True),
        Column("from" * others, ["" if one.package == OWN else one.package for one in listed], text=True),
    ]
    left = table_lines(columns, width)
    indent = max(map(len, left)) + 2
    lines = []
    for line, summary in zip(left, ["does", *(one.summary for one in listed)], strict=True):
        first, *more = textwrap.wrap(summary, max(width - indent, 30)) or [""]
        lines += [f"{line:<{indent}}{first}".rstrip(), *(" " * indent + one for one in more)]
    return "\n".join([*lines, *(f"! {one.name}: {one.error}" for one in listed if one.error)])


def subscribers_json(listed: Iterable[Listed]) -> str:
    """Return subscribers as a JSON array."""
    return json.dumps([dataclasses.asdict(one) for one in listed], indent=2)


# --- of this package


def _own(name: str) -> Listed:
    own = _OWN[name]
    there = any(importlib.util.find_spec(module) is not None for module in own.needs)
    missing = "" if there or not own.extra else own.extra
    error = f"install it with: pip install '{OWN}[{missing}]'" if missing else ""
    module = f"{GROUP}.{own.module}"
    return Listed(name, own.role, _summary(module, name), f"{module}.{name}", OWN, missing, error)


@cache
def _tree(module: str) -> ast.Module:
    spec = importlib.util.find_spec(module)
    loader = None if spec is None else spec.loader
    source = loader.get_source(module) if isinstance(loader, InspectLoader) else None
    return ast.parse(source or "")


def _summary(module: str, name: str) -> str:
    """Return the first line of the docstring of a class, without importing its module."""
    for node in _tree(module).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return _first_line(ast.get_docstring(node))
    return ""


def _first_line(text: str | None) -> str:
    return inspect.cleandoc(text).partition("\n")[0].replace("``", "") if text else ""


# --- of others


def _others() -> list[EntryPoint]:
    """Return the entry points, each once, though a folder may be on the path twice."""
    return list({(one.name, one.value): one for one in entry_points(group=GROUP)}.values())


def _path_of(entry: EntryPoint) -> str:
    return entry.value.split("[")[0].strip().replace(":", ".")


def _package_of(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else ""


def _loaded(entry: EntryPoint) -> Any:
    try:
        subscriber = entry.load()
    except Exception as error:  # whatever somebody's module does when it is imported
        raise ImportError(
            f"{entry.name!r} of {_package_of(entry)} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(subscriber, type):
        raise ImportError(f"{entry.name!r} of {_package_of(entry)} must name a class, got {subscriber!r:.80}")
    return subscriber


def _other(entry: EntryPoint) -> Listed:
    path, package = _path_of(entry), _package_of(entry)
    try:
        subscriber = _loaded(entry)
    except ImportError as error:
        return Listed(entry.name, "", "", path, package, error=str(error))
    role = str(getattr(subscriber, "role", "observer"))
    return Listed(entry.name, role, _first_line(subscriber.__doc__), path, package)


def _at(path: str) -> Any:
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise  # it is there, and needs something that is not
        raise ArgumentError(f"there is no module {error.name!r}; {path!r} must be package.module.Class") from error
    if not isinstance(found, type):
        raise ArgumentError(f"{module!r} has no class {name!r}; {path!r} must be package.module.Class")
    return found
