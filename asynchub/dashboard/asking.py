"""Asking a run for something through its control folder, and what became of that.

Written down: ``ask`` appends one line to a file, and waits for nothing but that file's lock, for a second at most. The
    run decides; it says so in its journal.
Refused at once: what the run does not allow, or takes no such value for, or if it has ended; so that whoever asks hears
    it before anything is written.
Damage: a torn line of somebody who was killed amid it spoils no other.
Threads: any.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
import time
import uuid
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from asynchub.allowing import COMMANDS, Allowed, in_words
from asynchub.control_folder import (
    EXPIRED,
    FOLDER,
    MANY_BYTES,
    REQUESTS,
    ControlError,
    Offer,
    Written,
    check_value,
    pack_request,
    read_offer,
    unpack_request,
)
from asynchub.dashboard.screen import Asked, Steerable
from asynchub.dashboard.writers import writer_in
from asynchub.errors import ArgumentError
from asynchub.events import Event
from asynchub.requests import Request, RequestApplied, RequestRefused
from asynchub.subscribers.display import format_duration, one_line

if sys.platform != "win32":
    import fcntl

__all__ = ("allowed_by", "ask", "asked", "steerable")

SHORT = {"lr": ("set/lr",), "pause": ("pause", "resume")}
"""What a word of ``--allow`` stands for, if not for itself."""
NOT_ATTACHED = "the run does not let itself be steered: attach RemoteControl"
LATE = 5.0
"""Seconds after its expiry that a request may still be on its way through the journal."""
LOCKED = 1.0
"""Seconds that the lock of the requests is waited for."""
LOOK = 0.01
SHOWN = 2**18
"""Bytes of the newest requests that are looked at."""
_SAFE = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)


def allowed_by(words: Iterable[str]) -> Allowed:
    """Return what a viewer lets be asked that was started with some words, whatever the runs allow.

    Args:
        words: of ``--allow``: ``"stop"``, ``"checkpoint"``, ``"pause"``, ``"lr"``, ``"set/NAME"``, …

    Raises:
        ArgumentError: a word is none.
    """
    try:
        return Allowed(dict.fromkeys(rule for word in words for rule in SHORT.get(word, (word,))))
    except ArgumentError as error:
        raise ArgumentError(f"--allow: {error}; lr is short for set/lr, pause for pause,resume") from error


def steerable(run_folder: Path) -> tuple[tuple[Steerable, ...], str]:
    """Return what a run lets be asked for now, and why it is nothing, or not everything; empty if it is everything.

    Args:
        run_folder: of the run.
    """
    try:
        offer = _living(run_folder)
    except ControlError as error:
        return (), str(error)
    allowed = Allowed(offer.allow)
    words = allowed.words - ({"pause"} if offer.paused else {"resume"})
    offered = [Steerable(word, note=_note(word, offer)) for word in COMMANDS if word in words]
    offered += [
        Steerable("set", one.name, offer.values.get(one.name), one.low, one.high, one.note)
        for one in offer.parameters
        if allowed.allows_name(one.name)
    ]
    return tuple(offered), _why_not_all(offer, allowed)


def _note(word: str, offer: Offer) -> str:
    return {
        "stop": "end training at the next safe point",
        "checkpoint": "write a checkpoint",
        "pause": f"wait at the next safe point, for {format_duration(offer.longest_pause)} at most",
        "resume": "go on after the pause",
        "skip": "skip the update of a step",
        "rollback": "go back to the newest checkpoint",
    }.get(word, "")


def _why_not_all(offer: Offer, allowed: Allowed) -> str:
    if not offer.allow:
        return "the run lets nothing be asked for (allow= of its RemoteControl)"
    missing = [word for word in ("stop", "checkpoint", "pause") if word not in allowed.words]
    if not any(rule.startswith("set/") for rule in offer.allow):
        missing.append("to set a parameter")
    elif not offer.parameters:
        missing.append("to set a parameter, as none is declared (bounds= of its RemoteControl)")
    return f"the run does not allow {', '.join(missing)}" if missing else ""


def _living(run_folder: Path) -> Offer:
    """Return the offer of a run that lives, as far as can be told.

    Raises:
        ControlError: there is none, or the run has ended.
    """
    folder = Path(run_folder) / FOLDER
    offer = read_offer(folder)
    if offer is None:
        raise ControlError(NOT_ATTACHED)
    if offer.ended is not None:
        raise ControlError("the run has ended")
    if offer.host == socket.gethostname() and writer_in(folder) not in ("alive", "unseen"):
        raise ControlError(f"the run has ended: its process {offer.pid} is gone")
    return offer


def ask(run_folder: Path, request: Request, *, author: str, expires: float = 60.0) -> Asked:
    """Ask a run for something: write it down for it; return it as asked.

    Args:
        run_folder: of the run.
        request: what to ask; one without an ``id`` gets one. The same ``id`` asked again counts once.
        author: who asks; what the request has is not looked at.
        expires: seconds in which the run has to see it, up to 3,600; after that it does not count.

    Raises:
        ControlError: the run has ended, does not allow it, or takes no such value; or it cannot be written down. The
            text says what to do.
    """
    offer = _living(run_folder)
    request = replace(request, author=author, id=request.id or uuid.uuid4().hex)
    allowed = Allowed(offer.allow)
    known = {one.name: one for one in offer.parameters}
    try:
        why = allowed.why_not(request, "RemoteControl")
        if not why:
            check_value(request, known.get, offer.longest_pause)
    except ArgumentError as error:
        raise ControlError(str(error)) from error
    if why:
        raise ControlError(why)
    now = time.time()
    _append(Path(run_folder) / FOLDER / REQUESTS, pack_request(
        Written(request, offer.run_id, offer.incarnation, now, expires)
    ))  # fmt: skip
    return _as_asked(request, "requested", now)


def _append(path: Path, line: bytes) -> None:
    """Append a line to the requests.

    Raises:
        ControlError: that cannot be done.
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_APPEND | _SAFE)
        try:
            _write(path, file, line)
        finally:
            os.close(file)
    except OSError as error:
        advice = {
            errno.ENOENT: "the run has removed it, or somebody else: ask again in a moment",
            errno.EACCES: "only the user that runs it can steer it, through its folder",
            errno.EPERM: "only the user that runs it can steer it, through its folder",
            errno.EROFS: "the folder is on a read-only file system here: ask on the machine that runs it",
            errno.ELOOP: "it is a link, which is not followed: remove it",
            errno.ENOSPC: "make room, and ask again",
        }.get(error.errno or 0, "ask again")
        raise ControlError(f"the run cannot be asked: {path}: {error.strerror}; {advice}") from error


