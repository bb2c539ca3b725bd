"""Every error that asynchub raises.

    AsyncHubError
    ├── NotAScalarError            a value is not exactly one real number
    ├── CountTypeError             a count is not an integer
    ├── KeyTypeError               a key is not a string
    ├── PatternError               a key pattern is malformed
    ├── ScheduleError              an ``every=`` is malformed
    ├── ArgumentError              another argument is of a wrong type or out of range
    ├── ResumedFlagError           a key's ``resumed`` flag was changed
    ├── UnknownScalarError         no scalar has that key
    ├── HistoryError
    │   ├── WindowTypeError        a window is not an integer
    │   ├── EmptyHistoryError      a statistic of nothing was asked for
    │   ├── LengthMismatchError    values and counts differ in length
    │   ├── UnknownStatisticError  no statistic is registered under that name
    │   └── StatisticExistsError   a statistic of that name is registered already
    ├── InstanceError
    │   ├── InstanceNameError      a hub's name is not a string, or empty
    │   ├── InstanceSignatureError a named class takes no ``name`` argument
    │   └── NoInstanceError        no instance has been created yet
    ├── SubscriberTypeError        a subscriber is not callable, or not async
    ├── SubscriptionError
    │   ├── SubscriptionClosedError   a closed subscription was used
    │   └── LagExceededError          a reader with ``overflow="raise"`` fell behind
    ├── LifecycleError             a hub was entered or left in a way it does not allow
    ├── DeadlockError              a wait that could never end
    ├── WaitTimeoutError           a wait that took longer than its timeout
    ├── DeviceLostError            a device failed, and values on it are lost
    ├── GraphCaptureError          a value was published inside of the capture of a graph
    ├── CycleError                 control subscribers keep answering each other
    ├── ControlAwaitedError        a control subscriber awaited something else than its events
    ├── ControlFailedError         control subscribers failed (an ``ExceptionGroup``)
    ├── SubscribersFailedError     subscribers with ``on_error="raise"`` failed (an ``ExceptionGroup``)
    └── StateError
        ├── StateDictError         a state dict is malformed
        ├── UnsupportedTypeError   a value cannot be stored
        ├── UnsupportedTypesError  all values of a tree that cannot be stored (an ``ExceptionGroup``)
        ├── UnknownTypeError       stored data has a type this reader does not know
        ├── LimitExceededError     stored data asks for more than the limits allow
        ├── CorruptStateError      stored data is damaged, truncated or foreign
        │   └── JournalCorruptError    events that a journal had promised cannot be read
        ├── JournalError           a journal cannot be used in this way, or is used by somebody else
        └── SaveFailedError        an earlier save in the background failed

Each also derives from the built-in error that callers of mmengine catch today.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

__all__ = (
    "ArgumentError",
    "AsyncHubError",
    "ControlAwaitedError",
    "ControlFailedError",
    "CorruptStateError",
    "CountTypeError",
    "CycleError",
    "DeadlockError",
    "DeviceLostError",
    "EmptyHistoryError",
    "GraphCaptureError",
    "HistoryError",
    "InstanceError",
    "InstanceNameError",
    "InstanceSignatureError",
    "JournalCorruptError",
    "JournalError",
    "KeyTypeError",
    "LagExceededError",
    "LengthMismatchError",
    "LifecycleError",
    "LimitExceededError",
    "NoInstanceError",
    "NotAScalarError",
    "PatternError",
    "ResumedFlagError",
    "SaveFailedError",
    "ScheduleError",
    "StateDictError",
    "StateError",
    "StatisticExistsError",
    "SubscriberTypeError",
    "SubscribersFailedError",
    "SubscriptionClosedError",
    "SubscriptionError",
    "UnknownScalarError",
    "UnknownStatisticError",
    "UnknownTypeError",
    "UnsupportedTypeError",
    "UnsupportedTypesError",
    "WaitTimeoutError",
    "WindowTypeError",
)


def _described(value: object) -> str:
    shape = getattr(value, "shape", None)
    name = type(value).__name__
    if isinstance(shape, Iterable):
        return f"{name} of shape {tuple(shape)}"
    return name


class AsyncHubError(Exception):
    """Base of every error of this package."""


class NotAScalarError(AsyncHubError, TypeError, AssertionError, ValueError):
    """A value given to ``update_scalar`` is not exactly one real number."""

    def __init__(self, key: str, value: object, advice: str = "reduce it first, e.g. with .mean()") -> None:
        super().__init__(f"{key!r} must be one real number, got {_described(value)}; {advice}")
        self.key = key


class CountTypeError(AsyncHubError, TypeError, AssertionError):
    """A count is not an integer."""

    def __init__(self, key: str, count: object) -> None:
        super().__init__(f"count of {key!r} must be int, got {_described(count)}; pass the number of samples")
        self.key = key


class KeyTypeError(AsyncHubError, TypeError):
    """A key is not a string."""

    def __init__(self, key: object) -> None:
        super().__init__(f"a key must be a str like 'train/loss', got {type(key).__name__}: {key!r:.80}")


class PatternError(AsyncHubError, ValueError):
    """A key pattern is malformed."""

    def __init__(self, pattern: object, problem: str) -> None:
        super().__init__(
            f"{pattern!r} is not a key pattern: {problem}; write e.g. 'train/loss', 'train/*' (one level) or 'val/**'"
        )


class ScheduleError(AsyncHubError, ValueError):
    """An ``every=`` is malformed."""

    def __init__(self, every: object) -> None:
        super().__init__(
            "every must be a positive int (events) or e.g. '100ba' (steps), '1ep' (epochs), '30s' (seconds), "
            f"got {every!r}"
        )


class ArgumentError(AsyncHubError, TypeError, AssertionError, ValueError):
    """An argument is of a wrong type or out of its range."""


class ResumedFlagError(AsyncHubError, AssertionError):
    """A key's ``resumed`` flag was changed."""

    def __init__(self, key: str, stored: object, given: object) -> None:
        super().__init__(f"{key} used to be {stored}, but got {given} now. resumed keys cannot be modified repeatedly.")
        self.key = key


