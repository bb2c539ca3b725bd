"""The commands of ``asynchub`` that have to do with brokers: ``request``, ``broker``, ``spool``, ``tail --broker``."""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

__all__ = ("add_afar_commands", "broker", "request", "spool", "tail")


def add_afar_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add them to the commands of a parser."""
    _add_request(commands)
    _add_broker(commands)
    _add_spool(commands)


def _add_request(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    request = commands.add_parser(
        "request",
        help="ask something of a run at a broker: stop, checkpoint, set a parameter",
        description="Ask something of a run at a broker, and wait for what becomes of it. The run must allow it "
        "(allow= of its Bridge). Exit status 0: it was applied; 1: it was not.",
    )
    request.add_argument("run", help="name of the run")
    request.add_argument("what", choices=("stop", "checkpoint", "pause", "resume", "skip", "rollback", "set"))
    request.add_argument("arguments", nargs="*", metavar="NAME VALUE", help="of set: a parameter, e.g. lr 0.01")
    request.add_argument("--broker", metavar="URL", required=True, help="e.g. nats://localhost")
    request.add_argument("--reason", default="", help="why")
    request.add_argument("--author", default="", help="who asks (default: the user)")
    request.add_argument("--timeout", type=_seconds, default=30.0, help="seconds to wait (default: %(default)s)")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"wanted seconds, more than 0, got {text!r}")
    return seconds


def request(options: argparse.Namespace) -> int:
    """Ask something of a run."""
    from asynchub.afar import ask, request_of
    from asynchub.errors import ArgumentError, WaitTimeoutError

    try:
        asked = request_of(options.what, options.arguments, options.reason, options.author)
    except ValueError as error:
        raise ArgumentError(str(error)) from error
    try:
        applied, outcome = ask(options.broker, options.run, asked, options.timeout)
    except WaitTimeoutError:
        applied, outcome = False, f"nothing came of it in {options.timeout:g} s: does the run still settle?"
    print(outcome)
    return 0 if applied else 1


def tail(options: argparse.Namespace, count: int | None) -> int:
    """Show the newest events of a run at a broker."""
    from asynchub.afar import look_afar

    show = functools.partial(print, flush=options.follow)
    look_afar(
        options.broker,
        options.run,
        options.patterns,
        show,
        count=count,
        live=options.follow,
        as_json=options.json,
        ranks=options.rank,
    )
    return 0


def _add_broker(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    broker = commands.add_parser(
        "broker",
        help="run a NATS server that carries runs to other processes and machines",
        description="Run a NATS server that carries runs to other processes and machines.",
    )
    verbs = broker.add_subparsers(dest="verb", required=True, metavar="VERB")
    up = verbs.add_parser(
        "up",
        help="configure and run a server, until Ctrl-C",
        description="Configure and run a NATS server with JetStream, until Ctrl-C. It lets in three users, each with a "
        "random password: 'run' for ranks, 'viewer' for who watches, 'controller' for who also steers. Their URLs are "
        "written to DIR/run.url, DIR/viewer.url and DIR/controller.url. What it stores stays in DIR, and is there the "
        "next time. The server itself is to be installed: nats-server 2.10 or newer.",
    )
    up.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=Path("asynchub-broker"),
        metavar="DIR",
        help="folder for all that it has: a new one, or one of an earlier time (default: %(default)s)",
    )
    up.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine only)"
    )
    up.add_argument("--port", type=int, default=4222, help="port to listen on (default: %(default)s)")
    up.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate to show, and the chain behind it")
    up.add_argument("--tls-key", type=Path, metavar="FILE", help="its key")
    up.add_argument("--insecure", action="store_true", help="let other machines reach it without TLS")
    up.add_argument("--server", metavar="PROGRAM", help="the nats-server to run (default: the one that is installed)")
    up.add_argument(
        "--print-config",
        action="store_true",
        help="print the configuration, passwords included, and write and run nothing",
    )


def broker(options: argparse.Namespace) -> int:
    """Configure and run a server.

    Raises:
        ArgumentError: it asks for something that cannot be.
        BridgeError: the server cannot be run, or ended by itself.
        OSError: the folder cannot be written.
    """
    from asynchub.bridges.broker import plan_broker, run_broker

    plan = plan_broker(
        options.folder,
        host=options.host,
        port=options.port,
        tls_cert=options.tls_cert,
        tls_key=options.tls_key,
        insecure=options.insecure,
    )
    if options.print_config:
        print(plan.config, end="")
        return 0
    run_broker(plan, functools.partial(print, flush=True), server=options.server)
    return 0


def _add_spool(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    spool = commands.add_parser(
        "spool",
        help="show or send what ranks have left for a broker",
        description="What a rank could not bring to its broker waits in its spool. The next process of the rank sends "
        "it; `asynchub spool push` does where there will be none.",
    )
    kinds = spool.add_subparsers(dest="kind", required=True, metavar="WHAT")
    show = kinds.add_parser(
        "show",
        help="tell what waits",
        description="Tell what waits in the spools of ranks. Nothing is locked, nothing is changed.",
    )
    pushing = kinds.add_parser(
        "push",
        help="send what waits to a broker",
        description="Send what waits in the spools of ranks to a broker, which is asked first what it has. A spool "
        "whose process is alive is left alone. Exit status 1 if something is left.",
    )
    for one in (show, pushing):
        one.add_argument("folder", type=Path, metavar="DIR", help="the spool of a rank, or a folder above several")
    pushing.add_argument("url", metavar="URL", help="of the broker, e.g. nats://user:password@host:4222")
    pushing.add_argument("--credentials", type=Path, metavar="FILE", help="with a JWT and a key, for the broker")
    pushing.add_argument(
        "--timeout", type=_seconds, default=10.0, help="seconds the broker may take to answer (default: %(default)s)"
    )


def spool(options: argparse.Namespace) -> int:
    """Show what waits in spools, or send it."""
    from asynchub.spooling import run_spool_command

    return run_spool_command(options, functools.partial(print, flush=True))
