"""Whether a run is whole: every byte of its snapshots and its journal is read, and every value decoded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from asynchub.batches import decode_batch, decode_event
from asynchub.errors import StateError
from asynchub.generations import list_generations
from asynchub.hubfile import read_hub
from asynchub.journal.folder import find_journal
from asynchub.journal.frames import Kind
from asynchub.journal.reading import Journaled, Segment, read_journal
from asynchub.snapshot import MAGIC as SNAPSHOT
from asynchub.snapshot import read_head
from asynchub.statefile import MAGIC as STATE

__all__ = ("Finding", "verify_run")


@dataclass(frozen=True, slots=True)
class Finding:
    """What is said of one part of a run.

    Attributes:
        path: the part.
        health: ``"whole"``; ``"torn"``: it ends in a write that was never acknowledged; ``"damaged"``: something that
            had been acknowledged is lost.
        text: more about it.
    """

    path: Path
    health: Literal["whole", "torn", "damaged"]
    text: str

    def __str__(self) -> str:
        return f"{self.health:<8} {self.path.name}: {self.text}"


def verify_run(run: Path) -> Iterator[Finding]:
    """Yield what is to be said of each snapshot, state file and segment of a run. Nothing is changed.

    Args:
        run: its folder, or that of its journal.

    Raises:
        FileNotFoundError: there is nothing to verify.
        StateError: files of several runs are mixed, or a newer version wrote them.
    """
    folder = find_journal(run)
    states = [path for path in sorted(run.iterdir()) if _is_state(path)] if run.is_dir() else []
    if folder is None and not states:
        raise FileNotFoundError(f"{run} holds neither a journal nor a snapshot; give the folder of a run")
    for path in states:
        yield _state(path)
    if folder is not None:
        yield from _journal(run, read_journal(folder, "salvage"))


def _is_state(path: Path) -> bool:
    if path.name.startswith(".") or not path.is_file():
        return False
    with path.open("rb") as file:
        return path.suffix in (".ahs", ".ahc") or file.read(len(SNAPSHOT)) in (SNAPSHOT, STATE)


def _state(path: Path) -> Finding:
    try:
        state = read_hub(path, None, None, on_unknown="keep")
    except (StateError, OSError) as error:
        return Finding(path, "damaged", str(error))
    keys = f"{len(state['log_scalars'])} scalars, {len(state['runtime_info'])} infos"
    seq = state.get("asynchub", {}).get("seq")
    return Finding(path, "whole", keys if seq is None else f"{keys}, up to event {seq}")


def _journal(run: Path, journal: Journaled) -> Iterator[Finding]:
    for segment in journal.segments:
        yield from _segment(journal, segment)
    if journal.tail:
        first, last = journal.tail[0].seqs[0], journal.tail[-1].seqs[1]
        broken = [error for batch in journal.tail for _, data in batch.events if (error := _broken_event(data))]
        yield Finding(
            journal.folder / "tail.mm",
            "damaged" if broken else "whole",
            "; ".join(broken) or f"events {first} to {last}",
        )
    if journal.first_seq > 1:
        covered = max((_covered(path) for path in list_generations(run)), default=0) if run.is_dir() else 0
        if covered < journal.first_seq - 1:
            text = (
                f"begins with event {journal.first_seq}, and snapshots hold what came before event {covered + 1} only"
            )
            yield Finding(journal.folder, "damaged", text)


def _covered(path: Path) -> int:
    """Return up to which ``seq`` a snapshot holds everything; 0 of one that is damaged."""
    try:
        return read_head(path).seq or 0
    except (StateError, OSError):
        return 0


def _segment(journal: Journaled, segment: Segment) -> Iterator[Finding]:
    damages = [damage for damage in journal.damages if damage.path == segment.path]
    for damage in damages:
        upto = "what follows" if damage.last_seq is None else damage.last_seq
        text = f"from byte {damage.offset} on: events {damage.first_seq} to {upto} are lost"
        yield Finding(segment.path, "damaged", text)
    count = 0
    for frame in segment.frames:
        if frame.kind != Kind.EVENTS:
            continue
        try:
            batch = decode_batch(frame.payload)
            broken = [error for _, data in batch.events if (error := _broken_event(data))]
            count += batch.size
        except StateError as error:
            broken = [str(error)]
        if broken:
            seqs = f"events {frame.first_seq} to {frame.last_seq}"
            yield Finding(segment.path, "damaged", f"byte {frame.start}: {seqs}: {'; '.join(broken)}")
    if damages:
        return
    if segment.torn:
        text = f"{count} events; {segment.torn} bytes behind them are an unfinished write that nobody was promised"
        yield Finding(segment.path, "torn", text)
    else:
        yield Finding(segment.path, "whole", f"{count} events{', closed' if segment.closed else ''}")


def _broken_event(data: bytes) -> str | None:
    try:
        decode_event(data)
    except StateError as error:
        return str(error)
    return None
