"""What a mirror behind a broker has of a run that goes back to any state, also to one that it had left."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings

from asynchub.bridges.remote import RemoteHub, attach
from asynchub.hub import MessageHub
from tests.bridges.places import WAIT, Place, bridged, history
from tests.subscribers.lives import KEYS, Life, Program, counted, lives


def joined(place: Place, past: str) -> RemoteHub:
    return attach(place.url, run=place.run, past=past, timeout=WAIT)  # type: ignore[arg-type]  # it is one of the names


def check(mirror: RemoteHub, hub: MessageHub) -> None:
    """Fail unless a mirror has what a run has recorded, with its times."""
    for key in KEYS:
        assert history(mirror, key) == history(hub, key)
    assert mirror.runtime_info == hub.runtime_info


def check_newest(mirror: RemoteHub, hub: MessageHub) -> None:
    """Fail unless a mirror has the newest value of each key, and the step."""
    assert {key: own[-1] for key, own in counted(mirror).items()} == {
        key: own[-1] for key, own in counted(hub).items() if own
    }
    assert (mirror.runtime_info, mirror.step) == (hub.runtime_info, hub.step)


def test_values_that_come_back_are_in_the_mirror_again(tmp_path: Path) -> None:
    place = Place()
    program = Program(lambda hub: bridged(place, tmp_path / "spool", hub=hub))
    sizes = []
    with joined(place, "all") as mirror:
        for life in (Life(0, [20, 30], 40), Life(1, [10], 0), Life(1, [], 5)):
            hub = program.live(life)
            mirror.catch_up(WAIT)
            check(mirror, hub)
            sizes.append(sum(len(own) for own in counted(mirror).values()))
    assert sizes == [90, 30, 55]


@pytest.mark.parametrize("spooled", [False, True], ids=["memory", "spool"])
@pytest.mark.parametrize("journaled", [False, True], ids=["states", "marks"])
@pytest.mark.parametrize("rounds", [2, pytest.param(15, marks=pytest.mark.slow)])
def test_whatever_a_run_goes_back_to_its_mirrors_have_what_counts(rounds: int, journaled: bool, spooled: bool) -> None:
    @settings(max_examples=rounds)
    @given(lives())
    def check_lives(story: list[Life]) -> None:
        with TemporaryDirectory() as folder:
            place, run = Place(), Path(folder)
            program = Program(
                lambda hub: bridged(place, run / "spool" if spooled else None, hub=hub), run if journaled else None
            )
            first = program.live(story[0])
            with joined(place, "all") as mirror:
                check(mirror, first)
                for life in story[1:]:
                    hub = program.live(life)
                    mirror.catch_up(WAIT)
                    check(mirror, hub)
                    with joined(place, "all") as late:
                        check(late, hub)
                    with joined(place, "newest") as late:
                        check_newest(late, hub)

    check_lives()
