"""The thread that works for the server, and what it keeps of its work."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import numpy as np
import pytest

from asynchub.dashboard.web.recent import Recent
from asynchub.dashboard.web.worker import Worker
from asynchub.errors import LifecycleError, WaitTimeoutError

ON_ASYNCIO = pytest.mark.parametrize("anyio_backend", ["asyncio"])


@ON_ASYNCIO
async def test_work_is_done_one_by_one_in_one_thread_and_returns_or_raises() -> None:
    worker = Worker("asynchub test worker")
    threads: list[str] = []

    def work(number: int) -> int:
        threads.append(threading.current_thread().name)
        return 10 // number

    assert await asyncio.gather(*(worker.call(work, number) for number in (1, 2, 5))) == [10, 5, 2]
    with pytest.raises(ZeroDivisionError):
        await worker.call(work, 0)
    worker.close()
    assert set(threads) == {"asynchub test worker"}
    with pytest.raises(LifecycleError, match="closing"):
        await worker.call(work, 1)


@ON_ASYNCIO
async def test_nobody_waits_longer_than_he_says_and_what_nobody_waits_for_is_not_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker = Worker("asynchub test worker")
    release, begun = threading.Event(), list[int]()
    monkeypatch.setattr("asynchub.dashboard.web.worker.SECONDS", 0.05)
    with pytest.raises(WaitTimeoutError, match=r"no answer in 0\.05 s"):
        await worker.call(release.wait, 20)
    with pytest.raises(WaitTimeoutError):
        await worker.call(begun.append, 1)
    monkeypatch.setattr("asynchub.dashboard.web.worker.MOST_WAITING", 2)  # one of which nobody waits for
    monkeypatch.setattr("asynchub.dashboard.web.worker.SECONDS", 20)
    waiting = asyncio.ensure_future(worker.call(begun.append, 2))
    await asyncio.sleep(0)
    with pytest.raises(WaitTimeoutError, match="wait for an answer already"):
        await worker.call(begun.append, 3)
    release.set()
    await waiting
    assert begun == [2]
    worker.close()


@ON_ASYNCIO
async def test_what_waits_when_it_is_closed_is_not_begun_and_is_told_so() -> None:
    worker = Worker("asynchub test worker")
    release, begun = threading.Event(), list[int]()
    first = asyncio.ensure_future(worker.call(release.wait, 20))
    second = asyncio.ensure_future(worker.call(begun.append, 2))
    await asyncio.sleep(0)
    worker.close()
    worker.close()
    release.set()
    assert await first is True
    with pytest.raises(LifecycleError):
        await second
    assert begun == []


@pytest.mark.parametrize("seed_offset", range(5))
def test_results_are_kept_for_one_version_and_those_used_last_stay(seed_offset: int, seed: int) -> None:
    rng = np.random.default_rng(seed + seed_offset)
    recent = Recent(50)
    model: dict[int, tuple[int, str, int]] = {}  # the simplest: in the order of their use
    for _ in range(500):
        question, version = int(rng.integers(8)), int(rng.integers(3))
        if rng.random() < 0.5:
            kept: Any = model.get(question)
            known = kept is not None and kept[0] == version
            assert recent.get(question, version) == (kept[1] if known else None)
            assert recent.last(question) == (None if kept is None else kept[1])
            if known:
                model[question] = model.pop(question)
        else:
            size = int(rng.integers(1, 30))
            model.pop(question, None)
            model[question] = version, f"{question} {version} {size}", size
            recent.put(question, *model[question])
            while sum(size for _, _, size in model.values()) > 50 and len(model) > 1:
                model.pop(next(iter(model)))
