"""A run in Trackio, on this machine: its points, its configuration, and why it stopped as an alert.

Direct: rows go straight to Trackio's storage, in the batches of this logger. ``trackio.init`` would start a thread that
    gathers for half a second in a list without a bound, and drops what it cannot write; and would print, ask who is
    logged in to a hub, and measure the machine. None of that happens: no run of the process, no server, no browser.
Value: the mean per sample, NaN and infinities as they are. A row is a point; its time is that of the event, its step
    that of the event, else how many updates of its key there were before.
Twice: a row has an identity made of ``seq`` and time, so what is delivered again adds nothing.
Rewound: what a resumed run does not come to again is not deleted: it becomes a run of its own, ``<name>, rewound 1``. A
    run that goes back to a state which an earlier resume had left has its points again; see ``trackio_cuts``.
Killed: a write is one transaction; what is handled survives the kill of the process.
"""

from __future__ import annotations

import importlib.util
import logging
import sqlite3
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import Any

from asynchub.errors import ArgumentError, StateDictError
from asynchub.events import Event, InfoUpdated, ScalarUpdated
from asynchub.requests import RequestApplied, StopRequested
from asynchub.subscribers.aggregation import Point
from asynchub.subscribers.backlog import Item
from asynchub.subscribers.configs import CONFIG_KEYS, check_config_keys
from asynchub.subscribers.delivery import TrackerLogger
from asynchub.subscribers.rows import as_float, check_counts, sound, step_of
from asynchub.subscribers.trackio_cuts import (
    UNFINISHED,
    add_cuts,
    cut,
    forget_unfinished,
    go_back,
    has_more,
    newest_cut,
)
from asynchub.subscription import Subscription

try:
    from trackio import sqlite_storage
    from trackio.utils import RESERVED_KEYS, TRACKIO_DIR, generate_readable_name, to_json_safe
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"{error}; install it with: pip install 'asynchub[trackio]'", name=error.name) from error

__all__ = ("TrackioLogger",)

logger = logging.getLogger("asynchub")

BUSY = 2.0
"""Seconds that a change waits for another writer."""
SQL_LIST = 500
"""Values in one list of a statement; SQLite takes some thousands."""