class UnknownScalarError(AsyncHubError, KeyError):
    """No scalar has that key."""

    def __init__(self, key: object, hub: str) -> None:
        self.key = key
        self._text = f"{key!r} is not among the scalars of hub {hub!r}; update_scalar({key!r}, ...) makes it"
        super().__init__(self._text)

    def __str__(self) -> str:  # KeyError would show the repr
        return self._text


class HistoryError(AsyncHubError):
    """Base of the errors of a ``HistoryBuffer``."""


class WindowTypeError(HistoryError, AssertionError, TypeError):
    """A window is not an integer."""

    def __init__(self, window_size: object) -> None:
        super().__init__(f"The type of window size should be int, but got {type(window_size)}")


class EmptyHistoryError(HistoryError, ValueError):
    """A statistic of nothing was asked for."""


class LengthMismatchError(HistoryError, AssertionError, ValueError):
    """Values and counts differ in length."""

    def __init__(self) -> None:
        # the spelling is mmengine's, whose text callers may match
        super().__init__("The lengths of log_history and count_histroy should be equal")


class UnknownStatisticError(HistoryError, KeyError):
    """No statistic is registered under that name."""

    def __init__(self, name: object) -> None:
        self._text = f"{name} has not been registered in HistoryBuffer._statistics_methods"
        super().__init__(self._text)


class StatisticExistsError(HistoryError, AssertionError):
    """A statistic of that name is registered already."""

    def __init__(self) -> None:
        super().__init__("method_name cannot be registered twice!")


class InstanceError(AsyncHubError):
    """Base of the errors of named instances."""


class InstanceNameError(InstanceError, AssertionError, TypeError):
    """A name is not a string, or empty."""


class InstanceSignatureError(InstanceError, AssertionError, TypeError):
    """A class made of ``ManagerMeta`` takes no positional ``name`` argument."""

    def __init__(self, cls: type) -> None:
        super().__init__(f"{cls} must have the `name` argument")


class NoInstanceError(InstanceError, RuntimeError):
    """No instance has been created yet."""

    def __init__(self, cls: type) -> None:
        super().__init__(
            f"Before calling {cls.__name__}.get_current_instance(), you should call "
            "get_instance(name=xxx) at least once."
        )


class SubscriberTypeError(AsyncHubError, TypeError):
    """A subscriber is not callable, or not async."""


class SubscriptionError(AsyncHubError):
    """Base of the errors of a subscription."""


class SubscriptionClosedError(SubscriptionError, RuntimeError):
    """A closed subscription was used."""


class LagExceededError(SubscriptionError, RuntimeError):
    """A reader with ``overflow="raise"`` fell behind."""

    def __init__(self, name: str, lag: int, max_lag: int) -> None:
        super().__init__(
            f"subscription {name!r} is {lag} events behind, {max_lag} allowed; "
            "make its handler faster, raise max_lag, or choose another overflow"
        )


