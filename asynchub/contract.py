"""What every subscriber does, whatever else it does: a suite of tests for pytest, to run over one's own.

A class that derives from ``SubscriberContract`` and says how one is made is collected by pytest::

    class TestMine(SubscriberContract):
        def make(self, folder):
            return Mine(folder / "mine.txt")

Needs: pytest; trio, or what is run on it is skipped. No plugin, no configuration, and no event loop of the caller's.
Warnings: none is silenced; what a subscriber warns of is for the caller's filters.
"""

from __future__ import annotations

import dataclasses
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import anyio

from asynchub.channels import Selection
from asynchub.codec.decoder import loads
from asynchub.codec.encoder import dumps
from asynchub.errors import StateDictError
from asynchub.events import Event, InfoUpdated, ScalarUpdated
from asynchub.hub import MessageHub
from asynchub.requests import StopRequested
from asynchub.specimens import every_kind_of_event, run_for
from asynchub.testing import Drive, drive, observed

try:
    import pytest
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("asynchub.contract needs pytest: python -m pip install pytest") from error

__all__ = ("SubscriberContract",)

E = TypeVar("E", bound=Event)
SECONDS = 30
"""How long anything may take here."""
every_loop = pytest.mark.parametrize("backend", ["asyncio", "trio"])


class SubscriberContract(ABC):
    """The tests. A subclass says how a subscriber is made; pytest collects it if its name begins with ``Test``."""

    @abstractmethod
    def make(self, folder: Path) -> Any:
        """Return a new subscriber, that has seen nothing, of a run that may write below ``folder``.

        Two that are given the same folder are of the same run, one after the other.
        """

    def resumed(self, folder: Path, earlier: Any) -> Any:
        """Return a new subscriber that is to take over from ``earlier``, before it is given its state.

        Override it to bring along what the state does not hold: a learning rate is in the optimizer's state.
        """
        return self.make(folder)

    # --- its shape

    def test_it_has_the_shape_of_a_subscriber(self, tmp_path: Path) -> None:
        """It is an async callable, with a role and keys that there are, and both or neither halves of a state."""
        subscriber = self.make(tmp_path)
        _demand(
            inspect.iscoroutinefunction(type(subscriber).__call__),
            f"{_name(subscriber)} must have `async def __call__(self, events)`",
        )
        role = getattr(subscriber, "role", "observer")
        _demand(role in ("control", "observer"), f"role must be 'control' or 'observer', got {role!r}")
        Selection.of(_keys(subscriber)).test()
        halves = [hasattr(subscriber, name) for name in ("state_dict", "load_state_dict")]
        _demand(halves[0] == halves[1], "a subscriber has both state_dict and load_state_dict, or neither")

    # --- what it reads

    def test_it_ends_when_there_is_nothing_to_read(self, tmp_path: Path) -> None:
        """An empty run is a run."""
        _go(self.make(tmp_path), [])

    def test_it_takes_every_kind_of_event_and_value(self, tmp_path: Path) -> None:
        """Also those that it has subscribed to by a pattern, and does not know."""
        _go(self.make(tmp_path), every_kind_of_event())

    def test_it_takes_a_run(self, tmp_path: Path) -> None:
        """Values that fall, jump, stay and are not finite."""
        subscriber = self.make(tmp_path)
        _go(subscriber, run_for(subscriber))

    def test_it_can_run_again(self, tmp_path: Path) -> None:
        """A hub may be left and entered again."""
        subscriber = self.make(tmp_path)
        for _ in range(3):
            _go(subscriber, every_kind_of_event())

    def test_it_goes_on_after_events_were_dropped(self, tmp_path: Path) -> None:
        """An ``EventsDropped`` comes in the place of what it fell behind with."""
        hub = MessageHub("contract", drain_timeout=SECONDS)
        subscriber = self.make(tmp_path)
        hub.attach(subscriber, on_error="raise", max_lag=8, overflow="drop_oldest")
        for event in run_for(subscriber) * 4:
            _again(hub, event)
        with hub:
            hub.settle(timeout=SECONDS)
            hub.flush(timeout=SECONDS)
        _demand_health(hub)
        if not hub.statistics().subscriptions[0].dropped:
            pytest.skip("it subscribes to too little to fall behind")

    def test_it_takes_what_is_left_when_its_events_end(self, tmp_path: Path) -> None:
        """A hub that is left hands out what there is, and waits for it to be handled."""
        hub = MessageHub("contract", drain_timeout=SECONDS)
        subscriber = self.make(tmp_path)
        hub.attach(subscriber, on_error="raise")
        with hub:
            for event in run_for(subscriber) * 4:
                _again(hub, event)
        _demand_health(hub)

    # --- observers

    @every_loop
    def test_an_observer_takes_everything_on_every_loop(self, backend: str, tmp_path: Path) -> None:
        """Use anyio for what it awaits, and it works on asyncio and trio."""
        subscriber = self._observer(tmp_path)
        _run(backend, lambda: observed(subscriber, every_kind_of_event(), run_for(subscriber)))

    @every_loop
    def test_a_cancelled_observer_ends_and_can_run_again(self, backend: str, tmp_path: Path) -> None:
        """A cancellation is not an error: what it holds is let go of."""
        subscriber = self._observer(tmp_path)
        events = every_kind_of_event()

        async def main() -> None:
            with anyio.CancelScope() as scope:
                await observed(subscriber, events[:9], then=scope.cancel)
            await observed(subscriber, events[9:])

        _run(backend, main)

    @every_loop
    def test_an_observer_lives_on_the_loop_of_an_async_program(self, backend: str, tmp_path: Path) -> None:
        """``async with hub`` runs it on the program's own loop."""
        subscriber = self._observer(tmp_path)

        async def main() -> None:
            hub = MessageHub("contract", drain_timeout=SECONDS)
            hub.attach(subscriber, on_error="raise")
            async with hub:
                for event in run_for(subscriber):
                    _again(hub, event)
                await hub.flushed(timeout=SECONDS)
            _demand_health(hub)

        _run(backend, main)

    def test_it_does_not_answer_itself_for_ever(self, tmp_path: Path) -> None:
        """What publishes scalars and subscribes to them must not hear its own."""
        hub = MessageHub("contract", drain_timeout=SECONDS)
        subscriber = self.make(tmp_path)
        hub.attach(subscriber, on_error="raise")
        events = run_for(subscriber)
        with hub:
            for event in events:
                _again(hub, event)
            for _ in range(20):
                hub.settle(timeout=SECONDS)
                hub.flush(timeout=SECONDS)
            answers = hub.statistics().seq - len(events)
        _demand(answers <= 8 * len(events), f"{len(events)} events brought about {answers} more: does it hear its own?")

    # --- state

    def test_its_state_is_plain_data_that_it_takes_back(self, tmp_path: Path) -> None:
        """Builtins only, which another of its kind takes and gives back the same."""
        subscriber = self._stateful(tmp_path)
        for events in ([], every_kind_of_event(), run_for(subscriber)):
            _go(subscriber, events)
            stored = dumps(subscriber.state_dict())
            other = self.resumed(tmp_path, subscriber)
            other.load_state_dict(loads(stored))
            _demand_same(dumps(other.state_dict()), stored, "the state, loaded and asked for again")

    @pytest.mark.parametrize("state", [None, [], {}, {"unknown": 1}, "text"])
    def test_it_refuses_a_state_that_is_not_its_own_and_keeps_what_it_had(self, state: Any, tmp_path: Path) -> None:
        """A ``StateDictError``, and no trace."""
        subscriber = self._stateful(tmp_path)
        _go(subscriber, run_for(subscriber))
        before = dumps(subscriber.state_dict())
        with pytest.raises(StateDictError):
            subscriber.load_state_dict(state)
        _demand_same(dumps(subscriber.state_dict()), before, "the state after a refusal")

    def test_it_refuses_a_state_with_one_field_that_is_wrong_and_keeps_what_it_had(self, tmp_path: Path) -> None:
        """Everything is looked at before anything is changed."""
        subscriber = self._stateful(tmp_path)
        state = loads(dumps(subscriber.state_dict()))
        _go(subscriber, run_for(subscriber))
        before = dumps(subscriber.state_dict())
        for field in state:
            try:
                subscriber.load_state_dict(state | {field: object()})
            except StateDictError:
                _demand_same(dumps(subscriber.state_dict()), before, f"the state after {field!r} was refused")
            else:
                pytest.fail(f"load_state_dict took an object() for {field!r}; it must raise StateDictError")

    def test_two_of_its_kind_share_no_state(self, tmp_path: Path) -> None:
        """What one has seen, another has not."""
        one, other = self._stateful(tmp_path / "one"), self._stateful(tmp_path / "other")
        before = dumps(other.state_dict())
        _go(one, run_for(one))
        _demand_same(dumps(other.state_dict()), before, "the state of one, while another of its kind has run")

    def test_it_lives_on_a_hub_that_is_entered_saved_and_entered_again(self, tmp_path: Path) -> None:
        """Nothing of what was published is lost on the way."""
        hub = MessageHub("contract", drain_timeout=SECONDS)
        subscriber = self.make(tmp_path)
        hub.attach(subscriber, on_error="raise")
        events = run_for(subscriber)
        for _ in range(2):
            with hub:
                for number, event in enumerate(events):
                    _again(hub, event)
                    if number % 10 == 9:
                        hub.settle(timeout=SECONDS)
                hub.settle(timeout=SECONDS)
                hub.flush(timeout=SECONDS)
                hub.save(tmp_path / "hub.state")
        _demand_health(hub)

    # --- control

    def test_a_control_subscriber_decides_the_same_on_the_same_events(self, tmp_path: Path) -> None:
        """It goes by the events alone: neither by a clock, nor by chance, nor by what others of its kind have seen."""
        one, other = self._control(tmp_path / "one"), self._control(tmp_path / "other")
        events = run_for(one)
        _demand_same(_answers(drive(one, events)), _answers(drive(other, events)), "the answers of two of its kind")

    def test_a_control_subscriber_that_is_resumed_anywhere_decides_the_same(self, tmp_path: Path) -> None:
        """Saved after any event and loaded, it goes on as if nothing had been."""
        whole = self._control(tmp_path / "whole")
        if not hasattr(whole, "state_dict"):
            pytest.skip("it has no state")
        events = run_for(whole)
        uninterrupted = Drive(whole)
        for event in events:
            uninterrupted.send(event)
        expected = _answers(uninterrupted.answers)
        first = self._control(tmp_path / "first")
        before = Drive(first)
        for index in range(len(events) + 1):
            second = self.resumed(tmp_path / "first", first)
            second.load_state_dict(loads(dumps(first.state_dict())))
            after = Drive(second)
            for event in events[index:]:
                after.send(event)
            got = _answers([*before.answers, *after.answers])
            _demand_same(got, expected, f"the answers when resumed after {index} events")
            for event in events[index : index + 1]:
                before.send(event)

    # --- which tests are for it

    def _observer(self, folder: Path) -> Any:
        subscriber = self.make(folder)
        if getattr(subscriber, "role", "observer") != "observer":
            pytest.skip("it is no observer")
        return subscriber

    def _control(self, folder: Path) -> Any:
        folder.mkdir(exist_ok=True)
        subscriber = self.make(folder)
        if getattr(subscriber, "role", "observer") != "control":
            pytest.skip("it is no control subscriber")
        return subscriber

    def _stateful(self, folder: Path) -> Any:
        folder.mkdir(exist_ok=True)
        subscriber = self.make(folder)
        if not hasattr(subscriber, "state_dict"):
            pytest.skip("it has no state")
        return subscriber


