"""Small runs that behave like large ones."""

from __future__ import annotations

import pytest

from asynchub.dashboard import growth, pyramid_blocks, run_reader


@pytest.fixture
def _grown_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs have buckets from 100 values on, the cache be written at each 20 closed ones, in blocks of 7."""
    monkeypatch.setattr(growth, "YOUNG", 100)
    monkeypatch.setattr(run_reader, "SAVED_EACH", 20)
    monkeypatch.setattr(run_reader, "WORTH_SAVING", 1)
    monkeypatch.setattr(pyramid_blocks, "BLOCK_ROWS", 7)
