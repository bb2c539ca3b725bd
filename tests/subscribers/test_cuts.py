"""A cut that is broken off by kill -9, at any line of it: nothing is lost, and doing it again ends well."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.subscribers.test_appending import abandon

ROOT = Path(__file__).parents[2]

KILLED = """
import os, shutil, signal, sys
from pathlib import Path
sys.path.insert(0, {root!r})
import logging
logging.disable()
from asynchub.subscribers import cuts
from asynchub.subscribers.cuts import Cuts, Place
cuts.CHUNK = 5  # so that records are torn
start, folder, stride = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
wanted = sys.argv[4].replace("|", "\\n")
place, other = Place(*map(int, sys.argv[5:8])), Place(*map(int, sys.argv[8:]))
source = cuts.__file__
left = "".join(file.read_text() for file in (start / "m.txt", start / "m.txt.rewound-1"))
records = set(left.splitlines(keepends=True))

def go(place=place):
    found = Cuts(folder / "m.txt")
    found.restore(found.past(place))

def killed_at(number):
    left = number
    def lines(frame, event, argument):
        nonlocal left
        if frame.f_code.co_filename != source:
            return None
        if event == "line":
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
        return lines
    sys.settrace(lines)
    go()
    os._exit(0)

number = whole = 0
while not whole:
    number += stride
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(start, folder)
    if not (child := os.fork()):
        killed_at(number)
    whole = os.waitpid(child, 0)[1] == 0
    if number % 4 == 0 and not whole:  # and killed again
        if not (child := os.fork()):
            killed_at(number // 3)
        os.waitpid(child, 0)
    kept = "".join(file.read_text() for file in folder.iterdir())
    assert all(record in kept for record in records), number
    go()
    assert (folder / "m.txt").read_text() == wanted, (number, (folder / "m.txt").read_text())
    assert not (folder / "m.txt.rewound.part").exists()
    go(other)  # what was left by that can be gone back to
    assert (folder / "m.txt").read_text() == (start / "m.txt").read_text(), number
    for file in folder.glob("m.txt.rewound-*"):
        assert set(file.read_text().splitlines(keepends=True)) <= records, (number, file)
print(number)
"""


@pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("which", "wanted"), [(0, "a1|a2|"), (1, "a1|a2|a3|a4|a5|")])
def test_a_process_killed_at_any_line_of_a_cut_has_lost_nothing(
    tmp_path: Path, which: int, wanted: str, stride: int
) -> None:
    folder = tmp_path / "start"
    folder.mkdir()
    states = abandon(folder / "m.txt")
    places = [str(state[name]) for state in (states[which], states[2]) for name in ("offset", "tail", "rewound")]
    script = KILLED.format(root=str(ROOT))
    command = [sys.executable, "-c", script, str(folder), str(tmp_path / "killed"), str(stride), wanted, *places]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100
