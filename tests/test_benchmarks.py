"""Every benchmark runs, says what it compares on which machine, and says what it does not show."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "tests" / "benchmarks"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in ("__init__", "common"))
LONG = (
    "bridge",
    "loggers",
    "page",
    "page_memory",
    "pipeline",
    "pyramid",
    "reduce",
    "state",
    "terminal",
    "train_step",
    "trainers",
    "viewers",
)
"""Those that take more than a few seconds even so."""
QUICK = 300
"""Seconds that ``--quick`` may take on a busy machine; alone, it takes under 15."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in SCRIPTS]
)
def test_a_benchmark_runs(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"tests.benchmarks.{name}", "--quick"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=QUICK,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert f"CPython {sys.version.split()[0]}" in done.stdout


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_benchmark_has_one_question_and_says_what_it_does_not_show(name: str) -> None:
    text = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    question = text.removeprefix('"""').partition("\n")[0]
    assert question.endswith("?")
    assert "Not shown: " in " ".join(text.split('"""')[1].split())


def test_every_benchmark_is_in_the_list() -> None:
    listed = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert [name for name in SCRIPTS if f"`{name}`" not in listed] == []
