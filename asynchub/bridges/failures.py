"""What can go wrong between processes, as errors.

BridgeError                    a broker is not to be had, or does not do what it is asked
├── AccessRefusedError         it refuses: wrong credentials, or not allowed
└── NobodyError                nobody answers what is asked through it
"""

from __future__ import annotations

from asynchub.errors import AsyncHubError

__all__ = ("AccessRefusedError", "BridgeError", "NobodyError")


class BridgeError(AsyncHubError, ConnectionError):
    """A broker is not to be had, or does not do what it is asked."""


class AccessRefusedError(BridgeError, PermissionError):
    """A broker refuses: the credentials are wrong, or do not allow what is asked."""


class NobodyError(BridgeError):
    """Nobody answers what is asked through a broker."""
