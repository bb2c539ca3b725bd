"""What the benchmarks share: rounds in turn, figures of a sample, a table, and what machine it was.

Contenders take turns, so that whatever else the machine does weighs on all of them; a figure is the median over the
rounds, and a ratio is one of two medians of the same run.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

__all__ = ("Figures", "figures", "header", "interleave", "interleave_async", "quick", "table")

_T = TypeVar("_T")


class Figures(NamedTuple):
    """Median and 99th percentile of a sample, in its unit."""

    median: float
    p99: float


def figures(sample: Iterable[float]) -> Figures:
    """Return median and 99th percentile of a sample."""
    median, p99 = np.quantile(np.fromiter(sample, float), (0.5, 0.99))
    return Figures(float(median), float(p99))


def quick() -> bool:
    """Return whether ``--quick`` was asked for: fewer rounds, figures that only show that the script works."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--quick", action="store_true", help="a few seconds; the figures are rough")
    return bool(parser.parse_args().quick)


def header(*peers: str) -> None:
    """Print the machine, and the versions of what is compared."""
    cpu = next(
        (line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor() or "unknown processor",
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("numpy", "anyio", *peers))
    print(f"{cpu}, {cores} cores, load {os.getloadavg()[0]:.1f}")
    print(f"{platform.python_implementation()} {platform.python_version()}, {versions}")


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines() if Path(path).exists() else []


def interleave(contenders: Mapping[str, Callable[[], _T]], rounds: int) -> dict[str, list[_T]]:
    """Run contenders in turn, ``rounds`` times after one round to warm up; return what each returned."""
    found: dict[str, list[_T]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name in _turn(list(contenders), number):
            value = contenders[name]()
            if number:
                found[name].append(value)
    return found


async def interleave_async(contenders: Mapping[str, Callable[[], Awaitable[_T]]], rounds: int) -> dict[str, list[_T]]:
    """Do the same with coroutines."""
    found: dict[str, list[_T]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name in _turn(list(contenders), number):
            value = await contenders[name]()
            if number:
                found[name].append(value)
    return found


def _turn(names: list[str], number: int) -> list[str]:
    """Begin each round with another contender, so that none always runs after the same one."""
    first = number % len(names)
    return names[first:] + names[:first]


def table(title: str, columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> None:
    """Print a table: names to the left, figures to the right."""
    first = max(len(title), *map(len, rows))
    widths = [max(len(column), *(len(row[i]) for row in rows.values())) for i, column in enumerate(columns)]
    print()
    print(title.ljust(first), *(column.rjust(width) for column, width in zip(columns, widths, strict=True)), sep="  ")
    for name, row in rows.items():
        print(name.ljust(first), *(cell.rjust(width) for cell, width in zip(row, widths, strict=True)), sep="  ")
