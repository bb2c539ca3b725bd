"""What a journal holds of a hub that had a past, of a burst, and of a tail that is too small."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from asynchub import Event, Journal, MessageHub, Rewound, recover
from asynchub.channels import Selection
from asynchub.errors import JournalError
from asynchub.events import InfoUpdated
from asynchub.journal.reading import read_journal

KILLED = """
import os, signal, sys
from asynchub import Event, Journal, MessageHub
hub = MessageHub("run")
for number in range(int(sys.argv[2])):
    hub.update_scalar("loss", number)
if sys.argv[3] == "own":
    hub.publish(Event(key="mine"))
hub.attach(Journal(sys.argv[1], interval=1000.0))
if sys.argv[3] == "load":
    other = MessageHub("other")
    other.update_scalars({f"key/{number}": number for number in range(50)})
    hub.load_state_dict(other.state_dict())
for number in range(3):
    hub.update_scalar("loss", -number)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
@pytest.mark.parametrize("last", ["scalar", "own", "load"])
@pytest.mark.parametrize("past", [0, 100])
def test_nothing_is_lost_when_a_process_is_killed_right_after_attaching(past: int, last: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "journal"), str(past), last], check=False)
    assert done.returncode == -signal.SIGKILL
    assert recover(tmp_path).get_scalar("loss").data[0].tolist() == [*range(past), 0, -1, -2]


def test_a_hub_that_goes_on_without_news_writes_no_segment(tmp_path: Path) -> None:
    with MessageHub("run") as hub:
        hub.attach(Journal(tmp_path / "journal"))
        hub.update_scalar("loss", 1.0)
    before = sorted(path.name for path in (tmp_path / "journal").glob("*.ahj"))
    resumed = recover(tmp_path)
    resumed.attach(Journal(tmp_path / "journal"))
    with resumed:
        """Nothing is published."""
    assert sorted(path.name for path in (tmp_path / "journal").glob("*.ahj")) == before


def test_a_burst_of_more_events_than_the_backlog_is_written_by_a_healthy_disk(tmp_path: Path) -> None:
    with MessageHub("run") as hub:
        hub.attach(Journal(tmp_path / "journal", backlog=10))
        for number in range(1000):
            hub.update_scalar("loss", number)
    assert recover(tmp_path).get_scalar("loss").data[0].tolist() == list(range(1000))


def test_a_tail_that_is_too_small_is_no_failing_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "asynchub"), MessageHub("run") as hub:
        hub.attach(Journal(tmp_path / "journal", tail=8192, interval=0.001))
        for number in range(20_000):
            hub.update_scalar("loss", number)
    assert caplog.records == []
    assert read_journal(tmp_path / "journal").last_seq == 20_000


def test_a_journal_goes_back_with_its_hub(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    heard: list[Event] = []
    with MessageHub("run") as hub:

        @hub.on("**")
        async def hear(event: Event) -> None:
            heard.append(event)

        hub.attach(Journal(tmp_path / "journal"))
        hub.update_scalar("loss", 1.0)
        state = hub.state_dict()
        base = hub.statistics().seq
        hub.load_state_dict(state)  # nothing has come since: nothing is to be said
        assert hub.statistics().seq == base + 1  # but for a StateLoaded
        hub.update_scalar("loss", 2.0)
        hub.update_info("later", 7)
        hub.request_stop("enough")
        hub.load_state_dict(state)
        hub.update_scalar("loss", 3.0)
        hub.apply_requests()
        hub.flush()
        hub.commit()
        rewound = [event for event in heard if isinstance(event, Rewound)]
        assert [event.to_seq for event in rewound] == [base]
        since = [(type(event).__name__, event.key) for event in heard if event.seq > rewound[0].seq]
        assert since == [
            ("InfoUpdated", "later"),
            ("StopRequested", "hub/stop_requested"),
            ("StateLoaded", "hub/state_loaded"),
            ("ScalarUpdated", "loss"),
            ("RequestApplied", "hub/request_applied"),
        ]
        back = recover(tmp_path)
        assert hub.get_scalar("loss").data[0].tolist() == back.get_scalar("loss").data[0].tolist() == [1.0, 3.0]
        assert hub.get_info("later") == back.get_info("later") == 7
        assert hub.stop_reason == back.stop_reason == "enough"
        hub.load_state_dict(state)  # the stop stays, as all that is not in the state
        hub.commit()
        assert hub.stop_reason == recover(tmp_path).stop_reason == "enough"
        assert recover(tmp_path).get_scalar("loss").data[0].tolist() == [1.0]
    assert not caplog.records


def test_a_journal_does_not_hold_a_state_of_another_run_nor_what_is_not_in_the_state(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = MessageHub("other")
    other.update_scalar("loss", 1.0)
    with MessageHub("run") as hub:
        hub.attach(Journal(tmp_path / "journal"))
        hub.update_scalar("loss", 1.0)
        state = hub.state_dict()
        hub.update_scalar("late", 2.0)
        hub.load_state_dict(state)
        assert hub.get_scalar("late").data[0].tolist() == [2.0]
        assert "keeps newer values of 'late'" in caplog.text
        caplog.clear()
        hub.load_state_dict(other.state_dict())
        assert "its journal does not hold, of no run" in caplog.text
        caplog.clear()
        assert other.run_id != hub.run_id
        hub.load_state_dict(other.state_dict())
        assert f"its journal does not hold, of run {other.run_id}" in caplog.text


def test_what_a_compact_journal_has_deleted_cannot_be_gone_back_to_until_it_is_saved(tmp_path: Path) -> None:
    run = f"{tmp_path}/"
    with MessageHub("run") as hub:
        hub.attach(Journal(tmp_path / "journal", compact=True, segment_size=500, interval=0.001))
        hub.update_scalar("loss", 1.0)
        state = hub.state_dict()
        first = tmp_path / "journal" / "00000000000000000001-000001.ahj"
        while first.exists() or hub.statistics().seq < 400:
            for _ in range(100):
                hub.update_scalar("loss", 2.0)
            hub.commit()
            hub.save(run)
        hub.load_state_dict(state)
        hub.update_scalar("loss", 3.0)
        hub.commit()
        with pytest.raises(JournalError, match="no snapshot before it is whole and counts"):
            recover(tmp_path)
        hub.save(run)
        assert recover(tmp_path).get_scalar("loss").data[0].tolist() == [1.0, 3.0]


def test_an_info_that_a_journal_gave_back_and_that_was_removed_since_is_not_in_the_past(tmp_path: Path) -> None:
    with MessageHub("run") as hub:
        hub.attach(Journal(tmp_path / "journal"))
        hub.update_info_dict({"kept": 1, "gone": 2, "back": 3})
    hub = recover(tmp_path)
    hub.pop_info("gone")
    hub.pop_info("back")
    hub.update_info("back", 4)
    with hub._bus.drained_still():
        past = list(hub.past(Selection.of(("**",)), "all", None))
    assert [(event.key, event.value) for event in past if isinstance(event, InfoUpdated)] == [
        ("kept", 1),
        ("back", 3),
        ("back", 4),
    ]
