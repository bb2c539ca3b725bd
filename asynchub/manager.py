"""Named instances of a class, to be had from anywhere by name.

Threads: one lock, that of the module, guards every class; it is free again after any exception.
"""

from __future__ import annotations

import inspect
import os
import threading
import warnings
from collections import OrderedDict
from typing import Any, Self

from asynchub.errors import InstanceNameError, InstanceSignatureError, NoInstanceError

__all__ = ("ManagerMeta", "ManagerMixin")

_lock = threading.RLock()


def _new_lock() -> None:
    """Replace the lock in a forked child: the thread that holds it may not exist there."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)


def _accquire_lock() -> None:  # the spelling is mmengine's, from where it is imported by other modules
    """Take the lock that guards every class's instances."""
    _lock.acquire()


def _release_lock() -> None:
    """Let go of the lock that guards every class's instances."""
    _lock.release()


class ManagerMeta(type):
    """The metaclass of classes with named instances: each class has its own.

    Raises:
        InstanceSignatureError: when a class is made whose constructor takes no positional ``name``.
    """

    def __init__(cls, *args: Any) -> None:
        cls._instance_dict: OrderedDict[str, Any] = OrderedDict()
        if "name" not in inspect.getfullargspec(cls).args:
            raise InstanceSignatureError(cls)
        super().__init__(*args)


class ManagerMixin(metaclass=ManagerMeta):
    """Base of classes with named instances.

    Args:
        name: name of the instance; not empty. Constructing does not register it, ``get_instance`` does.
        **kwargs: ignored.

    Raises:
        InstanceNameError: ``name`` is not a string, or empty.
    """

    def __init__(self, name: str = "", **kwargs: Any) -> None:
        if not isinstance(name, str) or not name:
            raise InstanceNameError("name argument must be an non-empty string.")
        self._instance_name = name

    @classmethod
    def get_instance(cls, name: str, **kwargs: Any) -> Self:
        """Return the instance of that name, made with ``kwargs`` if there is none yet.

        Warns:
            UserWarning: there is one already, and ``kwargs`` were given; they are ignored.

        Raises:
            InstanceNameError: ``name`` is not a string, or empty.
        """
        if not isinstance(name, str):
            raise InstanceNameError(f"type of name should be str, but got {type(name)}")
        with _lock:
            instances = cls._instance_dict
            if name not in instances:
                instances[name] = cls(name=name, **kwargs)
            elif kwargs:
                warnings.warn(
                    f"{cls} instance named of {name} has been created, the method `get_instance` should not accept "
                    "any other arguments",
                    stacklevel=2,
                )
            return instances[name]  # type: ignore[no-any-return]  # each class holds instances of itself

    @classmethod
    def get_current_instance(cls) -> Self:
        """Return the instance that was created last.

        Raises:
            NoInstanceError: none was created yet.
        """
        with _lock:
            if not cls._instance_dict:
                raise NoInstanceError(cls)
            return next(reversed(cls._instance_dict.values()))  # type: ignore[no-any-return]

    @classmethod
    def check_instance_created(cls, name: str) -> bool:
        """Tell whether there is an instance of that name."""
        return name in cls._instance_dict

    @property
    def instance_name(self) -> str:
        """Name of the instance."""
        return self._instance_name
