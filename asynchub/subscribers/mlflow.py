"""A run in MLflow: metrics in batches, a runtime info as params, why it stopped as tags, and how it ended.

Own: all goes through a client and a run of the logger's own. No active run, no autologging and no tracking URI of the
    process is set or looked at, so what else the program does with MLflow is left alone.
Value: the mean per sample. NaN stays NaN; MLflow keeps an infinity as 1.7976931348623157e308, with its sign.
Time: that of the event, in whole milliseconds, as MLflow counts.
Step: that of the event, else how many updates of its key there were before.
Twice: MLflow keeps one point of those that agree in key, step, millisecond and value, so what is delivered again adds
    nothing; nor does the second of two updates that agree in all of these.
Rewound: MLflow takes nothing back. Points that a resumed run has abandoned stay in its run, and a tag
    ``asynchub.resumed.<milliseconds>`` for each resume says which count: from ``before_ms`` on those that came then,
    and of those before what counted at ``after_ms``, up to ``after_step`` in that millisecond.
Network: nothing is sent but to the tracking URI. MLflow would report its use to its makers; that is switched off, for
    the process, unless ``MLFLOW_DISABLE_TELEMETRY`` is set to something already.
"""

from __future__ import annotations

import json
import logging
import os
import posixpath
import re
import time
import uuid
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from asynchub.errors import ArgumentError, StateDictError
from asynchub.events import Event, InfoUpdated, ScalarUpdated
from asynchub.requests import RequestApplied, StopRequested
from asynchub.subscribers.aggregation import Point
from asynchub.subscribers.backlog import Item
from asynchub.subscribers.configs import CONFIG_KEYS, check_config_keys
from asynchub.subscribers.delivery import TrackerLogger
from asynchub.subscribers.flattening import flattened
from asynchub.subscribers.rows import as_float, check_counts, step_of
from asynchub.subscribers.worker import Worker
from asynchub.subscription import Subscription

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported, and by each call
try:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.exceptions import MlflowException
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"{error}; install it with: pip install 'asynchub[mlflow]'", name=error.name) from error

__all__ = ("MLflowLogger",)

logger = logging.getLogger("asynchub")

PREFIX = "asynchub."
"""What the names of this logger's own tags begin with."""
UID = f"{PREFIX}uid"
MAX_NAME = 250
MAX_PARAM = 6000
MAX_TAG = 5000
MAX_PARAMS = 2000
"""Limits of MLflow's: characters in a name and a value, and of a hosted one: params in a run."""

_FORBIDDEN = re.compile(r"[^/\w.\- ]" if os.name == "nt" else r"[^/\w.\- :]")
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")


