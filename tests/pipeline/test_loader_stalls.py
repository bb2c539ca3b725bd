"""A worker that hangs is named: which it is, what it does, and where, if it may be asked."""

from __future__ import annotations

import multiprocessing
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader

from asynchub.dataflow import PipelineRecovered
from tests.pipeline.heard import Heard, line_of, listening
from tests.pipeline.loaders import Hanging, decode_forever

pytestmark = [
    pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs os.fork"),
    pytest.mark.filterwarnings("ignore:.*use of fork\\(\\):DeprecationWarning"),  # of Python 3.12, with threads
]


def check_stall(tmp_path: Path, *, dump: bool, persistent: bool = False, **how: Any) -> None:
    release = tmp_path / "released"
    with listening("stall", stall_after=0.3, dump_workers=dump) as (mon, heard):
        watch = threading.Thread(target=_release_when_heard, args=(heard, release), daemon=True)
        loader = mon.dataloader(
            DataLoader(Hanging(60, 45, release), batch_size=1, num_workers=2, persistent_workers=persistent, **how)
        )
        if persistent:  # to start workers takes a while, which is no stall
            first = iter(loader)
            next(first), next(first)
        found = []
        for index in mon.consume(loader):
            found += index.tolist()
            if len(found) == 45:  # the next is the one that does not come
                pids = {report.number: report.pid for report in mon.report().workers}
                watch.start()
        watch.join()
    assert found == list(range(60))
    stall = heard.stall
    assert (stall.worker, stall.pid, stall.stage) == (1, pids[1], "loader.dataset")
    assert re.fullmatch(
        rf"waiting for batch 45 of worker 1 \(pid {pids[1]}\); 2 later batches are ready; "
        r"worker state dataset for \d+\.\d s( in .*)?",
        stall.reason,
    )
    assert stall.seconds >= 0.3
    assert stall.state == "dataset"
    assert stall.state_seconds <= stall.seconds + 1
    if dump:
        assert stall.frame in {line_of(decode_forever, "time.sleep"), line_of(decode_forever, "while not")} or (
            "pathlib" in stall.frame  # it looks for the file at this moment
        )
        assert "in decode_forever" in stall.stack
        assert stall.stack.index("_worker_loop") < stall.stack.index("decode_forever")
        assert stall.frame in stall.reason
    else:
        assert (stall.frame, stall.stack) == ("", "")
    (recovered,) = heard.all_of(PipelineRecovered)
    assert recovered.seconds >= stall.seconds


def _release_when_heard(heard: Heard, release: Path) -> None:
    """Let the worker go on when the stall was heard of."""
    heard.until_stalled()
    release.touch()


@pytest.mark.parametrize("dump", [False, True])
def test_a_worker_that_hangs_is_named(tmp_path: Path, dump: bool) -> None:
    check_stall(tmp_path, dump=dump)


@pytest.mark.slow
@pytest.mark.parametrize("start", ["spawn", "forkserver"])
def test_a_worker_that_hangs_is_named_however_it_was_started(tmp_path: Path, start: str) -> None:
    check_stall(tmp_path, dump=True, persistent=True, multiprocessing_context=start)


def test_where_any_batch_would_do_the_worker_that_is_at_it_for_the_longest_is_named(tmp_path: Path) -> None:
    release = tmp_path / "released"
    with listening("stall", stall_after=0.3) as (mon, heard):
        loader = mon.dataloader(DataLoader(Hanging(30, 15, release), batch_size=1, num_workers=2, in_order=False))
        watch = threading.Thread(target=_release_when_heard, args=(heard, release), daemon=True)
        watch.start()
        found = [index for batch in mon.consume(loader) for index in batch.tolist()]
        watch.join()
    assert sorted(found) == list(range(30))
    assert found[-1] >= 15  # only what the hanging worker was to do came after
    stall = heard.stall
    assert stall.reason.startswith(f"waiting for batch 15 of worker {stall.worker} (pid {stall.pid});")
    assert stall.state == "dataset"
