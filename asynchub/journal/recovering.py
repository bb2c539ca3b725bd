"""A killed run, come back: the newest snapshot that counts, and the journal after it.

Nothing is changed in the run's folder; attaching a ``Journal`` to the hub goes on in it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from asynchub.ancestry import Fork, Forks, forks_in
from asynchub.batches import RESUMED, UNSTORED, Batch, decode_event
from asynchub.codec.decoder import OnUnknown
from asynchub.codec.limits import Limits
from asynchub.codec.registry import Registry
from asynchub.columns import Array
from asynchub.errors import ArgumentError, JournalError
from asynchub.events import Event, InfoRemoved, InfoUpdated, Marked
from asynchub.generations import DAMAGE, list_generations
from asynchub.history import HistoryBuffer
from asynchub.hub import MessageHub
from asynchub.hubfile import read_hub
from asynchub.journal.reading import Journaled, Mode, read_journal, segment_files
from asynchub.requests import Request, RequestApplied, RequestRefused, StopRequested
from asynchub.snapshot import read_head

__all__ = ("recover",)

logger = logging.getLogger("asynchub")


def recover(
    run: str | PathLike[str],
    *,
    mark: Mapping[str, Any] | None = None,
    mode: Mode = "strict",
    name: str | None = None,
    registry: Registry | None = None,
    limits: Limits | None = None,
    on_unknown: OnUnknown = "raise",
) -> MessageHub:
    """Return a hub as it was when the run ended, however it ended.

    Every event counts that the journal had acknowledged and that was not rewound. Subscribers get their saved state
    when they are attached, and the events that it does not know of. Requests that nobody had applied are pending again.

    Args:
        run: folder of the run: with snapshots (``hub.save(run)``), a folder ``journal``, or both; or of the journal
            itself.
        mark: what ``MessageHub.mark`` returned: the hub is as it was then. Attach the journal to it, and what came
            later is rewound: it stays in the journal, and does not count.
        mode: what damage to acknowledged events leads to; see ``asynchub.journal.reading.Mode``.
        name: of the hub; default the one it had.
        registry: classes of the program's own, for runtime infos and events; the hub keeps it.
        limits: what stored values may ask for; see ``asynchub.codec.Limits``.
        on_unknown: what to do with a value of a type that is not known here; see ``MessageHub.load``.

    Raises:
        FileNotFoundError: there is neither a snapshot nor a journal.
        JournalCorruptError: acknowledged events are damaged, and ``mode`` is ``"strict"``.
        JournalError: ``mark`` is of another run, or what it names is not there any more.
        StateError: stored values are damaged, or ask for more than the limits allow.
        ArgumentError: an argument is of a wrong form.
    """
    run = Path(run)
    folder = run / "journal" if (run / "journal").is_dir() else run
    if folder == run and run.is_dir() and segment_files(run):
        run = run.parent
    journal = read_journal(folder, mode) if folder.is_dir() else Journaled(folder)
    if journal.damages:
        logger.error("%s: %s", folder, "; ".join(map(str, journal.damages)))
    upto = _wanted(mark, journal)
    lineage = journal.lineage(upto)
    run_id = journal.run_id.hex() if journal.run_id is not None else ""
    reading: dict[str, Any] = {"limits": limits, "registry": registry, "on_unknown": on_unknown}
    base, state = _newest_snapshot(run, lineage, run_id, reading)
    if state is None and not journal.last_seq:
        raise FileNotFoundError(f"{run} holds neither a snapshot nor a journal of a run; nothing can be recovered")
    _check_reach(journal, base, lineage, mode)
    known = state.get("name") if state is not None else ""
    hub = MessageHub(name or journal.name or known or run.name or "recovered")
    if registry is not None:
        hub.registry = registry
    if state is not None:
        hub._load(state, None)
    replay = _Replay(hub, reading)
    hub._run_id = run_id or hub._run_id
    forks = _forks(state, base, journal, upto)
    hub._bus.seq = base
    for after, until in lineage:
        for batch in journal.batches(max(after, base), until):
            replay.add(batch)
    seq = int(min(upto, max(journal.last_seq, base)))
    replay.finish(seq, None if mark is None else mark.get("step"))
    hub._ancestry.go_by(forks, Fork.new(seq, seq))
    return hub


def _wanted(mark: Mapping[str, Any] | None, journal: Journaled) -> float:
    """Return up to which ``seq`` events count."""
    if mark is None:
        return float("inf")
    if not isinstance(mark, Mapping) or type(mark.get("seq")) is not int or type(mark.get("run_id")) is not str:
        raise ArgumentError(f"mark takes what hub.mark() returned, got {mark!r:.200}")
    if journal.run_id is not None and mark["run_id"] != journal.run_id.hex():
        raise JournalError(
            f"the mark is of run {mark['run_id']}, {journal.folder} of run {journal.run_id.hex()}: take the checkpoint "
            "of this run, or the folder of the other one"
        )
    seq: int = mark["seq"]
    if seq > journal.last_seq:
        raise JournalError(
            f"the mark names event {seq}, {journal.folder} ends at event {journal.last_seq}: a power failure has taken "
            "the rest; call hub.commit() before a checkpoint is written, and resume from an earlier one now"
        )
    return seq


def _newest_snapshot(
    run: Path, lineage: Sequence[tuple[int, float]], run_id: str, reading: dict[str, Any]
) -> tuple[int, dict[str, Any] | None]:
    """Return the newest state in the folder that is whole and counts, and its ``seq``; (0, None) if there is none."""
    for path in list_generations(run):
        try:
            head = read_head(path, limits=reading["limits"])
            seq = head.seq or 0
            if run_id not in ("", head.run_id) or not any(after < max(seq, 1) <= upto for after, upto in lineage):
                continue
            return seq, read_hub(path, **reading)
        except DAMAGE as error:
            logger.error("%s is damaged, and what is older is taken in its place: %s", path, error)
    return 0, None


def _forks(state: Mapping[str, Any] | None, base: int, journal: Journaled, upto: float) -> Forks:
    """Return what the record has come by up to a ``seq``: the state at ``base`` has that, or the journal."""
    path = () if state is None else forks_in(state.get("asynchub", {}))
    known = {fork.id for fork in path}
    return (*path, *(fork for fork in journal.forks(upto) if fork.at >= base and fork.id not in known))


def _check_reach(journal: Journaled, base: int, lineage: Sequence[tuple[int, float]], mode: Mode) -> None:
    if journal.last_seq and base + 1 < journal.first_seq and mode == "strict":
        raise JournalError(
            f"{journal.folder} begins with event {journal.first_seq}, and no snapshot before it is whole and counts; "
            "mode='salvage' gives what there is"
        )


class _Replay:
    """Folds batches into a hub that nobody else knows yet.

    Args:
        hub: the hub.
        reading: how its values are read: ``limits``, ``registry`` and ``on_unknown``.
    """

    def __init__(self, hub: MessageHub, reading: dict[str, Any]) -> None:
        self._hub = hub
        self._reading = reading
        self._others: list[Event] = []
        self._pending: dict[int, Request] = {}
        self._step = hub.step

    def add(self, batch: Batch) -> None:
        """Fold the events of a batch, which are newer than all before."""
        hub = self._hub
        newest = -1
        for key_number, (key, resumed) in enumerate(batch.keys):
            parts = [(one, np.flatnonzero(one.whose == key_number)) for one in batch.scalars]
            parts = [(one, found) for one, found in parts if len(found)]
            if not parts or not resumed:
                continue
            history = hub._log_scalars.get(key)
            if history is None:
                history = HistoryBuffer.unfilled()
                hub._log_scalars.put(key, history)
            hub._resumed_keys.setdefault(key, resumed)
            columns = [[column[found] for column in one[:5]] for one, found in parts]
            _fold(history, columns)
        for one in batch.scalars:
            if len(one.seqs) and int(one.seqs[-1]) > newest:
                newest, step = int(one.seqs[-1]), int(one.steps[-1])
                self._step = step if step >= 0 else self._step
        for seq, data in batch.events:
            event, fields = decode_event(data, **self._reading)
            self._apply(event, fields)
            if seq > newest and event.step is not None:
                self._step = event.step

    def _apply(self, event: Event, fields: Mapping[str, Any]) -> None:
        hub = self._hub
        if isinstance(event, InfoUpdated):
            if not fields.get(RESUMED, True) or UNSTORED in fields:
                return
            hub._runtime_info[event.key] = event.value
            hub._info_stamps[event.key] = (event.seq, event.time, event.step)
            hub._resumed_keys.setdefault(event.key, True)
        elif isinstance(event, InfoRemoved):
            hub._runtime_info.pop(event.key, None)
            hub._info_stamps.pop(event.key, None)
        elif isinstance(event, Marked):
            hub._attachments.keep_states(event.states)
        elif isinstance(event, Request):
            self._pending[event.seq] = event
        elif isinstance(event, RequestApplied | RequestRefused):
            request = self._pending.pop(event.request_seq, None)
            if event.request == StopRequested.__name__ and isinstance(event, RequestApplied):
                stop = request if isinstance(request, StopRequested) else None
                stop = stop or StopRequested(reason=event.reason, author=event.author, step=event.step)
                hub._stop = hub._stop or stop
        self._others.append(event)

    def finish(self, seq: int, step: int | None) -> None:
        """Go on after event ``seq``, at that step, or at that of the last event."""
        hub = self._hub
        hub._bus.seq = hub._base_seq = seq
        hub.step = self._step if step is None else step
        hub._replayed = tuple(self._others)
        for request in self._pending.values():
            hub._settle_point.requests.push(request, earlier=True)


def _fold(history: HistoryBuffer, parts: list[list[Array]]) -> None:
    """Record values of one history, in the order of ``seq``."""
    if len(parts) == 1:
        seqs, times, steps, values, counts = parts[0]
        floats = values.dtype == np.float64
        history.take_in((seqs, times, steps), values if floats else values.tolist(), _counts(counts))
        return
    entries: list[Any] = []
    rows = [row for columns in parts for row in zip(*(column.tolist() for column in columns), strict=True)]
    for row in sorted(rows, key=lambda row: row[0]):
        entries += row
    history._pending += entries
    history.fold()


def _counts(counts: Array) -> Any:
    return counts if counts.dtype == np.int64 else counts.tolist()
