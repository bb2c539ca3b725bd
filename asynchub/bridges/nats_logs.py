"""What JetStream, the part of a NATS server that keeps logs, is asked and answers."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from asynchub.bridges.failures import BridgeError
from asynchub.bridges.subjects import Subjects

__all__ = ("LogMissingError", "LogTakenError", "log_config", "said", "seconds")

LOG_MISSING = 10059
LOG_TAKEN = 10058


class LogMissingError(BridgeError):
    """The broker keeps no log of that name."""


class LogTakenError(BridgeError):
    """The broker keeps a log of that name already, with other settings."""


def said(answer: dict[str, Any]) -> dict[str, Any]:
    """Return what the broker answers.

    Raises:
        LogMissingError, LogTakenError, BridgeError: it answers that it could not do it.
    """
    error = answer.get("error")
    if not error:
        return answer
    code = error.get("err_code", 0) if isinstance(error, dict) else 0
    kind = {LOG_MISSING: LogMissingError, LOG_TAKEN: LogTakenError}.get(code, BridgeError)
    raise kind(f"the broker answers: {error.get('description', error) if isinstance(error, dict) else error}")


def log_config(
    subjects: Subjects, storage: str, max_age: float | None, max_bytes: int | None, window: float, replicas: int
) -> Mapping[str, Any]:
    """Return the settings of a run's log, as the broker wants them."""
    age = 0.0 if max_age is None else max_age
    return {
        "name": subjects.log,
        "subjects": list(subjects.stored),
        "retention": "limits",
        "discard": "old",
        "storage": storage,
        "num_replicas": replicas,
        "max_age": int(age * 1e9),
        "max_bytes": -1 if max_bytes is None else max_bytes,
        "max_msgs": -1,
        "max_msg_size": -1,
        "max_consumers": -1,
        "duplicate_window": int((min(window, age) if age else window) * 1e9),
        "allow_direct": True,
        "allow_rollup_hdrs": True,
    }


def seconds(text: str) -> float:
    """Return a time that the broker writes, such as ``2026-01-31T12:00:00.123456789Z``, in seconds since the epoch.

    Raises:
        BridgeError: it is none.
    """
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError as error:
        raise BridgeError(f"the broker answers {text!r:.80}, which is no time") from error
