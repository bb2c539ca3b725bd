"""The command ``asynchub``, also ``python -m asynchub``.

Exit status: 0 when it did what was asked, 1 when it could not, 2 when it was asked wrongly.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

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
        "the resumable state on disk.",
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

    replay = commands.add_parser(
        "replay",
        help="tell what another rule would have done to a recorded run",
        description="Run control rules over a recorded run and tell when each would have stopped it.",
    )
    replay.add_argument("run", type=Path, help="folder of a run that holds metrics.jsonl, or such a file")
    replay.add_argument(
        "--early-stopping",
        action="append",
        required=True,
        metavar="RULE",
        help="monitor[:mode][:name=value]..., e.g. val/accuracy:max:patience=3; may be given several times",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with ``arguments``, by default those of the process; return its exit status."""
    options = _parser().parse_args(arguments)
    if options.command == "replay":
        return _replay(options.run, options.early_stopping)
    return _demo(options)


def _replay(run: Path, rules: Sequence[str]) -> int:
    from asynchub.errors import ArgumentError, CorruptStateError
    from asynchub.what_if import recorded_events, try_rule, what_if_table

    try:
        events = recorded_events(run)
        outcomes = [try_rule(rule, events) for rule in rules]
    except ArgumentError as error:
        print(f"asynchub replay: {error}", file=sys.stderr)
        return 2
    except (OSError, CorruptStateError) as error:
        print(f"asynchub replay: {error}", file=sys.stderr)
        return 1
    print(what_if_table(outcomes))
    return 0


def _demo(options: argparse.Namespace) -> int:
    try:
        from asynchub.demo import Settings, run_demo
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
        )
        return run_demo(settings)
    except KeyboardInterrupt:
        print("asynchub demo: interrupted; continue with --resume", file=sys.stderr)
        return 130
    except (AsyncHubError, OSError) as error:
        print(f"asynchub demo: {error}", file=sys.stderr)
        return 1
