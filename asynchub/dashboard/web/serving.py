"""``asynchub serve``: runs for a web browser on this machine, until Ctrl-C.

Reach: it listens on this machine only. Any other address needs ``--host`` and the names under which it is reached
    (``--allow-host``). From elsewhere: a tunnel of ssh.
Who: whoever has one of its two tokens, which it prints when it starts; see ``asynchub.dashboard.web.guard``.
Steering: nothing can be asked of a run unless it is started with ``--allow``.
"""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import threading
import webbrowser
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from asynchub.dashboard.asking import ask
from asynchub.dashboard.colours import Colours
from asynchub.dashboard.gallery import Gallery
from asynchub.dashboard.screen import Asked
from asynchub.dashboard.standing_back import stand_back
from asynchub.dashboard.web.app import web_app
from asynchub.dashboard.web.guard import Names, names_of
from asynchub.dashboard.web.http_server import http_server, listening, listening_at
from asynchub.dashboard.web.kept_page import kept_page
from asynchub.dashboard.web.page_files import page_files
from asynchub.dashboard.web.remote_runs import RemoteRuns, following
from asynchub.dashboard.web.source import Ask, Source, WhatIf
from asynchub.dashboard.web.steering import Steering
from asynchub.dashboard.web.tokens import Secrets, Tokens, kept_secrets, new_secrets
from asynchub.errors import ArgumentError
from asynchub.requests import Request
from asynchub.subscribers.display import one_line

__all__ = ("PORT", "Serving", "serve")

PORT = 6116
LOOPBACK = "127.0.0.1"
EVERYWHERE = ("0.0.0.0", "::")


@dataclass(frozen=True, slots=True)
class Serving:
    """What is served, and to whom.

    Attributes:
        folders: of runs, or of several.
        host: address to listen on.
        port: to listen on; None for ``PORT``, or the next one that is free.
        allow: what may be asked of the runs: ``"stop"``, ``"lr"``, ``"checkpoint"``, ``"pause"``, ``"set/NAME"``.
        allow_hosts: further names under which the server is reached, with a port unless it is the same.
        uds: path of a socket to listen on instead, which only this user can reach; None for none.
        token_file: where the tokens are kept; None for new ones, which are printed.
        cache: folder for what viewers keep; None for the user's own.
        open_browser: whether to open the page in a browser.
        broker: URL of a broker; "" for none.
        runs: names of runs at the broker.
    """

    folders: tuple[Path, ...] = ()
    host: str = LOOPBACK
    port: int | None = None
    allow: tuple[str, ...] = ()
    allow_hosts: tuple[str, ...] = ()
    uds: Path | None = None
    token_file: Path | None = None
    cache: Path | None = None
    open_browser: bool = False
    broker: str = ""
    runs: tuple[str, ...] = ()

    def check(self) -> None:
        """Return if this can be served.

        Raises:
            ArgumentError: it cannot, or not safely.
        """
        if not self.folders and not self.broker:
            raise ArgumentError("give the folder of a run, or one in which there are some, or --broker and --run")
        if bool(self.broker) != bool(self.runs):
            raise ArgumentError("--broker takes the names of runs at it, each with --run, and --run takes a --broker")
        for folder in self.folders:
            if not folder.is_dir():
                raise ArgumentError(f"there is no folder {str(folder)!r:.300}: give that of a run, or one with some")
        if self.port is not None and not 0 <= self.port < 2**16:
            raise ArgumentError(f"a port is a number up to 65535, got {self.port}")
        if self.uds is not None:
            if self.host != LOOPBACK or self.open_browser:
                raise ArgumentError("--uds stands for --host, and no browser can open it: ssh -L leads to it")
            if not hasattr(socket, "AF_UNIX"):
                raise ArgumentError("this system has no Unix sockets: leave --uds out")
        elif not _is_loopback(self.host) and not self.allow_hosts:
            raise ArgumentError(
                f"at {self.host!r:.80} other machines could reach the server, without TLS: leave --host out and use "
                "ssh -L; or say under which names it is to be reached, with --allow-host NAME, if the network is safe"
            )