def _write(path: Path, file: int, line: bytes) -> None:
    found = os.fstat(file)
    if not stat.S_ISREG(found.st_mode):
        raise ControlError(f"the run cannot be asked: {path} is no plain file: remove it")
    _lock(file)
    size = os.fstat(file).st_size
    if size > MANY_BYTES:
        raise ControlError(f"the run does not read what it is asked: {path} has {size} bytes; does it still go on?")
    if size and os.pread(file, 1, size - 1) != b"\n":  # somebody was killed amid a line
        line = b"\n" + line
    try:
        written = os.write(file, line)
    except OSError:
        os.ftruncate(file, size)
        raise
    if written != len(line):
        os.ftruncate(file, size)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _lock(file: int) -> None:
    """Wait for the lock for a while; where there is none, an append is whole all the same."""
    if sys.platform == "win32":
        return
    until = time.monotonic() + LOCKED
    while time.monotonic() < until:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOOK)
        except OSError:
            return
        else:
            return


def asked(run_folder: Path, events: Iterable[Event], now: float | None = None) -> tuple[Asked, ...]:
    """Return what was asked of a run lately and what became of it, the newest first.

    Args:
        run_folder: of the run.
        events: its requests with an ``id``, and what became of them: ``Request``, ``RequestApplied``,
            ``RequestRefused``; others are passed over.
        now: the time, in seconds since the epoch; None for that of this machine.
    """
    now = time.time() if now is None else now
    found: dict[str, Asked] = {}
    seen: dict[int, Asked] = {}
    for written in _written(Path(run_folder) / FOLDER / REQUESTS):
        late = now > written.time + written.expires + LATE
        found.setdefault(
            written.request.id, _as_asked(written.request, "expired" if late else "requested", written.time)
        )
    for event in events:
        match event:
            case Request(id=request_id) if request_id:
                before = found.get(request_id)
                found[request_id] = _as_asked(event, "seen", event.time if before is None else before.time)
                seen[event.seq] = found[request_id]
            case RequestApplied(id=request_id) if request_id:
                found[request_id] = replace(_of(event, found, seen), state="applied", step=event.step)
            case RequestRefused(id=request_id) if request_id and _counts(event, found):
                state: Any = "expired" if event.error.startswith(EXPIRED) else "refused"
                found[request_id] = replace(
                    _of(event, found, seen), state=state, step=event.step, error=one_line(event.error)
                )
    return tuple(sorted(found.values(), key=lambda one: one.time, reverse=True))


def _counts(event: RequestRefused, found: dict[str, Asked]) -> bool:
    """Tell whether a refusal is of the request itself: not of a second one, that was asked with its ``id``."""
    before = found.get(event.id)
    return before is None or event.request_seq >= 0 or before.state in ("requested", "expired")


def _of(event: RequestApplied | RequestRefused, found: dict[str, Asked], seen: dict[int, Asked]) -> Asked:
    """Return what was asked, known by its id or by the ``seq`` of its event; of what only its end is known, that."""
    known = found.get(event.id) or seen.get(event.request_seq)
    if known is not None:
        return known
    words = {kind.__name__: word for word, kind in COMMANDS.items()}
    what = words.get(event.request, event.request)
    return Asked(event.id, one_line(what), one_line(event.author), one_line(event.reason), "seen", time=event.time)


def _as_asked(request: Request, state: Any, when: float) -> Asked:
    return Asked(
        request.id, one_line(in_words(request)), one_line(request.author), one_line(request.reason), state, time=when
    )


def _written(path: Path) -> list[Written]:
    """Return the newest requests in a file, oldest first; what is none is passed over."""
    try:
        file = os.open(path, os.O_RDONLY | _SAFE)
    except OSError:
        return []
    with open(file, "rb") as opened:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            return []
        opened.seek(max(found.st_size - SHOWN, 0))
        data = opened.read(SHOWN)
    requests = []
    for line in data.split(b"\n"):
        try:
            requests.append(unpack_request(line))
        except ControlError:  # an empty line, a torn one, or the end of one
            continue
    return requests
