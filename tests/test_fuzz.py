"""A fuzzer that looks for new paths finds no input whose reading raises anything but a ``StateError``."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LEAST = 250
"""Inputs a second that a busy machine gets through, too."""


@pytest.mark.parametrize("seconds", [10, pytest.param(60, marks=pytest.mark.slow)])
def test_a_fuzzer_finds_nothing_but_state_errors(tmp_path: Path, seconds: int) -> None:
    pytest.importorskip("atheris", reason="has no release for this Python or machine")
    options = (f"-max_total_time={seconds}", "-rss_limit_mb=1024", "-timeout=10", f"-artifact_prefix={tmp_path}/")
    fuzzer = (sys.executable, "-m", "tests.fuzz.fuzz_decoder", str(tmp_path / "inputs"), *options)
    run = subprocess.run(
        # The most memory that a process ever had is passed on to the program it starts: the fuzzer would count that of
        # all these tests as its own. A shell has little.
        ["sh", "-c", '"$@"; exit $?', "sh", *fuzzer],
        cwd=ROOT,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds + 100,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-1000:]  # the exception is on stdout
    done = re.search(r"Done (\d+) runs", run.stderr)
    assert done is not None
    assert int(done[1]) > LEAST * seconds
