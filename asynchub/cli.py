"""The command ``asynchub``, also ``python -m asynchub``.

Exit status: 0 when it did what was asked, 1 when it could not, 2 when it was asked wrongly.
"""

from __future__ import annotations

import argparse
import functools
import io
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from asynchub.cli_afar import add_afar_commands, broker, request, spool, tail
from asynchub.cli_looking import add_looking_commands, plot, serve, watch
from asynchub.ranks import rank_and_world

__all__ = ("main",)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="asynchub", description="Record scalars of a training loop, watch them, steer the run."
    )
    parser.add_argument("--version", action="version", version=f"asynchub {version('asynchub')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    demo = commands.add_parser(
        "demo",
        help="train a small network on handwritten digits, logged, scheduled, stopped early, resumable",
        description="Train a small convolutional network on scikit-learn's handwritten digits, on the CPU, in under a "
        "minute: progress on the terminal, early stopping and plateau scheduling through the hub, JSONL and CSV and "
        "the resumable state on disk. Under torchrun, on several ranks.",
    )
    demo.add_argument(
        "--run", type=Path, default=None, help="folder of the run (default: asynchub-demo, or the next free one)"
    )
    demo.add_argument("--resume", action="store_true", help="continue the run in that folder")
    demo.add_argument(
        "--async", dest="asynchronous", action="store_true", help="run as an asyncio program fed by an async pipeline"
    )
    demo.add_argument("--epochs", type=int, default=60, help="at most this many (default: %(default)s)")
    demo.add_argument(
        "--patience",
        type=int,
        default=8,
        help="epochs without a better val/accuracy before it stops (default: %(default)s)",
    )
    demo.add_argument("--seed", type=int, default=0, help="of weights, split and order (default: %(default)s)")
    demo.add_argument("--quiet", action="store_true", help="print the summary only")
    demo.add_argument(
        "--broker",
        metavar="URL",
        help="send everything to this broker, too, e.g. nats://localhost; the name of the run is that of its folder",
    )

    _add_replay(commands)
    _add_readers(commands)
    add_afar_commands(commands)
    add_looking_commands(commands)
    return parser


def _add_replay(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    replay = commands.add_parser(
        "replay",
        help="tell what other rules would have done to recorded runs",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Try control rules, or grids of them, on recorded runs: when each would have\n"
        "stopped, and what it would have kept, lost and saved; when it would have reduced\n"
        "the learning rate; what spikes it would have seen.",
        epilog="a rule    NAME:MONITOR:argument=value:argument=value...\n"
        "a grid    EarlyStopping:val/accuracy:mode=max:patience=3,5,8:min_delta=0,0.001\n"
        "a preset  EarlyStopping:val/loss:like=keras,lightning:patience=2,4\n"
        "a rate    ReduceLROnPlateau:val/loss:lr=0.1:factor=0.5:patience=2,4\n\n"
        "NAME is one that `asynchub subscribers` lists as control, or\n"
        "package.module.Class.",
    )
    replay.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="folder of a run that holds a journal, a snapshot or metrics.jsonl; or such a file",
    )
    replay.add_argument(
        "--rule", action="append", dest="rules", metavar="RULE", help="a rule or a grid; may be given several times"
    )
    replay.add_argument(
        "--early-stopping",
        action="append",
        dest="rules",
        type="EarlyStopping:{}".format,
        metavar="RULE",
        help="short for --rule EarlyStopping:RULE, e.g. val/accuracy:max:patience=3",
    )
    replay.add_argument(
        "--judge",
        metavar="KEY[:MODE]",
        help="the scalar that tells what a stop loses, e.g. val/accuracy:max (default: what the rule monitors)",
    )
    replay.add_argument(
        "--sort",
        choices=("rule", "saved", "worse"),
        default="rule",
        help="rows in the order of the rules, most steps saved first, or best kept first (default: %(default)s)",
    )
    replay.add_argument("--each", action="store_true", help="of several runs, a table for each as well")
    replay.add_argument("--json", action="store_true", help="all that is known of each rule and run, as JSON")

    subscribers = commands.add_parser(
        "subscribers",
        help="list the subscribers that are installed",
        description="List the subscribers of this package and those that other packages bring, with the extra that one "
        "needs and that is missing.",
    )
    subscribers.add_argument("--json", action="store_true", help="as JSON, with where each is")


