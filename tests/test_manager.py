"""Named instances: what mmengine promises of them, and that the lock is never kept."""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import mmengine.utils.manager as their_manager
import pytest

import asynchub.manager as our_manager
from asynchub.errors import InstanceNameError, InstanceSignatureError, NoInstanceError
from asynchub.manager import ManagerMeta, ManagerMixin


class Named(ManagerMixin):
    """The simplest class with named instances."""


@pytest.fixture(params=[their_manager, our_manager], ids=["mmengine", "asynchub"])
def manager(request: pytest.FixtureRequest) -> Any:
    """The module: mmengine's or ours."""
    return request.param


def test_each_class_has_instances_of_its_own(manager: Any) -> None:
    base: Any = type("Base", (manager.ManagerMixin,), {})
    derived: Any = type("Derived", (base,), {})
    assert base.get_instance("a") is base.get_instance("a")
    assert not derived.check_instance_created("a")
    assert type(derived.get_instance("a")) is derived
    assert derived.get_instance("a") is not base.get_instance("a")


def test_a_class_without_a_positional_name_is_refused(manager: Any) -> None:
    def keyword_only(self: Any, *, name: str) -> None: ...

    def nothing(self: Any) -> None: ...

    for init in (keyword_only, nothing):
        with pytest.raises(AssertionError, match=r"<class '.*Nameless'> must have the `name` argument"):
            manager.ManagerMeta("Nameless", (), {"__init__": init})


def test_our_errors_are_of_our_tree() -> None:
    with pytest.raises(InstanceSignatureError):
        ManagerMeta("Nameless", (), {"__init__": lambda self: None})
    with pytest.raises(InstanceNameError, match="name argument must be an non-empty string"):
        Named("")
    with pytest.raises(NoInstanceError, match=r"Before calling Named\.get_current_instance\(\), you should call"):
        Named.get_current_instance()


def test_arguments_for_an_instance_that_is_there_are_warned_of(manager: Any) -> None:
    named: Any = type("Known", (manager.ManagerMixin,), {})
    first = named.get_instance("a", ignored=1)
    with pytest.warns(UserWarning, match="instance named of a has been created, the method `get_instance` should not"):
        assert named.get_instance("a", ignored=2) is first


def test_the_warning_points_at_the_caller() -> None:
    Named.get_instance("a")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Named.get_instance("a", number=1)
    assert [one.filename for one in caught] == [__file__]


def test_instances_may_be_forgotten_in_either_way(manager: Any) -> None:
    named: Any = type("Forgotten", (manager.ManagerMixin,), {})
    first = named.get_instance("a")
    named._instance_dict.clear()
    second = named.get_instance("a")
    named._instance_dict = OrderedDict()
    assert first is not second
    assert not named.check_instance_created("a")


def test_the_name_cannot_be_changed(manager: Any) -> None:
    instance = manager.ManagerMixin("a")
    with pytest.raises(AttributeError):
        instance.instance_name = "b"
    assert instance.instance_name == "a"


def test_what_is_constructed_is_not_registered(manager: Any) -> None:
    named: Any = type("Constructed", (manager.ManagerMixin,), {})
    named("a")
    assert not named.check_instance_created("a")


class Failing(ManagerMixin):
    """A class whose instances cannot be made."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        raise ArithmeticError


def elsewhere(call: Callable[[], Any]) -> Any:
    """Return what ``call`` returns in another thread."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(call()), daemon=True)
    thread.start()
    thread.join(10)
    assert results, "the other thread waits for the lock"
    return results[0]


@pytest.mark.parametrize(
    "call",
    [
        lambda: Named.get_instance(""),
        lambda: Named.get_instance(None),  # type: ignore[arg-type]
        lambda: Failing.get_instance("a"),
        lambda: Named.get_current_instance(),
        lambda: Named.get_instance("a", number=Named.get_instance("a")),  # the suite makes warnings errors
    ],
    ids=["empty name", "no name", "failing constructor", "no instance", "warning made an error"],
)
def test_after_an_error_another_thread_goes_on(call: Callable[[], Any]) -> None:
    with warnings.catch_warnings(), pytest.raises((AssertionError, ArithmeticError, RuntimeError, UserWarning)):
        call()
    assert elsewhere(lambda: Named.get_instance("b").instance_name) == "b"
    assert not Failing.check_instance_created("a")


def test_the_lock_can_be_held_under_its_names_in_mmengine(manager: Any) -> None:
    manager._accquire_lock()
    manager._accquire_lock()
    try:
        tried: list[bool] = []
        thread = threading.Thread(target=lambda: tried.append(manager._lock.acquire(blocking=False)))
        thread.start()
        thread.join()
        assert tried == [False]
    finally:
        manager._release_lock()
        manager._release_lock()
    assert elsewhere(lambda: (manager._accquire_lock(), manager._release_lock())) == (None, None)


def test_threads_that_ask_for_one_name_get_one_instance() -> None:
    made: list[int] = []
    barrier = threading.Barrier(8)

    class Counted(ManagerMixin):
        def __init__(self, name: str) -> None:
            super().__init__(name)
            made.append(1)

    found: list[Any] = []

    def ask() -> None:
        barrier.wait()
        found.extend(Counted.get_instance(f"name {number}") for number in range(50))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 50
    assert len(set(map(id, found))) == 50


def test_a_constructor_may_ask_for_another_instance() -> None:
    class Parent(ManagerMixin):
        def __init__(self, name: str) -> None:
            super().__init__(name)
            self.child = Named.get_instance(f"child of {name}")

    assert Parent.get_instance("a").child.instance_name == "child of a"