class LifecycleError(AsyncHubError, RuntimeError):
    """A hub was entered or left in a way it does not allow."""


class DeadlockError(AsyncHubError, RuntimeError):
    """A wait that could never end: the waiting code is what is waited for."""


class WaitTimeoutError(AsyncHubError, TimeoutError):
    """A wait took longer than its timeout."""


class DeviceLostError(AsyncHubError, RuntimeError):
    """A device failed: values on it are lost, and no more can be published from it.

    Attributes:
        device: the device, e.g. ``"cuda:0"``.
    """

    def __init__(self, device: str, why: str) -> None:
        super().__init__(f"{device} {why}; values published from it before may be lost, numbers can still be published")
        self.device = device


class GraphCaptureError(AsyncHubError, RuntimeError):
    """A value was published amid the capture of a graph, whose replays would not publish it again."""

    def __init__(self, key: str) -> None:
        super().__init__(
            f"{key!r} was published amid the capture of a graph, which runs this line once, not at each replay: "
            "publish the graph's output after replay() instead"
        )
        self.key = key


class CycleError(AsyncHubError, RuntimeError):
    """Control subscribers keep answering each other at a settle point."""

    def __init__(self, names: Sequence[str], rounds: int) -> None:
        super().__init__(
            f"no end after {rounds} rounds: {', '.join(names)} keep publishing events that they themselves listen to"
        )
        self.names = tuple(names)


class ControlAwaitedError(AsyncHubError, RuntimeError):
    """A control subscriber awaited something else than its events in a plain script."""

    def __init__(self, name: str, awaited: str) -> None:
        super().__init__(
            f"control subscriber {name!r} awaited {awaited}, but settle() runs it without an event loop: "
            "make it an observer (role='observer') that sends a Request, or use `await hub.settled()`"
        )


class ControlFailedError(AsyncHubError, ExceptionGroup[Exception]):
    """Control subscribers failed; their errors are in ``exceptions``."""


class SubscribersFailedError(AsyncHubError, ExceptionGroup[Exception]):
    """Subscribers with ``on_error="raise"`` failed; their errors are in ``exceptions``."""


class StateError(AsyncHubError):
    """Base of the errors of saved state."""


class StateDictError(StateError, AssertionError, ValueError, TypeError):
    """A state dict is malformed."""


class UnsupportedTypeError(StateError, TypeError):
    """A value cannot be stored.

    Args:
        path: where the value is, e.g. ``$.info.cfg[3].hook``.
        value: the value itself.
        advice: what to do, when there is something better than the general advice.
    """

    def __init__(self, path: str, value: object, advice: str = "") -> None:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        super().__init__(f"{path}: cannot store {kind}; {advice or 'register it, convert it, or pass resumed=False'}")
        self.path = path


class UnsupportedTypesError(StateError, ExceptionGroup[UnsupportedTypeError], TypeError):
    """All values of a tree that cannot be stored, each with its path."""


class UnknownTypeError(StateError, ValueError):
    """Stored data has a type this reader does not know."""


class LimitExceededError(StateError, ValueError):
    """Stored data asks for more than the limits allow."""


class CorruptStateError(StateError, ValueError):
    """Stored data is damaged, truncated or foreign."""


class JournalCorruptError(CorruptStateError):
    """Events that a journal had promised cannot be read.

    Args:
        damages: what is damaged, and where.
    """

    def __init__(self, damages: Sequence[object]) -> None:
        super().__init__(
            f"{'; '.join(map(str, damages))}. They had been on the disk. Read what there is before the damage with "
            "mode='point-in-time', or around it with mode='salvage'"
        )
        self.damages = tuple(damages)


class JournalError(StateError, RuntimeError):
    """A journal cannot be used in this way, or is used by somebody else."""


class SaveFailedError(StateError, OSError):
    """An earlier save in the background failed, and nobody had been told; the save that raises this was written.

    An ``OSError``, as what callers catch around a save that the disk may refuse.

    Attributes:
        path: the file that was written now.
        failed_path: the file that was not written before.
    """

    def __init__(self, path: object, failed_path: object, error: BaseException) -> None:
        super().__init__(
            f"the state was written to {path}, but an earlier save in the background, to {failed_path}, had failed: "
            f"{type(error).__name__}: {error}; call wait() on what async_save returns to hear of it at once"
        )
        self.path = path
        self.failed_path = failed_path
