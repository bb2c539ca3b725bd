"""The command ``asynchub broker``: a NATS server of one's own, for runs of several ranks and for who watches them."""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

from asynchub.bridges.broker import plan_broker, run_broker

__all__ = ("add_broker_commands", "run_broker_command")


def add_broker_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those of a parser."""
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


def run_broker_command(options: argparse.Namespace) -> int:
    """Do what the command asks for; return its exit status.

    Raises:
        ArgumentError: it asks for something that cannot be.
        BridgeError: the server cannot be run, or ended by itself.
        OSError: the folder cannot be written.
    """
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
