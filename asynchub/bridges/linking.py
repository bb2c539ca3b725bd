"""How the hub of a child process comes to publish through that of its parent, however the process was started.

Forked children need nothing of this: their copy of the hub does so by itself. A call of a ``Linked`` function, or
``connect``, does it in others, and does nothing where it is done already.
Threads: the hub becomes the current one of the thread that calls; of the others, it is the latest created.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from asynchub.bridges.failures import BridgeError
from asynchub.bridges.uplink import Address, Uplink, make_current
from asynchub.errors import LifecycleError
from asynchub.hub import MessageHub

__all__ = ("Linked", "connect", "link")


def connect(address: str) -> Uplink:
    """Have the hub of this process that has the name of its parent's publish through that, from now on.

    As a context manager the uplink gives the hub, which is the current one meanwhile, and is closed at the end. Else
    that happens when the process ends.

    Args:
        address: ``children.address`` of the parent process.

    Raises:
        ArgumentError: it is no address.
        BridgeError: nobody takes anything there.
        LifecycleError: the hub has another parent, or is that of the parent itself.
    """
    name = Address.of(address).hub
    known = MessageHub.check_instance_created(name)
    uplink = link(MessageHub.get_instance(name), address)
    if uplink is None:
        raise LifecycleError(f"hub {name!r} takes what comes to {address}: connect in a child process")
    try:
        return uplink.open()
    except BridgeError:
        if not known:
            MessageHub._instance_dict.pop(name, None)
        raise


def link(hub: MessageHub, address: str) -> Uplink | None:
    """Return the uplink of a hub, a new one if it has none; None if it is the parent's own hub.

    Raises:
        LifecycleError: the hub has another parent.
    """
    heir = hub._heir
    if heir is None:
        return Uplink(hub, address)
    if heir.address != address:
        raise LifecycleError(
            f"hub {hub.instance_name!r} publishes through {heir.address} and cannot through {address} as well"
        )
    return heir if isinstance(heir, Uplink) else None


class Linked:
    """A function to be called in a child process, whose hub publishes through its parent from the call on.

    It goes along to a process however that is started. In the process of the parent it is the function itself.

    Args:
        address: where the parent takes it.
        function: the function; None for one that does nothing, whatever it is called with.
        kind: class of the hub.
        step: the step that the hub begins at, where it is made for this.
        hub: the hub, in the process of the parent and in what is forked from that.
    """

    def __init__(
        self,
        address: str,
        function: Callable[..., Any] | None = None,
        kind: type[MessageHub] = MessageHub,
        step: int = 0,
        hub: MessageHub | None = None,
    ) -> None:
        self._address = address
        self._function = function
        self._kind = kind
        self._step = step
        self._hub = hub

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        hub = self._hub
        if hub is None:
            hub = self._kind.get_instance(Address.of(self._address).hub)
            hub.step = hub.step or self._step
        uplink = link(hub, self._address)
        if uplink is not None:
            make_current(hub)
        if self._function is None:
            return None
        try:
            return self._function(*args, **kwargs)
        finally:
            if uplink is not None:
                uplink.sent()

    def __reduce__(self) -> Any:
        step = self._step if self._hub is None else self._hub.step
        return Linked, (self._address, self._function, self._kind, step)
