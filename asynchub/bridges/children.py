"""Child processes that publish through their parent: workers of a ``DataLoader``, ``multiprocessing``, ``os.fork``.

What a child's hub publishes is published in the parent's: with its own time and step, in the child's order, scalars and
infos in the parent's record. A child has no connection but one to its parent, on this machine, over a socket in a
folder that only this user may enter. What the parent had recorded before the child was forked is not sent; the step of
the parent does not follow the children's; a request of a child is asked of the parent's training loop.
Waiting: no publish waits, in a child or in the parent; see ``asynchub.bridges.uplink`` for what becomes of a child
    whose parent is slow, frozen or gone.
Forks: a forked child publishes through its parent from its first publish on; so do its own children. In others the
    function that it begins with is a ``link``, or it calls ``asynchub.bridges.linking.connect``.
Threads: what comes is published by one named ``asynchub children``.
"""

from __future__ import annotations

import functools
import logging
import os
import shutil
import socket
import string
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio.to_thread
from anyio import CancelScope

from asynchub.bridges.failures import BridgeError
from asynchub.bridges.linking import Linked
from asynchub.bridges.parcels import Greeting
from asynchub.bridges.reception import ChildStatistics, Reception
from asynchub.bridges.uplink import Address, Uplink
from asynchub.errors import ArgumentError, LifecycleError, WaitTimeoutError
from asynchub.hub import MessageHub

__all__ = ("Children", "ChildrenStatistics")

logger = logging.getLogger("asynchub")
MAX_PATH = 107 if sys.platform == "linux" else 103
"""Bytes of a path that a socket may have."""
END = 30.0
"""Seconds that leaving waits for what children have sent to be published."""
FIELDS = frozenset(("key", "pid", "worker"))


@dataclass(frozen=True, slots=True)
class ChildrenStatistics:
    """How the children of a hub are doing.

    Attributes:
        events: events of theirs that were published.
        lost: events that they have lost, because they came faster than they could be sent.
        refused: parcels of theirs that were damaged.
        children: each that is there, or is one of the last 256 that have ended.
    """

    events: int
    lost: int
    refused: int
    children: tuple[ChildStatistics, ...]


