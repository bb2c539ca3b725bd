"""A run in Weights & Biases, online or as a file of this machine: scalars against their own steps, decisions, settings.

    scalar            its key; a row for all that came of one step, with the time of the newest of them
    step              ``trainer/global_step``, which every key is drawn against; never W&B's own step, which drops what
                      has an earlier one
    seq               ``hub/seq``, hidden: that of the newest event in the row
    taken back        ``hub/rewound_to``, hidden, in a row of its own which begins a life of the run, ``hub/life``: it
                      has what the life ``hub/rewound_life`` had, up to this seq; the first life is 0
    decisions         ``hub/decisions``, in words; stops and failures in the summary, too
    settings          the config, from the runtime infos ``cfg``, ``config`` and ``hparams``

Own: a run of the logger's own. ``wandb.run`` is not set, and nothing is printed or captured unless ``settings`` ask
    for it.
Handled: what counts as handled is with W&B's own process, which brings it to its file ten times a second. Should
    that process die, another one is begun, and what the last seconds brought is logged again.
Resume: the state knows the run's id, so a run that goes on is the same one to W&B; offline, in a file of its own, which
    ``wandb sync`` uploads after the first.
Twice: W&B takes nothing back. What a resumed run has abandoned, and what was logged again, stays in the history; the
    rows that begin a life say which rows count, also where one goes on from what another had abandoned.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from os import PathLike
from random import getrandbits
from time import monotonic as _now
from typing import Any, Literal, NamedTuple
from uuid import uuid4

from asynchub.errors import ArgumentError
from asynchub.events import Event, InfoUpdated, ScalarUpdated
from asynchub.patterns import matcher
from asynchub.requests import RequestApplied, StopRequested
from asynchub.subscribers.backlog import Item
from asynchub.subscribers.checks import take_state
from asynchub.subscribers.configs import CONFIG_KEYS, check_config_keys, config_text, plain
from asynchub.subscribers.delivery import TrackerLogger
from asynchub.subscribers.display import DECISIONS, is_failure
from asynchub.subscribers.rows import check_counts, rows_of, said, sound
from asynchub.subscribers.worker import Worker
from asynchub.subscription import Subscription

try:
    import wandb
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(f"{error}; install it with: pip install 'asynchub[wandb]'", name=error.name) from error

__all__ = ("WandbLogger",)

SEQ_METRIC = "hub/seq"
REWOUND_METRIC = "hub/rewound_to"
LIFE_METRIC = "hub/life"
BEFORE_METRIC = "hub/rewound_life"
FLUSH = "x_transaction_log_flush_interval"
FLUSH_SECONDS = 0.1
"""How often W&B's process brings what it has to its file; its own default is 15 s."""
INIT_SECONDS = 30.0
"""How long a beginning waits for the network before it is tried again; the end of a program waits for that. W&B's own
default is 90 s."""
KEPT = 100_000
"""Items that are kept at most, should that process die before it has."""

_HIDDEN = (SEQ_METRIC, REWOUND_METRIC, LIFE_METRIC, BEFORE_METRIC)
_OWN = frozenset(("", "_step", "_timestamp", "_runtime", "_wandb", *_HIDDEN))
_SUMMARIES = frozenset(("min", "max", "mean", "last", "first", "copy", "none"))
_DEFINITIONS = frozenset(("step_metric", "step_sync", "hidden", "summary", "goal"))
_MODES = (None, "online", "offline", "disabled", "shared")
_DELIVERY = ("every", "aggregate", "interval", "batch", "grace", "backlog", "close_timeout")


class _Logged(NamedTuple):
    """Items that W&B's process was given.

    Attributes:
        when: as the monotonic clock says.
        items: they.
        counts: updates of each key before.
    """

    when: float
    items: Sequence[Item]
    counts: Mapping[str, int]