class MLflowLogger(TrackerLogger):
    """Log a run to MLflow.

    Args:
        experiment_name: the experiment; made if it is not there.
        run_name: a name for the run; MLflow makes one by default.
        tracking_uri: where: a database (``"sqlite:///mlflow.db"``), a server (``"https://…"``), or None for what
            ``MLFLOW_TRACKING_URI`` says. A file by default, because it needs no server.
        run_id: go on in this run of MLflow, whatever a state says; by default in that of the state, or a new one.
        config: what becomes the run's params, nested keys joined by dots: runtime infos of these keys, when they are
            set, or a mapping.
        tags: tags for a new run.
        options: as of ``TrackerLogger``.

    Attributes:
        run_id: of the run in MLflow; None before it is known.

    Raises:
        ArgumentError: an argument is of a wrong type or out of range.
        PatternError: one of ``config`` is no key.
        ScheduleError: ``every`` is malformed.
        ModuleNotFoundError: ``tracking_uri`` is a database, and what MLflow needs for it is not installed.
    """

    def __init__(
        self,
        experiment_name: str = "default",
        run_name: str | None = None,
        *,
        tracking_uri: str | None = "sqlite:///mlflow.db",
        run_id: str | None = None,
        config: Iterable[str] | Mapping[str, Any] = CONFIG_KEYS,
        tags: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        if not isinstance(experiment_name, str) or not experiment_name:
            raise ArgumentError(f"experiment_name must be a name, not empty, got {experiment_name!r:.80}")
        for name, given in (("run_name", run_name), ("run_id", run_id)):
            if given is not None and (not isinstance(given, str) or not given):
                raise ArgumentError(f"{name} must be a str, not empty, or None, got {given!r:.80}")
        if tags is not None and not isinstance(tags, Mapping):
            raise ArgumentError(f"tags must be a mapping or None, got {tags!r:.80}")
        _check_uri(tracking_uri)
        self._config_keys = () if isinstance(config, Mapping) else check_config_keys(config)
        self.keys: tuple[str | type[Event], ...] = (ScalarUpdated, RequestApplied, *self._config_keys)
        super().__init__(**options)
        self.run_id = run_id
        self._experiment_name = experiment_name
        self._run_name = run_name
        self._uri = tracking_uri
        self._given_run_id = run_id
        self._given_params = flattened(config) if isinstance(config, Mapping) and config else {}
        self._given_tags = {} if tags is None else {str(key): str(value) for key, value in tags.items()}
        self._uid = uuid.uuid4().hex
        self._names = _Names()
        self._client: MlflowClient | None = None
        self._logged: dict[str, str] = {}  # params that MLflow has
        self._status = "KILLED"
        self._time: int | None = None  # of the newest point that MLflow has got, in ms,
        self._step = 0  # and the furthest step in that millisecond
        self._counts: Mapping[str, int] = {}  # updates of each key
        self._loaded: float | None = None  # when a state was, until the first event after that

    async def __call__(self, events: Subscription) -> None:
        if not self.resumed and events.last_seq < self._backlog.taken:  # of another hub, which is another run
            self.run_id, self._uid = self._given_run_id, uuid.uuid4().hex
            self._step, self._time, self._counts = 0, None, {}
        self._status = "KILLED"
        await super().__call__(events)

    def open(self) -> None:
        """Begin the run, or go on with it."""
        client = MlflowClient(self._uri)
        run = None if self.run_id is None else self._found(client, self.run_id)
        if run is None:
            experiment = _experiment(client, self._experiment_name)
            # after a failure amid it the run may be there already
            there = client.search_runs([experiment], f"tags.`{UID}` = '{self._uid}'", max_results=1)
            tags = {**self._given_tags, UID: self._uid}
            run = there[0] if there else client.create_run(experiment, run_name=self._run_name, tags=tags)
            self.run_id = run.info.run_id
        else:
            client.update_run(run.info.run_id, status="RUNNING", name=self._run_name)
        self._client, self._logged = client, dict(run.data.params)
        if self._given_params:
            self._log([], list(self._given_params.items()), {})

    def _found(self, client: MlflowClient, run_id: str) -> Any:
        """Return the run; None if a state knows it, and MLflow does not.

        Raises:
            ArgumentError: it was asked for, and is not there.
        """
        try:
            run = client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            run = None
        if run is not None and run.info.lifecycle_stage == "active":
            return run
        if run_id == self._given_run_id:
            raise ArgumentError(f"run_id must be of a run in {client.tracking_uri}, which has no active one {run_id!r}")
        logger.warning("%s has no active run %s, which is resumed: a new one begins", client.tracking_uri, run_id)
        return None

    def write(self, items: Sequence[Item]) -> None:
        """Log ``items`` in one batch."""
        metrics: list[Metric] = []
        params: list[tuple[str, str]] = []
        tags: dict[str, str] = {}
        step, when, loaded, counts = self._step, self._time, self._loaded, Counter(self._counts)
        for item in items:
            if loaded is not None and item.time >= loaded:
                tags |= _resumed(loaded, when, step)
                loaded = None
            if isinstance(item, Point):
                own, before, when = step_of(item, item.key, counts), when, int(item.time * 1000)
                step = max(own, step) if when == before else own
                metrics.append(Metric(self._names[item.key], as_float(item.value), when, own))
            elif isinstance(item, RequestApplied) and item.request == StopRequested.__name__:
                stop = {"reason": item.reason, "author": item.author, "step": item.step}
                tags.update({f"{PREFIX}stop_{name}": str(value) for name, value in stop.items()})
            elif isinstance(item, InfoUpdated) and item.key in self._config_keys:
                params += flattened(item.value).items()
        self._log(metrics, params, tags)
        self._step, self._time, self._loaded, self._counts = step, when, loaded, counts

    def _log(self, metrics: list[Metric], params: Sequence[tuple[str, str]], tags: dict[str, str]) -> None:
        new: dict[str, str] = {}
        for key, text in params:
            name, value = _clean(key), text[:MAX_PARAM]
            before = self._logged.get(name, new.get(name))
            if before is None and len(self._logged) + len(new) < MAX_PARAMS:
                new[name] = value
            elif before is None:
                logger.warning("the param %s is left out: MLflow takes %d in a run", name, MAX_PARAMS)
            elif before != value:  # MLflow changes none
                logger.warning("the param %s is %r now; MLflow keeps %r, and a tag says so", name, value, before)
                tags[_clean(f"{PREFIX}changed.{key}")] = value
        client = self._client
        if client is None or self.run_id is None:
            raise RuntimeError("the logger is not open")
        client.log_batch(
            self.run_id,
            metrics,
            [Param(name, value) for name, value in new.items()],
            [RunTag(name, value[:MAX_TAG]) for name, value in tags.items()],
        )
        self._logged.update(new)

    async def _close(self, worker: Worker, events: Subscription) -> None:
        self._status = "FAILED" if events.failing else "FINISHED"
        await super()._close(worker, events)

    def close(self) -> None:
        """Say how the run ended: ``FINISHED``, ``FAILED`` by an exception, or ``KILLED`` if it was cancelled."""
        if self._loaded is not None and self._client is not None:  # nothing new has come
            self._log([], [], _resumed(self._loaded, self._time, self._step))
            self._loaded = None
        client, self._client = self._client, None
        if client is not None and self.run_id is not None:
            client.set_terminated(self.run_id, self._status, int(time.time() * 1000))

    # --- state

    def tracker_state(self) -> dict[str, Any]:
        """Return which run of MLflow it is, and how far that is."""
        counts = dict(self._counts)
        return {
            "run_id": self.run_id,
            "uid": self._uid,
            "step": self._step,
            "time": self._time,
            "counts": counts,
            "names": self._names.state(),
        }

    def load_tracker_state(self, state: Mapping[str, Any]) -> None:
        """Go on with the run of ``state``.

        Raises:
            StateDictError: ``state`` is not what ``tracker_state`` returned.
        """
        run_id, uid, step, counts, names = (state.get(name) for name in ("run_id", "uid", "step", "counts", "names"))
        when = state.get("time")  # earlier versions did not know it
        if (
            not isinstance(run_id, str | None)
            or not isinstance(uid, str)
            or not re.fullmatch("[0-9a-f]+", uid)
            or not isinstance(step, int)
            or not isinstance(when, int | None)
            or not isinstance(counts, Mapping)
            or not isinstance(names, Mapping)
            or not all(isinstance(one, str) for pair in names.items() for one in pair)
        ):
            raise StateDictError(f"wanted a run of MLflow, got {state!r:.200}")
        self._counts = check_counts(counts)
        self.run_id = self._given_run_id or run_id
        self._uid, self._step, self._time, self._names = uid, step, when, _Names(names)
        self._loaded = time.time()


class _Names:
    """The names that MLflow gets for keys, each for one key only.

    Args:
        changed: names of the keys that could not have their own.
    """

    def __init__(self, changed: Mapping[str, str] | None = None) -> None:
        self._changed = dict(changed or {})
        self._all = dict(self._changed)
        self._taken = set(self._changed.values())

    def __getitem__(self, key: str) -> str:
        name = self._all.get(key)
        if name is None:
            base, number = _clean(key), 1
            name = base
            while name in self._taken:
                number += 1
                name = f"{base[: MAX_NAME - 8]}_{number}"
            self._all[key] = name
            self._taken.add(name)
            if name != key:
                self._changed[key] = name
        return name

    def state(self) -> dict[str, str]:
        """Return the names of the keys that could not have their own."""
        return dict(self._changed)


def _resumed(loaded: float, when: int | None, step: int) -> dict[str, str]:
    """Return the tag that says what counts after a resume.

    Args:
        loaded: when the state was loaded, in seconds since the epoch.
        when: time of the newest point that it has, in milliseconds; None if it has none, or that is not known.
        step: the furthest step in that millisecond.
    """
    until = int(loaded * 1000)
    turn = {"before_ms": until, "after_ms": -1 if when is None else when, "after_step": step}
    return {f"{PREFIX}resumed.{until}": json.dumps(turn)}


def _clean(key: str) -> str:
    """Return ``key`` as MLflow allows it: letters, digits, ``_-.:/`` and blanks, and a plain relative path."""
    name = _FORBIDDEN.sub("_", key)[:MAX_NAME]
    if posixpath.normpath(name) != name or name == "." or name.startswith(("..", "/")):
        name = name.replace("/", "_").replace("..", "__")
    return "_" if name in ("", ".") else name


def _experiment(client: MlflowClient, name: str) -> str:
    """Return the id of an experiment, which is made if it is not there.

    Raises:
        ArgumentError: it was deleted.
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            made: str = client.create_experiment(name)
            return made
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)  # another program was faster
    if found is None or found.lifecycle_stage != "active":
        raise ArgumentError(f"experiment_name must be of one that was not deleted, got {name!r}; restore it, or rename")
    return str(found.experiment_id)


def _check_uri(uri: object) -> None:
    """Refuse what is no tracking URI; load what a database needs, for which MLflow would ask later, and amid a run."""
    if uri is None:
        return
    if not isinstance(uri, str) or uri.startswith("file:") or not ("://" in uri or uri.startswith("databricks")):
        raise ArgumentError(
            f"tracking_uri must be e.g. 'sqlite:///mlflow.db', 'https://…' or None, got {uri!r:.200}; MLflow keeps no "
            "runs in folders any more"
        )
    if uri.split(":")[0].split("+")[0] in _DATABASES:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # SQLAlchemy's, of what MLflow does
                import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"{error}; install it with: pip install 'asynchub[mlflow]'", name=error.name
            ) from error