def _add_readers(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    tail = commands.add_parser(
        "tail",
        help="show the newest events of a run, and go on with those to come",
        description="Show the newest events of a run that has a journal, or is at a broker, one a line; also while it "
        "goes on.",
    )
    tail.add_argument("run", help="folder of the run; with --broker, its name")
    tail.add_argument("--broker", metavar="URL", help="the run is at this broker, e.g. nats://localhost")
    tail.add_argument(
        "--rank", action="append", type=_count, help="with --broker: of this rank; may be given several times"
    )
    tail.add_argument("patterns", nargs="*", metavar="PATTERN", help="only these keys, e.g. 'train/*' or 'val/**'")
    tail.add_argument("-f", "--follow", action="store_true", help="wait for more, until Ctrl-C")
    tail.add_argument("-n", type=_count, metavar="N", help="how many to begin with (default: 10; all after --since)")
    tail.add_argument("--since", type=_count, default=0, metavar="SEQ", help="only events after the one of this number")
    tail.add_argument("--json", action="store_true", help="each event whole, as a line of JSON")

    pipeline = commands.add_parser(
        "pipeline",
        help="show where the time of a run's data pipeline goes, live",
        description="Show the newest report of a data pipeline that asynchub.pipeline watches, in a run that has a "
        "journal: what limits it, and the figures of each stage. It goes on with each report until the pipeline ends, "
        "and waits for a run that is not there yet. In a terminal that is a live view (it needs rich), else a line for "
        "each change.",
    )
    pipeline.add_argument("run", type=Path, help="folder of the run")
    pipeline.add_argument("--name", help="which pipeline, if there are several (default: the one that reported last)")
    pipeline.add_argument("--once", action="store_true", help="show the newest report, and end")
    pipeline.add_argument("--json", action="store_true", help="each report as a line of JSON: its event, whole")
    pipeline.add_argument("--width", type=_count, metavar="N", help="columns to use (default: those of the terminal)")

    inspect = commands.add_parser(
        "inspect",
        help="tell what a file of a run holds",
        description="Tell what a snapshot, a state file, a segment or the tail of a journal, or a whole run holds.",
    )
    inspect.add_argument("file", type=Path, help="the file, or the folder of a run")

    verify = commands.add_parser(
        "verify",
        help="read all of a run, and tell what is damaged",
        description="Read every byte of the snapshots and the journal of a run. Exit status 0: nothing that was "
        "acknowledged is lost; 1: something is.",
    )
    verify.add_argument("run", type=Path, help="folder of the run")

    export = commands.add_parser(
        "export",
        help="write a run as JSON lines, as a table, or for TensorBoard",
        description="Write the events of a run in another format. What does not count, because the run was resumed "
        "from an earlier state, is left out.",
    )
    export.add_argument("run", type=Path, help="folder of the run")
    export.add_argument("--to", required=True, choices=("jsonl", "csv", "tensorboard"))
    export.add_argument(
        "-o", "--output", type=Path, metavar="PATH", help="where to (default: a new file in RUN/export)"
    )
    export.add_argument("--all", action="store_true", help="with what does not count")


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"wanted a number from 0 on, got {text!r}")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with ``arguments``, by default those of the process; return its exit status."""
    options = _parser().parse_args(arguments)
    if options.command == "demo":
        return _demo(options)
    readers = {"tail": _tail, "inspect": _inspect, "verify": _verify, "export": _export, "replay": _replay}
    readers |= {
        "subscribers": _subscribers,
        "pipeline": _pipeline,
        "request": request,
        "broker": broker,
        "spool": spool,
        "serve": serve,
        "watch": watch,
        "plot": plot,
    }
    return _told(readers[options.command], options)


def _told(command: Callable[[argparse.Namespace], int], options: argparse.Namespace) -> int:
    """Run a command that reads a run; say what goes wrong in a line."""
    from asynchub.errors import ArgumentError, PatternError, StateError

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a key may have what the terminal's encoding lacks
    try:
        status = command(options)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    except (ArgumentError, PatternError, StateError, OSError, ImportError) as error:
        print(f"asynchub {options.command}: {error}", file=sys.stderr)
        return 2 if isinstance(error, ArgumentError | PatternError) else 1
    return status


def _tail(options: argparse.Namespace) -> int:
    from asynchub.looking import look

    count = 10 if options.n is None and not options.since else options.n
    show = functools.partial(print, flush=options.follow)
    if options.broker is not None:
        return tail(options, count)
    look(
        Path(options.run),
        options.patterns,
        show,
        count=count,
        since=options.since,
        live=options.follow,
        as_json=options.json,
    )
    return 0


def _pipeline(options: argparse.Namespace) -> int:
    from asynchub.piping import show_pipeline

    show = functools.partial(print, flush=True)
    if show_pipeline(
        options.run, show, name=options.name, once=options.once, as_json=options.json, width=options.width
    ):
        return 0
    which = "a pipeline" if options.name is None else f"the pipeline {options.name!r}"
    print(
        f"asynchub pipeline: {options.run} holds no report of {which}; a run has some while a Pipeline of "
        "asynchub.pipeline watches it",
        file=sys.stderr,
    )
    return 1


def _inspect(options: argparse.Namespace) -> int:
    from asynchub.inspecting import inspect

    print(inspect(options.file))
    return 0


def _verify(options: argparse.Namespace) -> int:
    from asynchub.verifying import verify_run

    lost = False
    for finding in verify_run(options.run):
        print(finding)
        lost = lost or finding.health == "damaged"
    print("something that was acknowledged is lost" if lost else "nothing that was acknowledged is lost")
    return 1 if lost else 0


def _export(options: argparse.Namespace) -> int:
    from asynchub.exporting import export_run

    path, count = export_run(options.run, options.to, options.output, rewound=options.all)
    print(f"{count} events in {path}")
    return 0


def _replay(options: argparse.Namespace) -> int:
    from asynchub.errors import ArgumentError
    from asynchub.weighing import outcomes_json, outcomes_table, runs_table
    from asynchub.what_if import what_if

    if not options.rules:
        raise ArgumentError("give a rule to try, e.g. --rule EarlyStopping:val/accuracy:mode=max:patience=3,5")
    outcomes = what_if(options.rules, *options.runs, judge=options.judge)
    if options.json:
        print(outcomes_json(outcomes))
        return 0
    several = len(options.runs) > 1
    if several:
        print(runs_table(outcomes, width=_width(), sort=options.sort))
    if options.each or not several:
        size = len(outcomes) // len(options.runs)
        for start in range(0, len(outcomes), size):
            print("\n" * several + outcomes_table(outcomes[start : start + size], width=_width(), sort=options.sort))
    return 0


def _subscribers(options: argparse.Namespace) -> int:
    from asynchub.plugins import installed_subscribers, subscribers_json, subscribers_table

    listed = installed_subscribers()
    print(subscribers_json(listed) if options.json else subscribers_table(listed, _width()))
    return 0


def _width() -> int:
    """Return how many characters a line of the terminal holds; 120 where there is none."""
    return shutil.get_terminal_size((120, 24)).columns


def _demo(options: argparse.Namespace) -> int:
    try:
        from asynchub.demo import Settings, run_demo

        _, ranks = rank_and_world()
        if ranks > 1:
            from asynchub.demo_ranks import run_demo_ranks as run_demo
    except ModuleNotFoundError as error:
        print(f"asynchub demo: {error}; install it with: pip install 'asynchub[demo]'", file=sys.stderr)
        return 1
    from asynchub.errors import AsyncHubError

    try:
        settings = Settings(
            run=options.run,
            resume=options.resume,
            asynchronous=options.asynchronous,
            epochs=options.epochs,
            patience=options.patience,
            seed=options.seed,
            quiet=options.quiet,
            broker=options.broker,
        )
        status = run_demo(settings)
        if ranks > 1:
            _leave_at_once(status)
        return status
    except KeyboardInterrupt:
        print("asynchub demo: interrupted; continue with --resume", file=sys.stderr)
        return 130
    except (AsyncHubError, OSError, ImportError) as error:  # of --broker: its client is not installed
        print(f"asynchub demo: {error}", file=sys.stderr)
        return 1


def _leave_at_once(status: int) -> NoReturn:
    """End the process, all of whose work is done: threads of gloo's abort now and then while Python ends."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