class WandbLogger(TrackerLogger):
    """Log a run to Weights & Biases.

    Args:
        project, name, id, dir, mode: as of ``wandb.init``; ``mode="offline"`` writes a file below ``dir`` and nothing
            else. By default what W&B's own environment variables say, and a new ``id``.
        step_metric: key of the step.
        define: what more ``define_metric`` is to be told of keys: arguments of it, by key pattern.
        summary: what the summary has of keys, by key pattern: ``"min"``, ``"max"``, ``"mean"``, ``"first"``,
            ``"last"``, ``"none"``, or several with commas. Of two patterns that fit, the later counts. Of other keys
            it has the newest value. By default ``{"val/**": "min,max,last"}``: which way is better is not known.
        decisions: whether decisions and failures are logged.
        alerts: whether W&B sends an alert for each stop and failure.
        config: runtime infos that become the run's config.
        init: more arguments of ``wandb.init``: ``entity``, ``group``, ``tags``, ``settings``, …; and those of
            ``TrackerLogger``: ``every``, ``aggregate``, ``interval``, ``batch``, …

    Attributes:
        id: of the run in W&B.
        exit_code: what the run is ended with when the hub is left; other than 0, W&B shows it as failed. It becomes 1
            when an exception leaves the hub.

    Raises:
        ArgumentError: an argument is of a wrong type or out of range.
        PatternError: a pattern is malformed.
    """

    resend = False  # what W&B's process had not brought to its file is logged again, and more than the last row

    def __init__(
        self,
        project: str | None = None,
        name: str | None = None,
        id: str | None = None,
        dir: str | PathLike[str] | None = None,
        mode: Literal["online", "offline", "disabled", "shared"] | None = None,
        *,
        step_metric: str = "trainer/global_step",
        define: Mapping[str, Mapping[str, Any]] | None = None,
        summary: Mapping[str, str] | None = None,
        decisions: bool = True,
        alerts: bool = False,
        config: Iterable[str] = CONFIG_KEYS,
        **init: Any,
    ) -> None:
        for what, text in (("project", project), ("name", name), ("id", id)):
            if text is not None and (not isinstance(text, str) or not text):
                raise ArgumentError(f"{what} must be None or text, got {text!r:.80}")
        if mode not in _MODES:
            raise ArgumentError(f"mode must be None, 'online', 'offline', 'disabled' or 'shared', got {mode!r:.80}")
        if not isinstance(step_metric, str) or step_metric in _OWN:
            raise ArgumentError(
                f"step_metric must be a key of its own such as 'trainer/global_step', got {step_metric!r}"
            )
        for what, flag in (("decisions", decisions), ("alerts", alerts)):
            if not isinstance(flag, bool):
                raise ArgumentError(f"{what} must be True or False, got {flag!r:.80}")
        for what in ("step", "resume", "reinit"):
            if what in init:
                raise ArgumentError(f"{what} is the logger's own business; leave it out")
        self._definitions = _definitions(define or {}, {"val/**": "min,max,last"} if summary is None else summary)
        self._config = check_config_keys(config)
        self.keys: tuple[str | type[Event], ...] = (ScalarUpdated, *(DECISIONS if decisions else ()), *self._config)
        super().__init__(**{name: init.pop(name) for name in _DELIVERY if name in init})
        self.id = uuid4().hex[:12] if id is None else id
        self.exit_code = 0
        self._own_id = id is None
        self._dir = None if dir is None else os.path.abspath(dir)  # W&B's process may have begun elsewhere
        self._init = {"project": project, "name": name, "mode": mode, **init}
        self._init["settings"] = _settings(init.get("settings"))
        self._unsafe = 2 * getattr(self._init["settings"], FLUSH, 15.0) + 1.0
        self._step_metric = step_metric
        self._alerts = alerts
        self._run: Any = None
        self._defined: set[str] = set()
        self._counts: Mapping[str, int] = {}
        self._recent: deque[_Logged] = deque()  # what may not be in the file yet
        self._rewound_to: int | None = None  # ``seq`` up to which what was logged before the next run counts
        self._life = 0  # in which the newest row was logged
        self._resumes = False  # whether another one is to begin

    # --- in the logger's own thread

    def open(self) -> None:
        """Begin the run, or go on with it."""
        if self._run is not None:  # of a life that was cancelled
            self.close()
        self._begin()

    def write(self, items: Sequence[Item]) -> None:
        """Log ``items``, a row for each step."""
        run = self._run or self._begin()
        counts = Counter(self._counts)
        with self._without_it_if_it_is_gone(items):
            self._log(run, items, counts)
        now, recent = _now(), self._recent
        recent.append(_Logged(now, items, self._counts))
        self._counts = counts
        while recent and (recent[0].when < now - self._unsafe or sum(len(one.items) for one in recent) > KEPT):
            recent.popleft()

    def sync(self) -> None:
        """Wait for W&B's process to have taken what was logged."""
        run = self._run or self._begin()
        with self._without_it_if_it_is_gone():
            run.status()

    def close(self) -> None:
        """End the run; W&B's process completes its file a moment later."""
        if self._run is None and not self._recent:
            return
        try:
            self._end(self._run or self._begin())
        except Exception as error:
            if not _is_gone(error):
                raise
            self._end(self._begin())
        self._recent.clear()

    async def _close(self, worker: Worker, events: Subscription) -> None:
        if events.failing and not self.exit_code:
            self.exit_code = 1
        await super()._close(worker, events)

    def _end(self, run: Any) -> None:
        self._run = None
        run.finish(exit_code=self.exit_code)

    def _begin(self) -> Any:
        """Begin a run, or go on with it; what W&B's process may have lost is logged again."""
        if self._dir is not None:
            os.makedirs(self._dir, exist_ok=True)  # W&B would quietly choose another one
        try:
            run = wandb.init(id=self.id, dir=self._dir, resume="allow", reinit="create_new", **self._init)
        except Exception as error:
            if _is_gone(error):  # then so is every run of this program, and a new process needs a new beginning
                with suppress(Exception):
                    wandb.teardown()
            raise
        own = (self._step_metric, *_HIDDEN)
        self._defined = set(own)
        with self._without_it_if_it_is_gone():
            for name in own:
                run.define_metric(name, hidden=True)
            if self._rewound_to is not None:
                # a number of which there is no other: what other lives have logged is not known here
                life = getrandbits(48) if self._resumes else self._life
                run.log({REWOUND_METRIC: self._rewound_to, LIFE_METRIC: life, BEFORE_METRIC: self._life})
                self._life, self._resumes = life, False
            for logged in self._recent:
                self._log(run, logged.items, Counter(logged.counts))
        self._run, self._rewound_to = run, None
        return run

    @contextmanager
    def _without_it_if_it_is_gone(self, items: Sequence[Item] = ()) -> Iterator[None]:
        """Let go of the run if W&B's process turns out to be gone: the next attempt begins another one.

        Args:
            items: those that are being logged, besides what may not be in the file yet.
        """
        try:
            yield
        except Exception as error:
            if _is_gone(error):
                self._run = None
                again = self._recent[0].items if self._recent else items
                if again and self._rewound_to is None:
                    self._rewound_to = again[0].seq - 1
            raise

    def _log(self, run: Any, items: Sequence[Item], counts: Counter[str]) -> None:
        for item in items:
            if isinstance(item, InfoUpdated):
                if item.key in self._config:
                    run.config.update(_as_config(item), allow_val_change=True)
            elif isinstance(item, Event):
                self._sum_up(run, item)
        for row in rows_of(items, counts):
            values = {self._name_of(run, key): value for key, value in row.values.items()}
            own = {self._step_metric: row.step, SEQ_METRIC: row.seq, "_timestamp": row.time}
            run.log(values | own)

    def _sum_up(self, run: Any, event: Event) -> None:
        """Say why it stopped, and what failed last, where a person looks first."""
        text = said(event)
        stopped = isinstance(event, RequestApplied) and event.request == StopRequested.__name__
        if text is None or not (stopped or is_failure(event)):
            return
        if isinstance(event, RequestApplied) and event.reason:
            text = event.reason
        run.summary["hub/stopped" if stopped else "hub/failure"] = sound(text)
        if self._alerts:
            run.alert("stopped" if stopped else "failed", sound(text), level="WARN" if stopped else "ERROR")

    def _name_of(self, run: Any, key: str) -> str:
        """Return what ``key`` is called in W&B, which is told what it is drawn against when it comes first."""
        name = sound(key)
        if name in _OWN or name == self._step_metric:
            name = f"hub/{name}"
        if name not in self._defined:
            self._defined.add(name)
            if "*" not in name:
                options: dict[str, Any] = {"step_metric": self._step_metric}
                for fits, more in self._definitions:
                    options |= more if fits(key) else {}
                run.define_metric(name, **options)
        return name

    # --- state

    def tracker_state(self) -> dict[str, Any]:
        """Return which run it is, and which life of it."""
        return {"id": self.id, "counts": dict(self._counts), "life": self._life}

    def load_tracker_state(self, state: Mapping[str, Any]) -> None:
        """Go on with the run that ``state`` names, unless another ``id`` was given."""
        taken = take_state(state, {"id": (str,), "counts": (dict,), "life": (int,)}, "WandbLogger", {"life": 0})
        self._counts = check_counts(taken["counts"])
        self._recent.clear()
        if self._own_id:
            self.id = taken["id"]
        self._rewound_to = self._backlog.state_dict()["sent"]
        self._life, self._resumes = taken["life"], True