class TrackioLogger(TrackerLogger):
    """Log a run to Trackio's storage on this machine; ``trackio show`` shows it, also while it goes on.

    Args:
        project: the project.
        name: a name for the run; by default one as Trackio makes them, ``"brave-sunset-0"``.
        dir: folder of Trackio's files; by default the one that Trackio uses, which ``TRACKIO_DIR`` says. Whoever shows
            another one sets ``TRACKIO_DIR`` to it.
        group: a group of runs that it belongs to.
        config: what becomes the run's configuration: runtime infos of these keys, when they are set, or a mapping.
        options: as of ``TrackerLogger``.

    Attributes:
        run_id: of the run in Trackio.
        run_name: of the run, as given or as it was made; None before that.

    Raises:
        ArgumentError: an argument is of a wrong type or out of range, or Trackio does not allow such a project.
        PatternError: one of ``config`` is no key.
        ScheduleError: ``every`` is malformed.
    """

    def __init__(
        self,
        project: str,
        *,
        name: str | None = None,
        dir: str | PathLike[str] | None = None,
        group: str | None = None,
        config: Iterable[str] | Mapping[str, Any] = CONFIG_KEYS,
        **options: Any,
    ) -> None:
        for argument, given in (("project", project), ("name", name), ("group", group)):
            if not (isinstance(given, str) and given) and not (given is None and argument != "project"):
                raise ArgumentError(f"{argument} must be a name, not empty, got {given!r:.80}")
        self._config_keys = () if isinstance(config, Mapping) else check_config_keys(config)
        self.keys: tuple[str | type[Event], ...] = (ScalarUpdated, RequestApplied, *self._config_keys)
        super().__init__(**options)
        self._storage = _storage_in(None if dir is None else Path(dir))
        try:
            self._storage.validate_project_name(project)
        except ValueError as error:
            raise ArgumentError(f"project must be a name that Trackio allows: {error}") from error
        self.run_name = name
        self.run_id = uuid.uuid4().hex
        self._project = project
        self._given_name = name
        self._group = group
        self._given_config = _config(config) if isinstance(config, Mapping) else {}
        self._created = ""
        self._said: dict[str, Any] = {}  # the configuration that Trackio has
        self._config: dict[str, Any] | None = None  # what is still to be written of it
        self._counts: Mapping[str, int] = {}  # updates of each key
        self._common: int | None = None  # after a resume: seq up to which the rows are known to be of this life, too
        self._rewound = 0  # number of the newest cut of the run
        self._lives = 0  # that have ended with stretches cut short

    async def __call__(self, events: Subscription) -> None:
        if not self.resumed and events.last_seq < self._backlog.taken:  # of another hub, which is another run
            self.run_id, self.run_name, self._created = uuid.uuid4().hex, self._given_name, ""
            self._counts, self._rewound, self._lives = {}, 0, 0
        await super().__call__(events)

    def open(self) -> None:
        """Make the project's file if it is not there, and name the run."""
        path = self._storage.init_db(self._project)
        if self.run_name is None:
            self.run_name = str(generate_readable_name(self._storage.get_runs(self._project)))
        self._created = self._created or _iso(datetime.now(UTC).timestamp())
        said = self._storage.get_run_config(self._project, self.run_name, run_id=self.run_id)
        self._said = {key: one for key, one in (said or {}).items() if not key.startswith("_")}
        if said is None:
            self._config = self._given_config
        with closing(_connected(path)) as database, database:
            add_cuts(database)
            if self._common is not None:
                problem = go_back(database, self.run_id, self.run_name, self._common, self._rewound)
                if problem:
                    logger.warning("run %r is not what it was when its state was saved: %s", self.run_name, problem)
            forget_unfinished(database, self.run_id, self._lives)
            self._rewound = newest_cut(database, self.run_id)

    def write(self, items: Sequence[Item]) -> None:
        """Write ``items``: the points in one transaction."""
        self._write(items, "")

    def write_last(self, items: Sequence[Item]) -> None:
        """Write points of stretches that the end of a life has cut short."""
        self._write(items, f"{UNFINISHED}{self._lives + 1}")
        self._lives += 1

    def _write(self, items: Sequence[Item], ending: str) -> None:
        config, points, stops = self._config, [], []
        for item in items:
            if isinstance(item, Point):
                points.append(item)
            elif isinstance(item, InfoUpdated) and item.key in self._config_keys:
                config = {**self._said, **(config or {}), **_config(item.value)}
            elif isinstance(item, RequestApplied) and item.request == StopRequested.__name__:
                stops.append(item)
        if self._common is not None:
            self._part(items, self._common)
        self._alert(stops)
        self._log(points, config, ending)

    def _log(self, points: Sequence[Point], config: dict[str, Any] | None, ending: str) -> None:
        if not points:
            self._config = config  # Trackio takes it with points only
            return
        counts = Counter(self._counts)
        about = {"_Username": None, "_Created": self._created, "_Group": self._group}
        self._storage.bulk_log(
            project=self._project,
            run=self.run_name,
            metrics_list=[{_name(point.key): as_float(point.value)} for point in points],
            steps=[step_of(point, point.key, counts) for point in points],
            timestamps=[_iso(point.time) for point in points],
            config=None if config is None else {**config, **about},
            log_ids=[f"{self._identity(point)}{ending}" for point in points],
            run_id=self.run_id,
        )
        self._said, self._config, self._counts = config or self._said, None, counts

    def _alert(self, stops: Sequence[RequestApplied]) -> None:
        if stops:
            self._storage.bulk_alert(
                project=self._project,
                run=self.run_name,
                titles=["stopped" + (f" by {stop.author}" if stop.author else "") for stop in stops],
                texts=[stop.reason for stop in stops],
                levels=["info"] * len(stops),
                steps=[stop.step for stop in stops],
                timestamps=[_iso(stop.time) for stop in stops],
                alert_ids=[self._identity(stop) for stop in stops],
                run_id=self.run_id,
            )

    def _identity(self, item: Item) -> str:
        return f"{item.seq}:{item.time.hex()}:{self.run_id}"

    # --- after a resume

    def _part(self, items: Sequence[Item], common: int) -> None:
        """Find the first of ``items`` that is not there already: from there on, what is there does not count."""
        with closing(_connected(self._storage.get_project_db_path(self._project))) as database:
            there = self._there(database, items)
            for item in items:
                if isinstance(item, Point):  # what else there is has no row of its own
                    if self._identity(item) not in there:
                        self._set_aside(database, common)
                        return
                    common = item.seq
        self._common = common

    def _there(self, database: sqlite3.Connection, items: Sequence[Item]) -> set[str]:
        ids = [self._identity(item) for item in items]
        found: set[str] = set()
        for start in range(0, len(ids), SQL_LIST):
            some = ids[start : start + SQL_LIST]
            holders = ", ".join("?" * len(some))
            rows = database.execute(f"SELECT log_id FROM metrics WHERE log_id IN ({holders})", some)
            found.update(log_id for (log_id,) in rows)
        return found

    def _set_aside(self, database: sqlite3.Connection, after: int) -> None:
        """Make what the run has behind ``after`` a run of its own, if there is anything."""
        with database:
            self._rewound = cut(database, self.run_id, self.run_name, after)
        self._common = None

    def close(self) -> None:
        """Set aside what a resumed run has not come to again."""
        if self._common is not None:
            with closing(_connected(self._storage.get_project_db_path(self._project))) as database:
                if has_more(database, self.run_id, self._common):
                    self._set_aside(database, self._common)
            self._common = None

    # --- state

    def tracker_state(self) -> dict[str, Any]:
        """Return which run of Trackio it is, how often that was gone back in, and how often it has ended."""
        return {
            "run_id": self.run_id,
            "name": self.run_name,
            "created": self._created,
            "counts": dict(self._counts),
            "rewound": self._rewound,
            "lives": self._lives,
        }

    def load_tracker_state(self, state: Mapping[str, Any]) -> None:
        """Go on with the run of ``state``.

        Raises:
            StateDictError: ``state`` is not what ``tracker_state`` returned.
        """
        run_id, name, created, counts = (state.get(key) for key in ("run_id", "name", "created", "counts"))
        numbers = state.get("rewound", 0), state.get("lives", 0)  # earlier versions knew neither
        if (
            not isinstance(run_id, str)
            or not isinstance(name, str | None)
            or not isinstance(created, str)
            or not isinstance(counts, Mapping)
            or any(type(number) is not int or number < 0 for number in numbers)
        ):
            raise StateDictError(f"wanted a run of Trackio, got {state!r:.200}")
        self._counts = check_counts(counts)
        self._rewound, self._lives = numbers
        self.run_id, self.run_name, self._created = run_id, self._given_name or name, created

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where ``state`` was saved; points that the run does not come to again are set aside.

        Raises:
            StateDictError: ``state`` is not what ``state_dict`` returned.
        """
        super().load_state_dict(state)
        self._common = state["sent"]


def _storage_in(folder: Path | None) -> Any:
    """Return Trackio's storage in a folder, its own by default."""
    if folder is None or folder == TRACKIO_DIR:
        return sqlite_storage.SQLiteStorage
    # Trackio has one folder for the whole process, in a variable of this module: so this logger has a copy of it
    spec = importlib.util.find_spec(sqlite_storage.__name__)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"{sqlite_storage.__name__} cannot be loaded once more", name="trackio")
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.TRACKIO_DIR = folder  # type: ignore[attr-defined]  # it has one
    return module.SQLiteStorage


def _connected(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, BUSY)


def _config(value: object) -> dict[str, Any]:
    """Return ``value`` as Trackio keeps it; names of a leading ``_``, which are its own, lose that."""
    try:
        plain = _plain(to_json_safe(value))  # type: ignore[no-untyped-call]  # it has no types
    except Exception as error:  # a value that cannot be shown must not end the log
        plain = f"<{type(value).__name__} that cannot be shown: {type(error).__name__}>"
    if not isinstance(plain, dict):
        return {"value": plain}
    return {key.lstrip("_") or "value": one for key, one in plain.items()}


def _plain(value: Any) -> Any:
    """Return what ``to_json_safe`` returned as Trackio can write it: UTF-8, and ints of 64 bits."""
    if isinstance(value, str):
        return sound(value)
    if isinstance(value, dict):
        return {sound(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if type(value) is int and not -(2**63) <= value < 2**63:
        return str(value)
    return value


def _name(key: str) -> str:
    """Return ``key`` as Trackio has it: one that it needs itself gets two underscores before it."""
    if key in RESERVED_KEYS or key.startswith("__"):
        return f"__{key}"
    return sound(key)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")
