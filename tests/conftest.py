"""What every test stands on: the event loops, seeds, and no trace of the test before.

An async test runs on asyncio, on asyncio with uvloop and on trio. Every test starts from seeds made of its own name,
without named hubs, and must end every thread that asynchub started for it.
"""

from __future__ import annotations

import random
import sys
import threading
import time
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

THREAD_GRACE = 2.0
"""Seconds that a thread may take to end after its test."""

settings.register_profile("asynchub", deadline=None, print_blob=True)  # time is a matter of who else uses the machine
settings.load_profile("asynchub")

BACKENDS = [
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    pytest.param(
        ("asyncio", {"use_uvloop": True}),
        id="uvloop",
        marks=pytest.mark.skipif(sys.platform == "win32", reason="uvloop has no release for Windows"),
    ),
    pytest.param(("trio", {}), id="trio"),
]


@pytest.fixture(params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """The event loop of an async test; parametrize ``anyio_backend`` in a test to narrow the choice."""
    backend: tuple[str, dict[str, Any]] = request.param
    return backend


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """A number made of the test's name: the same in every run, another in every test."""
    return zlib.crc32(request.node.nodeid.encode())


@pytest.fixture
def rng(seed: int) -> np.random.Generator:
    """A generator of random numbers of the test's own."""
    return np.random.default_rng(seed)


@pytest.fixture(autouse=True)
def _seeded(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)  # for the libraries that draw from NumPy's global generator
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(seed)


def _managed_classes() -> list[Any]:
    """Return the classes with named instances that have been imported, mmengine's too."""
    managers = (getattr(sys.modules.get(name), "ManagerMixin", None) for name in ("asynchub.manager", MMENGINE))
    classes = [manager for manager in managers if manager is not None]
    for known in classes:
        classes.extend(new for new in known.__subclasses__() if new not in classes)
    return classes


MMENGINE = "mmengine.utils.manager"


@pytest.fixture(autouse=True)
def _no_named_instances() -> Iterator[None]:
    """Give every test a world without named instances, and put back what was there."""
    before = {managed: managed._instance_dict for managed in _managed_classes()}
    for managed in before:
        managed._instance_dict = OrderedDict()
    yield
    for managed in _managed_classes():
        managed._instance_dict = before.get(managed, OrderedDict())


def _asynchub_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("asynchub")}


@pytest.fixture(autouse=True)
def _no_thread_left() -> Iterator[None]:
    """Fail the test that leaves a thread of asynchub behind."""
    before = _asynchub_threads()
    yield
    deadline = time.monotonic() + THREAD_GRACE
    left = _asynchub_threads() - before
    for thread in left:
        thread.join(max(0.0, deadline - time.monotonic()))
    names = sorted(thread.name for thread in left if thread.is_alive())
    if names:
        pytest.fail(f"threads were left behind: {', '.join(names)}")


@pytest.fixture(autouse=True)
def _no_hub_entered() -> Iterator[None]:
    """Fail the test that leaves a hub entered: the next ones would be inside of it."""
    yield
    module = sys.modules.get("asynchub.hub")
    if module is not None and (left := module._current.get()):
        module._current.set(())
        pytest.fail(f"hubs were left entered: {', '.join(hub.instance_name for hub in left)}")