# --- running one


def _run(backend: str, main: Callable[[], Any]) -> None:
    if backend == "trio":
        pytest.importorskip("trio")
    anyio.run(main, backend=backend)


def _go(subscriber: Any, events: Sequence[Event]) -> None:
    if getattr(subscriber, "role", "observer") == "control":
        drive(subscriber, events)
    else:
        anyio.run(lambda: observed(subscriber, events))


def _again(hub: MessageHub, event: Event) -> None:
    """Publish on a hub what was published before."""
    if event.step is not None:
        hub.step = event.step
    if isinstance(event, ScalarUpdated):
        hub.update_scalar(event.key, event.value, event.count)
    elif isinstance(event, InfoUpdated):
        hub.update_info(event.key, event.value)


def _keys(subscriber: Any) -> tuple[Any, ...]:
    return tuple(getattr(subscriber, "keys", ())) or ("**",)


def _name(subscriber: Any) -> str:
    return type(subscriber).__name__


# --- what is demanded


def _demand(holds: bool, what: str) -> None:
    if not holds:
        pytest.fail(what, pytrace=False)


def _demand_same(got: object, wanted: object, what: str) -> None:
    if got != wanted:
        pytest.fail(f"{what} must be the same\nwanted {wanted!r:.2000}\ngot    {got!r:.2000}", pytrace=False)


def _demand_health(hub: MessageHub) -> None:
    (one,) = hub.statistics().subscriptions
    _demand(one.errors == 0, f"{one.name} raised {one.errors} times")
    _demand(one.lag == 0, f"{one.name} left {one.lag} events unread")


def _answers(events: Iterable[Event]) -> list[Any]:
    """Return what can be compared of answers, up to the first request to stop: that ends a run."""
    return list(_comparable(events))


def _comparable(events: Iterable[Event]) -> Iterator[Any]:
    for event in events:
        fields = {one.name: getattr(event, one.name) for one in dataclasses.fields(event)}
        for name in ("seq", "time", "seconds"):  # of a moment, not of a decision
            fields.pop(name, None)
        yield type(event).__name__, repr(fields)
        if isinstance(event, StopRequested):
            return