class Children:
    """Have child processes publish through a hub of this process: ``with Children(hub) as children:``.

    Start them inside of the ``with``, and end them inside of it; what comes later is not taken. ``async with`` too.

    Args:
        hub: the hub. Children find theirs under its name, as the current instance.
        rename: the key of a scalar or an info in the hub, with ``{worker}`` (number of a loader's worker, else the name
            of the process), ``{pid}`` and ``{key}``: ``"{key}/worker{worker}"``. By default it is that of the child, so
            that all of them are in one history.

    Raises:
        ArgumentError: ``hub`` is not a ``MessageHub``, or ``rename`` has no ``{key}``, or something unknown.

    Attributes:
        address: what ``connect`` takes, in processes that neither are forked nor get a ``link``; empty before it is
            entered.
    """

    def __init__(self, hub: MessageHub, *, rename: str = "{key}") -> None:
        if not isinstance(hub, MessageHub):
            raise ArgumentError(f"hub must be asynchub's MessageHub, got {type(hub).__name__}")
        self.address = ""
        self._hub = hub
        self._rename = _checked(rename)
        self._pid = os.getpid()
        self._folder: Path | None = None
        self._reception: Reception | None = None

    # --- for children

    @property
    def worker_init(self) -> Callable[..., None]:
        """The ``worker_init_fn`` of a ``DataLoader``, the ``initializer`` of a pool, for any way to start processes.

        Raises:
            LifecycleError: it is not entered.
        """
        return self.link(None)

    def link(self, function: Callable[..., Any] | None) -> Callable[..., Any]:
        """Return a function that does what ``function`` does, in a child whose hub publishes through this one.

        It is pickled as ``function`` is: ``Process(target=children.link(work))``. When it has returned, all that was
        published in it is sent.

        Raises:
            ArgumentError: ``function`` cannot be called.
            LifecycleError: it is not entered.
        """
        if function is not None and not callable(function):
            raise ArgumentError(f"link takes a function, got {function!r:.80}")
        self._living()
        return Linked(self.address, function, type(self._hub), hub=self._hub)

    def forked(self) -> Callable[[], None]:
        """Begin in a forked child; the hub calls this."""
        if self._reception is not None:
            self._reception.forked()
        return Uplink(self._hub, self.address).start

    # --- for the parent

    def flush(self, timeout: float | None = 30.0) -> None:
        """Wait until all that children have sent is published. In a forked child: until all of its own is sent.

        A child that ends by ``os._exit`` calls this first, or leaves the ``with``.

        Args:
            timeout: seconds; None for ever.

        Raises:
            LifecycleError: it is not entered.
            WaitTimeoutError: the timeout passed.
            BridgeError: in a child: the parent is gone.
        """
        if os.getpid() != self._pid:
            if isinstance(uplink := self._hub._heir, Uplink):
                uplink.flush(timeout)
        elif not self._living().flush().wait(timeout):
            raise WaitTimeoutError(f"hub {self._hub.instance_name!r} did not take all of its children's in {timeout} s")

    def statistics(self) -> ChildrenStatistics:
        """Return how the children are doing now; after the end, how they were doing then."""
        if self._reception is None:
            return ChildrenStatistics(0, 0, 0, ())
        return ChildrenStatistics(*self._reception.totals(), self._reception.statistics())

    def _living(self) -> Reception:
        if self._reception is None or self._hub._heir is not self:
            raise LifecycleError("children are taken in while it is entered: use `with Children(hub) as children:`")
        return self._reception

    # --- living

    def __enter__(self) -> Self:
        name = self._hub.instance_name
        if self._hub._heir is not None:
            raise LifecycleError(
                f"the children of hub {name!r} publish through {self._hub._heir.address} already; leave that first"
            )
        if not hasattr(socket, "AF_UNIX"):
            raise BridgeError("children need sockets in the file system (AF_UNIX), which this Python has not")
        folder = _new_folder()
        try:
            path = str(folder / "hub")
            self._reception = Reception(self._hub, path, functools.partial(_renamed, self._rename))
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._folder, self._pid = folder, os.getpid()
        self.address = str(Address(path, name))
        self._hub._heir = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._leave)

    def _leave(self) -> None:
        if os.getpid() != self._pid:  # a forked child
            if isinstance(uplink := self._hub._heir, Uplink):
                uplink.close()
            return
        if self._hub._heir is self:
            self._hub._heir = None
        try:
            if self._reception is not None and not self._reception.end(END):
                logger.error(
                    "hub %r does not take what its children sent: it waits for a reader", self._hub.instance_name
                )
        finally:
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)


def _checked(rename: str) -> str:
    try:
        fields = [name for _, name, _, _ in string.Formatter().parse(rename) if name is not None]
        rename.format(key="", pid=0, worker="")
    except (AttributeError, TypeError, ValueError, LookupError) as error:
        raise ArgumentError(
            f"rename must be a text with {{key}}, and maybe {{worker}} and {{pid}}, got {rename!r:.80}: {error}"
        ) from error
    if "key" not in fields or not FIELDS.issuperset(fields):
        raise ArgumentError(f"rename must be a text with {{key}}, and maybe {{worker}} and {{pid}}, got {rename!r:.80}")
    return rename


def _renamed(rename: str, child: Greeting, key: str) -> str:
    return rename.format(key=key, pid=child.pid, worker=child.worker)


def _new_folder() -> Path:
    """Return a new folder for a socket, which only this user may enter.

    Raises:
        BridgeError: its path would be too long.
    """
    for place in (tempfile.gettempdir(), "/tmp"):
        if len(os.fsencode(place)) + len("/asynchub-12345678/hub") <= MAX_PATH and os.access(place, os.W_OK):
            return Path(tempfile.mkdtemp(prefix="asynchub-", dir=place))
    raise BridgeError(
        f"the folder for temporary files, {tempfile.gettempdir()}, has too long a path for a socket, which may take "
        f"{MAX_PATH} bytes: set TMPDIR to a shorter one"
    )
