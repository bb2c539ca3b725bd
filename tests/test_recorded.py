"""A run that is read frame by frame has the events that it has when it is read at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from asynchub import Journal, MessageHub
from asynchub.errors import JournalCorruptError
from asynchub.events import EventsDropped, InfoUpdated, Rewound, ScalarUpdated
from asynchub.recorded import recorded_events, streamed_events
from tests.dashboard.runs import Point, Writer, compacted_run


def rewinds_of(run: Path) -> list[tuple[int, int]]:
    return [(one.seq, one.to_seq) for one in recorded_events(run, Rewound, rewound=True) if isinstance(one, Rewound)]


@pytest.mark.parametrize("seed", range(8))
def test_what_counts_is_streamed_as_it_is_read_at_once(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    writer = Writer(tmp_path)
    for step in range(0, 400, 10):
        writer.points([Point(key, step + one, float(rng.normal())) for one in range(10) for key in ("a/x", "a/y", "b")])
        match int(rng.integers(6)):
            case 0:
                writer.begin_segment()
            case 1:
                writer.event(Rewound(to_seq=int(rng.integers(1, writer.seq))))
            case 2:
                writer.event(InfoUpdated(key="epoch", value=step))
    writer.close()
    for wanted in (("**",), ("b",), ("a/*", InfoUpdated), (InfoUpdated,), ("epoch", "a/y")):
        streamed = list(streamed_events(tmp_path, *wanted, rewinds=rewinds_of(tmp_path)))
        assert streamed == list(recorded_events(tmp_path, *wanted))
    upto = int(rng.integers(1, writer.seq))
    earlier = [one for one in rewinds_of(tmp_path) if one[0] <= upto]
    seqs = [event.seq for event in streamed_events(tmp_path, "b", rewinds=earlier, upto=upto)]
    assert all(seq <= upto for seq in seqs)
    assert seqs == sorted(set(seqs))


def test_what_is_in_the_tail_only_is_streamed_too(tmp_path: Path) -> None:
    hub = MessageHub("live")
    hub.attach(Journal(tmp_path / "journal", interval=600.0))
    with hub:
        for hub.step in range(50):
            hub.update_scalar("loss", float(hub.step))
            if hub.step == 20:
                hub.commit()
        streamed = [event.step for event in streamed_events(tmp_path, "loss", rewinds=[])]
    assert streamed == list(range(50))


def test_what_was_deleted_is_streamed_from_the_snapshot_or_said_to_be_missing(tmp_path: Path) -> None:
    compacted_run(tmp_path / "run", 300)
    streamed = list(streamed_events(tmp_path / "run", "loss", rewinds=[]))
    assert streamed == list(recorded_events(tmp_path / "run", "loss"))
    assert [event.step for event in streamed] == list(range(300))
    for snapshot in (tmp_path / "run").glob("*.ahs"):
        snapshot.unlink()
    missing, *rest = streamed_events(tmp_path / "run", "loss", rewinds=[])
    assert isinstance(missing, EventsDropped)
    assert missing.missed > 0
    assert missing.seq < rest[0].seq


def test_a_run_without_a_journal_is_read_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(streamed_events(tmp_path / "none", rewinds=[]))
    hub = MessageHub("saved")
    hub.update_scalar("loss", 1.0, step=3)
    hub.save(tmp_path)
    (event,) = streamed_events(tmp_path, ScalarUpdated, rewinds=[])
    assert (event.key, event.step) == ("loss", 3)


def test_damage_is_said_when_it_is_reached_and_whoever_reads_may_end_it_at_each_frame(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    for step in range(5):
        writer.points([Point("loss", step, 1.0)])
    (path,) = writer.folder.glob("*.ahj")
    frames: list[int] = []
    assert len(list(streamed_events(tmp_path, "other", rewinds=[], between=lambda: frames.append(1)))) == 0
    assert len(frames) == 5

    def end() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        list(streamed_events(tmp_path, "other", rewinds=[], between=end))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
    with pytest.raises(JournalCorruptError, match="damaged"):
        list(streamed_events(tmp_path, "loss", rewinds=[]))
