"""An exception in any line of a publish costs a journal no event and gives it none twice."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from asynchub import Journal, MessageHub, recover
from asynchub.bus import EventBus
from asynchub.intake import Intake
from asynchub.journal.flushing import Flushing
from asynchub.journal.putting import Tail
from asynchub.journal.taking import Taking
from asynchub.publishing import Publishing
from asynchub.record import Record
from tests.interrupting import codes_of, interrupted
from tests.test_interrupts import OUTSIDE, UPDATES, assert_free

CODE = codes_of(Record, Publishing, EventBus, Intake, Journal, Flushing, Taking, Tail) - OUTSIDE
CODE |= {EventBus.attend.__code__}
LET_GO = r"\s*(with |finally:|self\.busy = False)"  # ends what was begun: no signal comes in between


def _picture(hub: MessageHub) -> dict[str, Any]:
    """Return all that a hub holds, in the order in which it was published."""
    return {
        "scalars": {
            key: [column.tolist() for column in history.records(-1)] for key, history in sorted(hub.log_scalars.items())
        },
        "infos": dict(sorted(hub.runtime_info.items())),
        "seq": hub.statistics().seq,
    }


@pytest.mark.parametrize("tail", [2**16, 8192])
@pytest.mark.parametrize("name", UPDATES)
def test_what_an_interrupt_broke_into_is_in_the_journal_as_it_is_in_the_hub(
    name: str, tail: int, tmp_path: Path
) -> None:
    run, killed = tmp_path / "run", tmp_path / "killed"
    hub = MessageHub("run")
    hub.attach(Journal(run / "journal", tail=tail, interval=1000))
    hub.update_scalars({"a": 0.0, "b": 0.0})
    for line in range(1, 400):
        came = interrupted(lambda at=line: UPDATES[name](hub, at), line, CODE, LET_GO)  # type: ignore[misc]
        assert_free(hub)
        hub.update_scalar("after", float(line))
        shutil.copytree(run, killed)  # as a kill would leave it
        assert _picture(recover(killed)) == _picture(hub), f"interrupted in line {line}"
        shutil.rmtree(killed)
        if not came:
            break
    else:
        pytest.fail("the update has more lines than were tried")
    hub.close()
    assert _picture(recover(run)) == _picture(hub)
