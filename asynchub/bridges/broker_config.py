"""The configuration of a NATS server for runs: three kinds of users, each with what it needs and no more.

    run          a rank: appends to the logs of runs, tells that it lives, answers commands
    viewer       reads the logs, hears who lives
    controller   a viewer that may send commands

Nobody else is let in. Answers come on subjects that begin with ``_INBOX.<user>.``: none reads what another is answered.
Among runs there is no wall: who may append to one may append to all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from asynchub.bridges.subjects import ROOT

__all__ = ("USERS", "broker_config")

USERS = ("run", "viewer", "controller")

MAX_PAYLOAD = 2**20
"""Bytes of a message, with its headers."""
ANSWER_TIME = "5m"
"""How long a rank may take to answer a command."""

_STORED = (f"{ROOT}.*.ev.*.*", f"{ROOT}.*.snap.*.*")
_ALIVE = f"{ROOT}.*.hb.*"
_COMMANDS = f"{ROOT}.*.ctl.>"
_STATE_OF_LOG = "$JS.API.STREAM.INFO.*"
_NEWEST = tuple(f"$JS.API.DIRECT.GET.*.{stored}" for stored in _STORED)
_READ = ("$JS.API.CONSUMER.CREATE.*.*", "$JS.API.CONSUMER.MSG.NEXT.*.*")

_PUBLISH = {
    "run": (*_STORED, _ALIVE, "$JS.API.STREAM.CREATE.*", _STATE_OF_LOG, *_NEWEST),
    "viewer": (_STATE_OF_LOG, *_NEWEST, *_READ),
    "controller": (_STATE_OF_LOG, *_NEWEST, *_READ, _COMMANDS),
}
_SUBSCRIBE = {"run": (_COMMANDS,), "viewer": (_ALIVE,), "controller": (_ALIVE,)}


def broker_config(
    passwords: Mapping[str, str],
    *,
    host: str,
    port: int,
    store: Path,
    log_file: Path | None = None,
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
) -> str:
    """Return the text of a configuration file.

    Args:
        passwords: of each of the ``USERS``.
        host: address to listen on.
        port: to listen on.
        store: folder for the logs of runs.
        log_file: what the server says goes there; None for its stderr.
        tls_cert: certificate that the server shows, and the chain behind it; None without TLS.
        tls_key: its key.
    """
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [
        "# Written by `asynchub broker up`, which writes it anew each time.",
        f"listen: {_quoted(address)}",
        f"max_payload: {MAX_PAYLOAD}",
        f"jetstream {{ store_dir: {_quoted(store)} }}",
    ]
    if log_file is not None:
        lines += [f"log_file: {_quoted(log_file)}", "logfile_size_limit: 10MB", "logfile_max_num: 2"]
    if tls_cert is not None:
        lines.append(f"tls {{ cert_file: {_quoted(tls_cert)}, key_file: {_quoted(tls_key or tls_cert)} }}")
    lines += ["authorization {", "  users: ["]
    for user in USERS:
        lines += _user(user, passwords[user])
    lines += ["  ]", "}", ""]
    return "\n".join(lines)


def _user(user: str, password: str) -> list[str]:
    subscribe = (*_SUBSCRIBE[user], f"_INBOX.{user}.>")
    lines = [
        "    {",
        f"      user: {_quoted(user)}, password: {_quoted(password)}",
        "      permissions: {",
        f"        publish: {{ allow: [{_listed(_PUBLISH[user])}] }}",
        f"        subscribe: {{ allow: [{_listed(subscribe)}] }}",
    ]
    if user == "run":
        lines.append(f'        allow_responses: {{ max: 1, expires: "{ANSWER_TIME}" }}')
    return [*lines, "      }", "    }"]


def _listed(subjects: tuple[str, ...]) -> str:
    return ", ".join(map(_quoted, subjects))


def _quoted(text: str | Path) -> str:
    return json.dumps(str(text), ensure_ascii=False)
