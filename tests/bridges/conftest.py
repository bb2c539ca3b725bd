"""A NATS server of its own for each test that asks for one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bridges.broker import Broker


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """A server with JetStream, running."""
    broker = Broker(tmp_path / "broker")
    broker.start()
    yield broker
    broker.kill()
