"""What every transport refuses before it asks a broker: what no broker could take, and what is of another run."""

from __future__ import annotations

import re
from collections.abc import Sequence

from asynchub.bridges.subjects import Subjects, matches
from asynchub.errors import ArgumentError

__all__ = ("MAX_ID_BYTES", "check_append", "check_data", "check_pattern", "check_patterns", "check_subject", "overlap")

MAX_ID_BYTES = 512
"""Bytes that the identity of a message may take, in UTF-8."""
_SUBJECT = re.compile(r"[!-~]+")
_ID = re.compile(r"[!-~]+")


def check_pattern(pattern: str) -> None:
    """Refuse what is no pattern of subjects.

    Raises:
        ArgumentError: it is not words of printable ASCII joined by dots, or has a ``>`` that is not last.
    """
    if isinstance(pattern, str) and _SUBJECT.fullmatch(pattern):
        *words, last = pattern.split(".")
        if all(words) and last and ">" not in words and all("*" not in one or one == "*" for one in (*words, last)):
            return
    raise ArgumentError(f"wanted words joined by dots, got {pattern!r:.200}; asynchub.bridges.subjects makes them")


def check_subject(subject: str) -> None:
    """Refuse what is not one subject.

    Raises:
        ArgumentError: it is no subject, or a pattern of several.
    """
    check_pattern(subject)
    if not {"*", ">"}.isdisjoint(subject.split(".")):
        raise ArgumentError(f"wanted one subject, got a pattern of several: {subject!r:.200}")


def check_data(data: bytes, limit: int) -> None:
    """Refuse data that is longer than a message may be.

    Raises:
        ArgumentError: it is, or is not bytes.
    """
    if not isinstance(data, bytes):
        raise ArgumentError(f"the data of a message must be bytes, got {type(data).__name__}")
    if len(data) > limit:
        raise ArgumentError(f"a message holds at most {limit} bytes here, got {len(data)}; send it in parts")


def check_append(subjects: Subjects, subject: str, data: bytes, message_id: str, limit: int) -> None:
    """Refuse what the log of a run does not take.

    Raises:
        ArgumentError: the subject is none that the run stores, the data is too long, or the identity is no word of at
            most ``MAX_ID_BYTES`` printable ASCII characters.
    """
    check_subject(subject)
    if not any(matches(pattern, subject) for pattern in subjects.stored):
        raise ArgumentError(f"the log of the run {subjects.run!r} does not store {subject!r:.200}")
    check_data(data, limit)
    if not isinstance(message_id, str) or not _ID.fullmatch(message_id) or len(message_id) > MAX_ID_BYTES:
        raise ArgumentError(
            f"the identity of a message takes 1 to {MAX_ID_BYTES} printable ASCII characters, got {message_id!r:.80}"
        )


def check_patterns(subjects: Subjects, patterns: Sequence[str]) -> None:
    """Refuse to read what the log of a run does not store.

    Raises:
        ArgumentError: there is no pattern, or one that no stored subject matches.
    """
    if isinstance(patterns, str) or not patterns:
        raise ArgumentError(f"wanted one or more patterns of subjects, got {patterns!r:.80}")
    for pattern in patterns:
        check_pattern(pattern)
        if not any(overlap(pattern, stored) for stored in subjects.stored):
            raise ArgumentError(f"the log of the run {subjects.run!r} stores nothing that matches {pattern!r:.200}")


def overlap(one: str, other: str) -> bool:
    """Tell whether some subject matches both patterns."""
    words, others = one.split("."), other.split(".")
    for word, counterpart in zip(words, others, strict=False):
        if ">" in (word, counterpart):
            return True
        if word != counterpart and "*" not in (word, counterpart):
            return False
    return len(words) == len(others)
