"""What is acknowledged at the level ``disk`` is there after the power failed: on a file system of its own, whose image
is copied while the program stands still, as it would be found.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from asynchub import recover

PROGRAM = """
import struct, sys
from pathlib import Path
from asynchub import Journal, MessageHub
run, counter = Path(sys.argv[1]), open(sys.argv[2], "r+b", buffering=0)
hub = MessageHub("run")
hub.attach(Journal(run / "journal", interval=0.01, segment_size=200_000, tail=2**18))
step = 0
while True:
    for _ in range(50):
        step += 1
        hub.update_scalar("loss", step / 3, step=step)
    if step % 2000 == 0:
        hub.update_info("iter", step)
        hub.save(f"{run}/", keep=2)
    hub.commit()
    counter.seek(0)
    counter.write(struct.pack("<Q", step))  # on another file system, which does not fail
"""


def _can_mount() -> bool:
    tools = all(shutil.which(tool) for tool in ("mkfs.ext4", "mount", "umount"))
    return sys.platform == "linux" and os.geteuid() == 0 and tools


@contextmanager
def _mounted(image: Path, at: Path, *options: str) -> Iterator[Path]:
    at.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-o", ",".join(("loop", *options)), image, at], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"no loop device can be mounted here: {done.stderr.decode().strip()}")
    try:
        yield at
    finally:
        subprocess.run(["umount", at], check=True)


@pytest.mark.skipif(not _can_mount(), reason="needs root, mkfs.ext4 and loop devices, on Linux")
@pytest.mark.parametrize("option", ["commit=1", "noauto_da_alloc"])
@pytest.mark.parametrize("crashes", [2, pytest.param(25, marks=pytest.mark.slow)])
def test_a_power_failure_takes_nothing_that_was_committed(crashes: int, option: str, tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    for number in range(crashes):
        image, found = tmp_path / "image", tmp_path / "found"
        with image.open("wb") as file:
            file.truncate(48 * 2**20)
        subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
        counter = tmp_path / "counter"
        counter.write_bytes(bytes(8))
        with _mounted(image, tmp_path / "disk", option) as disk:
            program = subprocess.Popen([sys.executable, "-c", PROGRAM, str(disk / "run"), str(counter)])
            try:
                while not struct.unpack("<Q", counter.read_bytes())[0]:
                    assert program.poll() is None
                    time.sleep(0.01)
                time.sleep(draw.uniform(0, 0.8))  # anywhere
                program.send_signal(signal.SIGSTOP)
                acknowledged = struct.unpack("<Q", counter.read_bytes())[0]
                shutil.copy(image, found)
            finally:
                program.kill()
                program.wait()
        with _mounted(found, tmp_path / "after") as after:
            values = recover(after / "run").get_scalar("loss").data[0]
        assert len(values) >= acknowledged, f"crash {number}"
        np.testing.assert_array_equal(values, np.arange(1, len(values) + 1) / 3)
