"""A network that drops everything, loses packets, or is narrow: a run goes on, and all that it published is stored.

A rank runs in a network namespace of its own. Between that and the broker every packet goes through this process, which
decides what becomes of it: a kernel need not have been built with what can drop packets by itself. Needs root, ``ip``
(Debian package iproute2) and ``/dev/net/tun``.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import selectors
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bridges.acceptance_ranks import Plan, check_ranks, launch, progress, read_stored, results, until
from tests.bridges.broker import Broker

TUN = Path("/dev/net/tun")
SET_INTERFACE = 0x400454CA
TUN_WITHOUT_HEADER = 0x0001 | 0x1000
LONGEST_PACKET = 2048
MOST_WAITING = 0.4
"""Seconds of packets that wait where the network is narrow; more are dropped."""


def lacking() -> str:
    """Return why there can be no such network; empty if there can."""
    if os.geteuid() != 0:
        return "needs root, to make a network namespace"
    if shutil.which("ip") is None:
        return "needs the program ip: apt-get install iproute2"
    if not TUN.exists():
        return f"needs {TUN}"
    name = f"ah-try-{os.getpid()}"
    done = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
    return f"needs network namespaces: {done.stderr.strip()}" if done.returncode else ""


class Network:
    """Two interfaces, one of them in a namespace, and the wire between them.

    Args:
        seed: of the packets that are lost.

    Attributes:
        namespace: its name.
        here: address of the interface of this side.
        loss: part of the packets that are lost, from 0 to 1.
        rate: bytes in a second that go through, each way; None for any.
        carried: packets that went through.
        lost: packets that did not.
        delayed: packets that had to wait because the network is narrow.
    """

    def __init__(self, seed: int) -> None:
        number = os.getpid() % 4000
        self.namespace = f"ah-{os.getpid()}"
        self.here, self._there = (f"10.{200 + number // 250}.{number % 250}.{last}" for last in (1, 2))
        self.loss = 0.0
        self.rate: float | None = None
        self.carried = 0
        self.lost = 0
        self.delayed = 0
        self._random = random.Random(seed)
        self._names = (f"aha{os.getpid()}", f"ahb{os.getpid()}")
        self._ends: list[int] = []
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._carry)

    def __enter__(self) -> Network:
        try:
            _ip("netns", "add", self.namespace)
            for name in self._names:
                end = os.open(TUN, os.O_RDWR | os.O_NONBLOCK)
                self._ends.append(end)
                fcntl.ioctl(end, SET_INTERFACE, struct.pack("16sH", name.encode(), TUN_WITHOUT_HEADER))
            here, there = self._names
            _ip("link", "set", there, "netns", self.namespace)
            inside = ("-netns", self.namespace)
            for where, name, address in (((), here, self.here), (inside, there, self._there)):
                peer = self._there if address == self.here else self.here
                _ip(*where, "address", "add", address, "peer", peer, "dev", name)
                _ip(*where, "link", "set", name, "up")
            _ip(*inside, "link", "set", "lo", "up")
        except BaseException:
            self._remove()
            raise
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(10)
        self._remove()

    def _remove(self) -> None:
        for end in self._ends:
            os.close(end)  # which removes the interface
        with contextlib.suppress(subprocess.CalledProcessError):
            _ip("netns", "delete", self.namespace)

    def _carry(self) -> None:
        free_at = dict.fromkeys(self._ends, 0.0)
        waiting: list[tuple[float, int, bytes]] = []
        with selectors.DefaultSelector() as selector:
            for end, other in zip(self._ends, reversed(self._ends), strict=True):
                selector.register(end, selectors.EVENT_READ, other)
            while not self._ending.is_set():
                pause = min((due for due, _, _ in waiting), default=time.monotonic() + 0.05) - time.monotonic()
                for key, _ in selector.select(max(pause, 0.0)):
                    packet = os.read(key.fd, LONGEST_PACKET)
                    now = time.monotonic()
                    start = max(free_at[key.fd], now)
                    if self._random.random() < self.loss or start - now > MOST_WAITING:
                        self.lost += 1
                        continue
                    self.delayed += start > now
                    free_at[key.fd] = start + (0.0 if self.rate is None else len(packet) / self.rate)
                    waiting.append((free_at[key.fd], key.data, packet))
                now = time.monotonic()
                for due, other, packet in [one for one in waiting if one[0] <= now]:
                    waiting.remove((due, other, packet))
                    with contextlib.suppress(OSError):  # it is full: a packet is lost
                        os.write(other, packet)
                        self.carried += 1


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def network(seed: int) -> Iterator[Network]:
    """A network, and a namespace behind it."""
    if why := lacking():
        pytest.skip(why)
    with Network(seed) as network:
        yield network


@pytest.mark.slow
def test_a_network_that_drops_loses_and_is_narrow_costs_no_event_and_no_wait(tmp_path: Path, network: Network) -> None:
    broker = Broker(tmp_path / "broker")
    broker._config.write_text(broker._config.read_text().replace("127.0.0.1", "0.0.0.0"))
    folder = tmp_path / "run"
    try:
        broker.start()
        plan = Plan(f"nats://{network.here}:{broker.port}", str(folder), steps=400)
        with launch(plan, 1, before=("ip", "netns", "exec", network.namespace)):
            until(lambda: len(progress(folder, 0)) > 40, "two seconds of steps", folder=folder)
            assert network.carried
            cut_at, network.loss = time.time(), 1.0
            time.sleep(7)  # the schedule of the test
            dropped = network.lost
            network.loss = 0.2
            time.sleep(5)
            lost = network.lost - dropped
            network.loss, network.rate, network.delayed = 0.0, 64_000 / 8, 0
            time.sleep(5)
            network.rate = None
            (told,) = results(folder, 1)
        check_ranks(read_stored(broker.url, plan.run), plan, 1)
    finally:
        broker.kill()
    noticed = min(when for what, when in told["said"] if what == "BridgeDegraded") - cut_at
    worst = told["with"]["worst_ms"]
    print(
        f"\n{dropped} packets dropped, {lost} lost, {network.delayed} delayed; noticed after {noticed:.1f} s; "
        f"publishing {told['with']['mean_us']:.2f} us, at worst {worst:.1f} ms; left in {told['leaving']:.2f} s"
    )
    assert dropped
    assert lost
    assert network.delayed
    assert noticed < 12
    assert told["statistics"]["waiting"] == 0
    assert worst < 1000  # 5 ms on a quiet machine, where nobody else wants the processor