def serve(
    serving: Serving,
    say: Callable[[str], object],
    *,
    what_if: WhatIf | None = None,
) -> None:
    """Serve until a signal; the process takes what others leave of the processor.

    Args:
        serving: what, and to whom.
        say: called with lines for the user, once it is ready.
        what_if: tries a rule on runs; see ``Source``.

    Raises:
        ArgumentError: this cannot be served, or not safely.
        AsyncHubError: the broker is not to be had.
        OSError: a file cannot be read or written.
    """
    serving.check()
    steering = Steering(serving.allow)
    secrets = new_secrets() if serving.token_file is None else kept_secrets(serving.token_file)
    with ExitStack() as stack:
        bound = stack.enter_context(_listening(serving))
        if serving.uds is not None:
            stack.callback(serving.uds.unlink, missing_ok=True)
        port = serving.port or PORT if serving.uds is not None else bound.getsockname()[1]
        names = _names(serving, port)
        folders = list(serving.folders)
        asking: Ask = partial(ask, author=steering.author)
        hubs: Mapping[Path, object] = {}
        if serving.broker:
            remote = stack.enter_context(following(serving.broker, serving.runs, serving.cache, steering.author))
            folders.append(remote.folder)
            asking, hubs = partial(_ask_either, remote, asking), remote.hubs
        gallery = Gallery(folders, serving.cache)
        files, problem = page_files()
        source = Source(
            gallery,
            steering,
            ask=asking if steering.rules else None,
            what_if=what_if,
            remote=hubs,
            colours=Colours(serving.cache).of,
        )
        app = web_app(source, names, Tokens(secrets, steering=bool(steering.rules)), files, export=kept_page)
        stand_back()  # what it takes, a training on this machine would lack
        for line in _lines(serving, steering, secrets, port, len(gallery.rows()), gallery.problem, problem):
            say(line)
        if serving.open_browser:
            webbrowser.open(f"http://{_address(serving, port)}/#t={secrets.view}")
        stack.enter_context(_signals_interrupt())
        try:
            http_server(app).run(sockets=[bound])
        except KeyboardInterrupt:
            say("ended")


@contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Let SIGTERM end what is inside as Ctrl-C does, so that what was begun is ended."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _ask_either(remote: RemoteRuns, local: Ask, folder: Path, request: Request) -> Asked:
    return (remote.ask if folder in remote.hubs else local)(folder, request)


def _listening(serving: Serving) -> socket.socket:
    if serving.uds is not None:
        return listening_at(serving.uds)
    return listening(serving.host, PORT if serving.port is None else serving.port, or_next=serving.port is None)


def _names(serving: Serving, port: int) -> Names:
    names = names_of(port, serving.allow_hosts)
    if serving.uds is None:
        return names
    return Names([*(host.decode("ascii") for host in names.hosts), "localhost"])  # as curl --unix-socket says it


def _lines(serving: Serving, steering: Steering, secrets: Secrets, port: int, count: int, *problems: str) -> list[str]:
    """Return what to say when it starts."""
    where = one_line(", ".join([*map(str, serving.folders), *(f"{run} at the broker" for run in serving.runs)]))
    lines = [f"asynchub serves {where}: {count} {'run' if count == 1 else 'runs'}"]
    lines += [f"  note: {problem}" for problem in problems if problem]
    base = f"http://{_address(serving, port)}/"
    if serving.token_file is not None:
        lines += [f"  {base}#t=TOKEN, with a token of {serving.token_file}"]
    else:
        lines += [f"  to look   {base}#t={secrets.view}"]
        if steering.rules:
            lines += [f"  to steer  {base}#t={secrets.steer}"]
    if steering.rules:
        lines += [f"  allowed: {', '.join(steering.rules)}, of runs that allow it, too"]
    if serving.uds is not None:
        lines += [
            f"  it listens at {serving.uds}, for this user alone: ssh -L {port}:{os.path.abspath(serving.uds)} HOST"
        ]
    elif _is_loopback(serving.host):
        machine = socket.gethostname()
        lines += [f"  from another machine: ssh -L {port}:{LOOPBACK}:{port} {machine}, then the same address there"]
    else:
        lines += [
            f"  it listens on {serving.host} for {', '.join(serving.allow_hosts)}, WITHOUT TLS: who can read the "
            "network between can read the token"
        ]
    return [*lines, "Ctrl-C ends it."]


def _address(serving: Serving, port: int) -> str:
    """Return where to reach it from this machine."""
    if serving.host == "::1":
        return f"[::1]:{port}"
    if _is_loopback(serving.host) or serving.host in EVERYWHERE:
        return f"{LOOPBACK}:{port}"
    name = serving.allow_hosts[0]
    return name if ":" in name.rpartition("]")[2] else f"{name}:{port}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