def _definitions(
    define: Mapping[str, Mapping[str, Any]], summary: Mapping[str, str]
) -> list[tuple[Callable[[str], bool], Mapping[str, Any]]]:
    """Return what ``define_metric`` is to be told of the keys that fit, in order."""
    definitions: list[tuple[Callable[[str], bool], Mapping[str, Any]]] = []
    if not isinstance(summary, Mapping) or not isinstance(define, Mapping):
        raise ArgumentError("define and summary must be dicts by key pattern, e.g. summary={'val/loss': 'min'}")
    for pattern, how in summary.items():
        if not isinstance(how, str) or not _SUMMARIES.issuperset(how.split(",")):
            raise ArgumentError(f"summary of {pattern!r} must be of {', '.join(sorted(_SUMMARIES))}, got {how!r:.80}")
        definitions.append((matcher((pattern,)), {"summary": how}))
    for pattern, options in define.items():
        if not isinstance(options, Mapping) or not _DEFINITIONS.issuperset(options):
            raise ArgumentError(
                f"define of {pattern!r} must be a dict of {', '.join(sorted(_DEFINITIONS))}, got {options!r:.80}"
            )
        definitions.append((matcher((pattern,)), dict(options)))
    return definitions


def _settings(given: object) -> wandb.Settings:
    """Return W&B's settings: quiet, but for what was given."""
    ours: dict[str, Any] = {"silent": True, "console": "off", "init_timeout": INIT_SECONDS}
    if FLUSH in wandb.Settings.model_fields:
        ours[FLUSH] = FLUSH_SECONDS
    if given is None:
        given = {}
    elif isinstance(given, wandb.Settings):
        given = {name: getattr(given, name) for name in given.model_fields_set}
    if not isinstance(given, Mapping):
        raise ArgumentError(f"settings must be a dict or a wandb.Settings, got {given!r:.80}")
    try:
        return wandb.Settings(**{**ours, **given})
    except ValueError as error:
        raise ArgumentError(f"settings are not what wandb.Settings takes: {error}") from error


def _as_config(info: InfoUpdated) -> dict[str, Any]:
    """Return settings as a dict: of their own keys if they are one, else of the key of the info."""
    value = plain(info.value) if isinstance(info.value, Mapping) else None
    return value if isinstance(value, dict) else {info.key: config_text(info.value)}


def _is_gone(error: BaseException) -> bool:
    """Tell whether W&B's own process does not answer any more."""
    return isinstance(error, ConnectionError) or type(error).__name__ == "MailboxClosedError"
