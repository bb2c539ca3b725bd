"""The resumable state of a record: taken apart into a dict, and put back.

A state dict has the three entries of mmengine's contract, ``log_scalars``, ``runtime_info`` and ``resumed_keys``. What
a hub adds is in a fourth, ``asynchub``.
"""

from __future__ import annotations

import copy
import functools
import logging
import re
from collections import OrderedDict
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import numpy as np

from asynchub.columns import Array
from asynchub.errors import CorruptStateError, StateDictError
from asynchub.history import FrozenHistory, HistoryBuffer
from asynchub.requests import StopRequested

__all__ = ("copied", "hub_part", "loadable", "packed", "resumable", "thawed", "unpacked")

logger = logging.getLogger("asynchub")
FORMAT = "asynchub hub 1"


def copied(infos: Mapping[str, Any]) -> OrderedDict[str, Any]:
    """Return deep copies of runtime infos; what cannot be copied is taken by reference, with a warning in the log."""
    copies: OrderedDict[str, Any] = OrderedDict()
    for key, value in infos.items():
        try:
            copies[key] = copy.deepcopy(value)
        except Exception:  # whatever a foreign object raises
            logger.warning("%s in message_hub cannot be copied, just return its reference.", key)
            copies[key] = value
    return copies


def _history_of(value: Any) -> HistoryBuffer | None:
    """Return a history as it is, and what looks like mmengine's as a history; None of anything else."""
    if isinstance(value, HistoryBuffer):
        return value
    names = ("max_length", "_log_history", "_count_history")
    if not all(hasattr(value, name) for name in names):
        return None
    history = HistoryBuffer()
    history.__setstate__({name: getattr(value, name) for name in names})
    return history


def _copied_histories(scalars: Mapping[str, Any]) -> dict[str, HistoryBuffer]:
    """Return copies of histories; what is none is left out, with a warning in the log."""
    copies = {}
    for key, value in scalars.items():
        history = _history_of(value)
        if history is None:
            logger.warning("%s in message_hub is not HistoryBuffer, just skip resuming it.", key)
        else:
            copies[key] = copy.deepcopy(history)
    return copies


