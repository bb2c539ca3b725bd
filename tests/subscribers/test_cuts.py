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
start, folder, wanted = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3].replace("|", "\\n")
stride = int(sys.argv[4])
place = Place(*map(int, sys.argv[5:]))
source = cuts.__file__

def go():
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
    for record in ("a1", "a3", "a6", "b3", "b9"):
        assert record + "\\n" in kept, (number, record)
    go()
    assert (folder / "m.txt").read_text() == wanted, (number, (folder / "m.txt").read_text())
    kept = "".join(file.read_text() for file in folder.iterdir())
    for record in ("a1", "a3", "a6", "b3", "b9"):
        assert record + "\\n" in kept, (number, record)
    assert not (folder / "m.txt.rewound.part").exists()
print(number)
"""


@pytest.mark.parametrize("stride", [9, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("which", "wanted"), [(0, "a1|a2|"), (1, "a1|a2|a3|a4|a5|")])
def test_a_process_killed_at_any_line_of_a_cut_has_lost_nothing(
    tmp_path: Path, which: int, wanted: str, stride: int
) -> None:
    folder = tmp_path / "start"
    folder.mkdir()
    state = abandon(folder / "m.txt")[which]
    place = [str(state[name]) for name in ("offset", "tail", "rewound")]
    script = KILLED.format(root=str(ROOT))
    command = [sys.executable, "-c", script, str(folder), str(tmp_path / "killed"), wanted, str(stride), *place]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100
