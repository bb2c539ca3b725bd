"""What a file of a run holds, or a whole run, in words for people."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from asynchub.batches import Batch, decode_batch, decode_event
from asynchub.errors import CorruptStateError
from asynchub.events import InfoRemoved, InfoUpdated
from asynchub.generations import list_generations
from asynchub.history import HistoryBuffer
from asynchub.hubfile import read_hub
from asynchub.journal.folder import find_journal, writer_of
from asynchub.journal.frames import MAGIC as SEGMENT
from asynchub.journal.frames import SEGMENT_SIZE, Kind, frames, read_head
from asynchub.journal.reading import read_journal
from asynchub.journal.tail import MAGIC as TAIL
from asynchub.journal.tail import NAME as TAIL_NAME
from asynchub.journal.tailing import contents
from asynchub.lines import format_time
from asynchub.snapshot import MAGIC as SNAPSHOT
from asynchub.snapshot import read_head as read_snapshot_head
from asynchub.statefile import MAGIC as STATE
from asynchub.subscribers.display import format_number, format_quantity, one_line

__all__ = ("inspect",)

SHOWN = 60
"""Keys that are listed; of more, the number is said."""
NANOSECONDS = 1e9


def inspect(path: Path) -> str:
    """Return what is in a snapshot, a state file, a segment or the tail of a journal, or in the folder of a run.

    Raises:
        FileNotFoundError: there is nothing.
        StateError: the file is damaged, or written by a newer version.
        CorruptStateError: it is none of these.
    """
    if path.is_dir():
        return "\n".join(_run(path))
    with path.open("rb") as file:
        magic = file.read(len(SNAPSHOT))
    of_magic = {SNAPSHOT: _snapshot, STATE: _state, SEGMENT: _segment, TAIL: _tail}
    if magic not in of_magic:
        raise CorruptStateError(
            f"{path}: wanted a snapshot (.ahs), a state file, a segment (.ahj) or the tail of a journal, or the folder "
            f"of a run; got something that begins with {magic!r}"
        )
    return "\n".join(of_magic[magic](path))


# --- snapshots


def _snapshot(path: Path) -> list[str]:
    head = read_snapshot_head(path)
    state = read_hub(path, None, None, on_unknown="keep")
    rows = [
        ("kind", "snapshot, format 1; every checksum is right"),
        *_file_rows(path),
        ("written", format_time(head.written / NANOSECONDS)),
        ("run", head.run_id or "-"),
        ("up to seq", "-" if head.seq is None else f"{head.seq:,}"),
    ]
    return [*_table(rows), *_state_lines(state)]


def _state(path: Path) -> list[str]:
    state = read_hub(path, None, None, on_unknown="keep")
    return [*_table([("kind", "state file, format 1; its checksum is right"), *_file_rows(path)]), *_state_lines(state)]


def _state_lines(state: Mapping[str, Any]) -> list[str]:
    extra = state.get("asynchub", {})
    rows = [("hub", repr(state.get("name", ""))), ("step", f"{extra.get('step', 0):,}")]
    if "stop" in extra:
        rows.append(("stop", repr(extra["stop"].get("reason", ""))))
    if extra.get("subscribers"):
        rows.append(("states of", ", ".join(sorted(extra["subscribers"]))))
    found = _Found()
    for key, history in state["log_scalars"].items():
        if isinstance(history, HistoryBuffer):
            values, counts = history.data
            found.lengths[key] = len(values)
            if len(values):
                found.newest[key] = values[-1:].tolist()[0], counts[-1:].tolist()[0]
    found.infos = dict(state["runtime_info"])
    return [*_table(rows), *found.lines()]


# --- journals


def _segment(path: Path) -> list[str]:
    data = path.read_bytes()
    head = read_head(data[:SEGMENT_SIZE])
    found, events, kinds = _Found(), [], Counter[str]()
    end, newest, durable, closed = SEGMENT_SIZE, 0, 0, False
    for frame in frames(data, head.seed):
        end, durable, closed = frame.end, max(durable, frame.durable_seq), frame.kind == Kind.CLOSE
        kinds[Kind(frame.kind).name.lower() if frame.kind in list(Kind) else f"kind {frame.kind}"] += 1
        if frame.kind == Kind.EVENTS:
            events.append(decode_batch(frame.payload))
            newest = frame.last_seq
    found.add(events)
    rest = len(data) - end
    state = "closed" if closed else "open: written at this moment, or its writer was killed"
    rows = [
        ("kind", "segment of a journal, format 1; the checksum of every whole frame is right"),
        *_file_rows(path),
        ("begun", format_time(head.created / NANOSECONDS)),
        ("run", head.run_id.hex()),
        ("number", str(head.number)),
        ("seq", f"{head.first_seq:,} to {newest:,}" if newest else f"from {head.first_seq:,} on, no event yet"),
        ("on the disk", f"up to {durable:,}, as its frames say"),
        ("frames", ", ".join(f"{count} of {kind}" for kind, count in kinds.items()) or "none"),
        ("state", state),
    ]
    if rest:
        rows.append(
            ("behind them", f"{rest:,} bytes that are no whole frame; `asynchub verify` tells if that is damage")
        )
    return [*_table(rows), *found.lines()]


def _tail(path: Path) -> list[str]:
    if path.name != TAIL_NAME:
        raise CorruptStateError(f"{path}: the tail of a journal is named {TAIL_NAME}; name it so, and look again")
    run_id, batches = contents(path.parent)
    found = _Found()
    found.add(batches)
    seqs = [batch.seqs for batch in batches]
    rows = [
        ("kind", "tail of a journal, format 1" if run_id else "tail of a journal, whose head is damaged"),
        *_file_rows(path),
        ("run", run_id.hex() if run_id else "-"),
        ("seq", f"{min(first for first, _ in seqs):,} to {max(last for _, last in seqs):,}" if seqs else "no event"),
    ]
    return [*_table(rows), *found.lines()]


def _run(run: Path) -> list[str]:
    folder = find_journal(run)
    generations = list_generations(run)
    if folder is None and not generations:
        raise FileNotFoundError(f"{run} holds neither a journal nor snapshots; it is not the folder of a run")
    rows = [("kind", "run"), ("folder", str(run))]
    lines: list[str] = []
    if folder is not None:
        journal = read_journal(folder, "salvage")
        found = _Found()
        for after, upto in journal.lineage():
            found.add(journal.batches(after, upto))
        size = sum(segment.size for segment in journal.segments)
        rewound = len(journal.rewinds())
        health = [f"damaged: {damage}" for damage in journal.damages] or ["whole"]
        rows += [
            ("hub", repr(journal.name)),
            ("run", journal.run_id.hex() if journal.run_id else "-"),
            ("journal", f"{len(journal.segments)} segments, {format_quantity('_bytes', size)}"),
            ("seq", f"{journal.first_seq:,} to {journal.last_seq:,}" if journal.last_seq else "no event yet"),
            ("on the disk", f"up to {journal.durable_seq:,}, as the segments say"),
            ("in the tail", f"{sum(batch.size for batch in journal.tail):,} more"),
            ("rewound", f"{rewound} times; what does not count is left out below" if rewound else "never"),
            ("writer", writer_of(folder)),
            *(("health", text) for text in health),
        ]
        lines = found.lines()
    for path in generations:
        size = path.stat().st_size
        rows.append(("snapshot", f"{path.name}, {format_quantity('_bytes', size)}"))
    if not lines:
        lines = _snapshot(generations[0])
    return [*_table(rows), *lines]


# --- lines


class _Found:
    """What events amount to: keys with lengths and newest values."""

    def __init__(self) -> None:
        self.lengths: Counter[str] = Counter()
        self.newest: dict[str, tuple[Any, int]] = {}
        self.infos: dict[str, Any] = {}
        self.others: Counter[str] = Counter()

    def add(self, batches: Iterable[Batch]) -> None:
        """Take events, newer than all before."""
        for batch in batches:
            for one in batch.scalars:
                for number, (key, _) in enumerate(batch.keys):
                    own = (one.whose == number).nonzero()[0]
                    if len(own):
                        self.lengths[key] += len(own)
                        self.newest[key] = one.values[own[-1:]].tolist()[0], one.counts[own[-1:]].tolist()[0]
            for _, data in batch.events:
                event, fields = decode_event(data)
                if isinstance(event, InfoUpdated):
                    self.infos[event.key] = event.value
                elif isinstance(event, InfoRemoved):
                    self.infos.pop(event.key, None)
                else:
                    self.others[str(fields["event"])] += 1

    def lines(self) -> list[str]:
        """Return it as lines."""
        scalars = []
        for key, length in sorted(self.lengths.items()):
            value, count = self.newest.get(key, (None, 1))
            mean = "" if value is None else format_number(value if count in (0, 1) else value / count)
            scalars.append((one_line(key), f"{length:>10,} values", f"newest {mean:>10}"))
        infos = [(one_line(key), one_line(repr(value))[:100]) for key, value in sorted(self.infos.items())]
        others = [(one_line(kind), f"{count:>10,}") for kind, count in sorted(self.others.items())]
        parts = (("scalars", scalars), ("runtime infos", infos), ("other events", others))
        return [line for title, rows in parts if rows for line in ("", f"{title}: {len(rows)}", *_indented(rows))]


def _file_rows(path: Path) -> list[tuple[str, str]]:
    size = os.stat(path).st_size
    return [("file", str(path)), ("size", f"{size:,} bytes")]


def _table(rows: Sequence[tuple[str, str]]) -> list[str]:
    return [f"{name:<12} {one_line(text)}" for name, text in rows]


def _indented(rows: Sequence[tuple[str, ...]]) -> list[str]:
    width = max(len(row[0]) for row in rows)
    lines = [f"  {row[0]:<{width}}  {'  '.join(row[1:])}" for row in rows[:SHOWN]]
    return lines + ([f"  … and {len(rows) - SHOWN} more"] if len(rows) > SHOWN else [])
