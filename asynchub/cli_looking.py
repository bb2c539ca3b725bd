"""The commands of ``asynchub`` that show runs to people: ``serve``, ``watch``, ``plot``."""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

__all__ = ("add_looking_commands", "plot", "serve", "watch")

ALLOW = (
    "what may be asked of the runs, if they allow it, too: stop, lr, checkpoint, pause, set/NAME, with commas between "
    "(default: nothing)"
)


def add_looking_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add them to the commands of a parser."""
    _add_serve(commands)
    _add_watch(commands)
    _add_plot(commands)


def _add_serve(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    serve = commands.add_parser(
        "serve",
        help="show runs in a web browser on this machine, live, and steer them",
        description="Show runs in a web browser on this machine, until Ctrl-C. It prints an address with a token in "
        "it: who has that may look. It listens on this machine only; from elsewhere: ssh -L 6116:127.0.0.1:6116 HOST.",
    )
    serve.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="folder of a run, or one with several in it")
    serve.add_argument("--port", type=int, help="port to listen on (default: 6116, or the next one that is free)")
    serve.add_argument("--allow", type=_words, default=(), metavar="WORDS", help=ALLOW)
    serve.add_argument("--open", action="store_true", help="open the page, for looking, in a browser")
    serve.add_argument("--broker", metavar="URL", help="show runs at this broker, e.g. nats://localhost; see --run")
    serve.add_argument(
        "--run",
        dest="names",
        action="append",
        default=[],
        metavar="NAME",
        help="name of a run at the broker; repeatable",
    )
    serve.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="keep the tokens in this file, which is made if it is not there; they are not printed then, and are the "
        "same after a restart (default: new ones at each start)",
    )
    serve.add_argument(
        "--uds", type=Path, metavar="PATH", help="listen at a socket that only this user can reach instead"
    )
    serve.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine only)"
    )
    serve.add_argument(
        "--allow-host",
        dest="hosts",
        action="append",
        default=[],
        metavar="NAME[:PORT]",
        help="a further name under which the page is reached; repeatable. Needed with another --host",
    )
    serve.add_argument("--cache", type=Path, metavar="DIR", help="folder for what viewers keep (default: in ~/.cache)")


def serve(options: argparse.Namespace) -> int:
    """Show runs in a web browser.

    Raises:
        ArgumentError: it asks for something that cannot be, or is not safe.
        AsyncHubError: the broker is not to be had.
        ImportError: a library is missing.
        OSError: a file cannot be read or written.
    """
    from asynchub.dashboard.allocating import keep_freed
    from asynchub.dashboard.web.serving import Serving
    from asynchub.dashboard.web.serving import serve as serve_runs
    from asynchub.overlaying import Overlay

    keep_freed()
    serving = Serving(
        folders=tuple(options.runs),
        host=options.host,
        port=options.port,
        allow=options.allow,
        allow_hosts=tuple(options.hosts),
        uds=options.uds,
        token_file=options.token_file,
        cache=options.cache,
        open_browser=options.open,
        broker=options.broker or "",
        runs=tuple(options.names),
    )
    with Overlay() as tried:
        serve_runs(
            serving,
            functools.partial(print, flush=True),
            what_if=lambda runs, rule: tried.ask(runs, rule, seconds=0.0).to_dict(),
        )
    return 0


def _add_watch(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    watch = commands.add_parser(
        "watch",
        help="show runs in this terminal, live, and steer them",
        description="Show runs in this terminal, live; q ends it, ? lists the keys. Where there is no terminal, it "
        "prints a line whenever something changes, until the runs have ended.",
    )
    watch.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run, or one with several in it")
    watch.add_argument("--allow", type=_words, default=(), metavar="WORDS", help=ALLOW)
    watch.add_argument("--events", action="store_true", help="show every event of the run instead, one a line")
    watch.add_argument(
        "--keys", action="append", default=[], metavar="PATTERN", help="of these keys only, with --events; repeatable"
    )
    watch.add_argument("--interval", type=float, default=0.2, help="seconds between two looks (default: %(default)s)")
    watch.add_argument("--cache", type=Path, metavar="DIR", help="folder for what viewers keep (default: in ~/.cache)")


def watch(options: argparse.Namespace) -> int:
    """Show runs in this terminal.

    Raises:
        ArgumentError: an option is out of range.
        ImportError: a library is missing.
    """
    from asynchub.dashboard.allocating import keep_freed
    from asynchub.dashboard.terminal.app import watch as watch_runs
    from asynchub.overlaying import Overlay

    keep_freed()
    with Overlay() as tried:
        return watch_runs(
            options.runs,
            allow=options.allow,
            events=options.events,
            patterns=options.keys,
            interval=options.interval,
            cache=options.cache,
            write=functools.partial(print, flush=True),
            what_if=lambda runs, rule: tried.ask(runs, rule, seconds=0.0),
        )


def _add_plot(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    plot = commands.add_parser(
        "plot",
        help="draw runs: a picture, or a page that stands by itself",
        description="Draw runs as they are now: a picture (.png, .svg), or a page that stands by itself and opens "
        "without a server (.html).",
    )
    plot.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run")
    plot.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help="e.g. run.png, run.svg, run.html"
    )
    plot.add_argument(
        "--keys", nargs="+", default=[], metavar="PATTERN", help="keys to draw (default: those that matter)"
    )
    plot.add_argument("--start", type=int, metavar="STEP", help="first step")
    plot.add_argument("--stop", type=int, metavar="STEP", help="last step")
    plot.add_argument(
        "--axis", choices=("step", "time", "relative", "epoch"), default="step", help="x axis (default: %(default)s)"
    )
    plot.add_argument("--log", action="store_true", help="logarithmic y axis")
    plot.add_argument("--smooth", type=int, default=0, metavar="STEPS", help="draw the mean over so many steps, too")
    plot.add_argument("--fit-all", action="store_true", help="cut no value off")
    plot.add_argument("--width", type=int, default=1400, metavar="PIXELS", help="(default: %(default)s)")
    plot.add_argument("--height", type=int, metavar="PIXELS", help="(default: what it takes)")
    plot.add_argument("--dark", action="store_true", help="on a dark ground")
    plot.add_argument("--cache", type=Path, metavar="DIR", help="folder for what viewers keep (default: in ~/.cache)")


def plot(options: argparse.Namespace) -> int:
    """Draw runs.

    Raises:
        ArgumentError: an option is out of range.
        ImportError: a library is missing.
        OSError: a file cannot be read or written.
    """
    from asynchub.dashboard.allocating import keep_freed
    from asynchub.dashboard.picture.export import export

    keep_freed()
    path = export(
        options.runs,
        options.output,
        keys=tuple(options.keys),
        start=options.start,
        stop=options.stop,
        axis=options.axis,
        log=options.log,
        window=options.smooth,
        fit_all=options.fit_all,
        width=options.width,
        height=options.height,
        dark=options.dark,
        cache=options.cache,
    )
    print(path)
    return 0


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in (part.strip() for part in text.split(",")) if word)