def resumable(scalars: Mapping[str, Any], infos: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state dict of a record: copies of the keys whose flag is true, histories frozen, and all the flags."""
    return {
        "log_scalars": OrderedDict(
            (key, value.frozen() if isinstance(value, HistoryBuffer) else copy.deepcopy(value))
            for key, value in scalars.items()
            if flags.get(key)
        ),
        "runtime_info": copied({key: value for key, value in infos.items() if flags.get(key)}),
        "resumed_keys": OrderedDict(flags),
    }


def thawed(state: dict[str, Any]) -> dict[str, Any]:
    """Return the state dict that ``resumable`` has frozen, with histories of its own."""
    scalars = state["log_scalars"].items()
    histories = ((key, value.thawed() if isinstance(value, FrozenHistory) else value) for key, value in scalars)
    return {**state, "log_scalars": OrderedDict(histories)}


def loadable(
    state: Any, present: Container[str], fresh: bool = False
) -> tuple[dict[str, Any], dict[str, Any], dict[str, bool], dict[str, Any], bool]:
    """Return copies of what a state, or a hub, brings to a record that has the keys ``present``.

    Args:
        state: the state dict, or the hub.
        present: the keys.
        fresh: whether nobody else has the state dict, so that its infos need not be copied.

    Returns:
        Histories, infos and flags by key, the entry ``asynchub``, and whether all this replaces what is there.

    Raises:
        StateDictError: ``state`` is neither a state dict nor a hub.
    """
    if not isinstance(state, dict):
        parts: list[Any] = [getattr(state, name, None) for name in ("_log_scalars", "_runtime_info", "_resumed_keys")]
        if not all(isinstance(part, dict) for part in parts):
            raise StateDictError(f"load_state_dict takes a state dict or a hub, got {type(state).__name__}")
        scalars, infos, flags = (copy.deepcopy(part) for part in parts)
        return {key: _history_of(value) or value for key, value in scalars.items()}, infos, flags, {}, True
    _checked_state(state)
    scalars = _copied_histories(state["log_scalars"])
    infos = OrderedDict(state["runtime_info"]) if fresh else copied(state["runtime_info"])
    flags = {}
    for key, resumed in state["resumed_keys"].items():
        if key not in scalars and key not in infos and key not in present:
            logger.warning("resumed key: %s is not defined in message_hub, just skip resuming this key.", key)
            continue
        if not resumed:
            logger.warning(
                "Although resumed key: %s is False, %s will still be loaded this time. This key will not be saved by "
                "the next calling of `MessageHub.state_dict()`",
                key,
                key,
            )
        flags[key] = resumed
    return scalars, infos, flags, dict(state.get("asynchub", {})), False


def _is_int64(value: object) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63


def _int64(value: Any) -> int:
    if not _is_int64(value):
        raise ValueError(f"wanted an int of 64 bits, got {value!r:.80}")
    return value  # type: ignore[no-any-return]


def _stamp(seq: Any, at: Any, step: Any) -> tuple[int, float, int | None]:
    return _int64(seq), float(at), None if step is None else _int64(step)


def _checked_state(state: Any) -> dict[str, Any]:
    """Return ``state`` if it is a state dict.

    Raises:
        StateDictError: an entry is missing, or is not a dict; or a flag is not a bool.
    """
    for name in ("log_scalars", "runtime_info", "resumed_keys"):
        if name not in state:
            raise StateDictError(f"The loaded `state_dict` of `MessageHub` must contain key: `{name}`")
        if not isinstance(state[name], dict):
            raise StateDictError(f"`{name}` of a state dict must be a dict, got {type(state[name]).__name__}")
    for key, flag in state["resumed_keys"].items():
        if not isinstance(flag, int | np.bool_):
            raise StateDictError(f"whether {key!r:.80} of a state dict is resumed must be a bool, got {flag!r:.80}")
    extra = state.get("asynchub", {})
    subscribers = extra.get("subscribers", {}) if isinstance(extra, dict) else None
    whole = (
        isinstance(subscribers, dict)
        and all(isinstance(one, dict) and {"state", "seq"} <= one.keys() for one in subscribers.values())
        and all(_is_int64(extra.get(name, 0)) for name in ("step", "seq"))
    )
    if not whole:
        raise StateDictError(f"`asynchub` of a state dict must hold step, seq and subscribers, got {extra!r:.200}")
    return state  # type: ignore[no-any-return]


def hub_part(
    scalars: Mapping[str, Any], extra: Mapping[str, Any]
) -> tuple[StopRequested | None, dict[str, tuple[int, float, int | None]], int, str]:
    """Return the request to stop, the stamps of the runtime infos, the newest ``seq`` and the run of a loaded state.

    Args:
        scalars: the histories of the state, by key.
        extra: its entry ``asynchub``.

    Raises:
        StateDictError: the entry is malformed.
    """
    try:
        stop = StopRequested(**extra["stop"]) if extra.get("stop") else None
        stamps = {key: _stamp(*stamp) for key, stamp in extra.get("info_stamps", {}).items()}
        seqs = [_int64(saved["seq"]) for saved in extra.get("subscribers", {}).values()]
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise StateDictError(f"`asynchub` of a state dict is malformed: {error}") from error
    if stop is not None and not isinstance(stop.reason, str):
        raise StateDictError(f"the reason to stop of a state dict must be a str, got {stop.reason!r:.80}")
    run_id = extra.get("run_id", "")
    if not (isinstance(run_id, str) and re.fullmatch("([0-9a-f]{32})?", run_id)):
        raise StateDictError(f"the run of a state dict must be 32 hexadecimal digits, got {run_id!r:.80}")
    seqs += [seq for seq, _, _ in stamps.values()]
    for history in scalars.values():
        if isinstance(history, HistoryBuffer):
            seqs += history.records().seqs[-1:].tolist()
    return stop, stamps, max(extra.get("seq", 0), *seqs, 0), run_id


def _numbered(columns: Sequence[Array], number: Any) -> Array:
    if type(number) is not int or not 0 <= number < len(columns):
        raise CorruptStateError(f"a column is named by its number, one of {len(columns)}, got {number!r:.80}")
    return columns[number]


def packed(state: dict[str, Any], name: str, put: Callable[[Array], Any]) -> dict[str, Any]:
    """Return ``state`` as a tree that ``asynchub.codec`` can write, with what ``put`` makes of each column.

    The run is left out: the head of a file names it.
    """
    scalars = [[key, history.packed(put)] for key, history in state["log_scalars"].items()]
    return {
        "format": FORMAT,
        "name": name,
        "log_scalars": scalars,
        "runtime_info": dict(state["runtime_info"]),
        "resumed_keys": dict(state["resumed_keys"]),
        "asynchub": {key: value for key, value in state.get("asynchub", {}).items() if key != "run_id"},
    }


def unpacked(tree: Any, columns: Sequence[Array] | None = None) -> dict[str, Any]:
    """Return the state dict that ``packed`` made a tree of.

    Args:
        tree: the tree, from anywhere.
        columns: those of the snapshot it is from; None if it holds them itself.

    Raises:
        StateDictError: it is not one.
    """
    said = tree.get("format") if isinstance(tree, dict) else None
    if not isinstance(said, str) or said != FORMAT:  # an array compares to an array
        raise StateDictError(f"wanted the state of a hub, got {tree!r:.200}; was it written by hub.save()?")
    scalars: OrderedDict[str, HistoryBuffer] = OrderedDict()
    entries = tree.get("log_scalars", [])
    if not isinstance(entries, list):
        raise StateDictError(f"the scalars of a saved state are a list, got {entries!r:.200}")
    for entry in entries:
        if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)):
            raise StateDictError(f"a scalar of a saved state must be [key, history], got {entry!r:.200}")
        history = HistoryBuffer()
        history.__setstate__(entry[1], None if columns is None else functools.partial(_numbered, columns))
        scalars[entry[0]] = history
    return _checked_state({**tree, "log_scalars": scalars})
