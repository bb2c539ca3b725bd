"""An asyncio event bus for training loops: record scalars, watch them, steer the run.

``MessageHub`` keeps the contract of mmengine's hub; every update also goes out as an event to async subscribers.
Subscribers are loaded when they are named; neither torch nor an extra is loaded by importing this package.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from asynchub.channels import SubscriptionStatistics
from asynchub.errors import AsyncHubError, DeviceLostError, GraphCaptureError
from asynchub.events import (
    CheckpointRemoved,
    CheckpointSaved,
    Event,
    EventsDropped,
    InfoRemoved,
    InfoUpdated,
    JournalDegraded,
    JournalRestored,
    Marked,
    Rewound,
    SaveFailed,
    ScalarLost,
    ScalarUpdated,
    StateDamaged,
    StateLoaded,
    StateSaved,
    SubscriberFailed,
    TrackerDegraded,
    TrackerRestored,
)
from asynchub.feed import HubStatistics
from asynchub.history import HistoryBuffer
from asynchub.hub import MessageHub
from asynchub.manager import ManagerMeta, ManagerMixin
from asynchub.requests import (
    CheckpointRequested,
    Decided,
    ParameterChanged,
    ParameterChangeRequested,
    Request,
    RequestApplied,
    RequestRefused,
    RollbackRequested,
    SkipRequested,
    StopRequested,
)
from asynchub.runner import Attachment, Subscriber
from asynchub.saving import PendingSave
from asynchub.subscription import Subscription
from asynchub.watch import Watch

if TYPE_CHECKING:
    from asynchub.devices.registry import register_backend
    from asynchub.journal.following import follow
    from asynchub.journal.journal import Journal
    from asynchub.journal.recovering import recover
    from asynchub.subscribers.console import ConsoleLogger
    from asynchub.subscribers.csv import CsvLogger
    from asynchub.subscribers.early_stopping import EarlyStopping
    from asynchub.subscribers.jsonl import JsonlLogger
    from asynchub.subscribers.plateau import ReduceLROnPlateau
    from asynchub.subscribers.scheduler_step import SchedulerStep

__all__ = (
    "AsyncHubError",
    "Attachment",
    "CheckpointRemoved",
    "CheckpointRequested",
    "CheckpointSaved",
    "ConsoleLogger",
    "CsvLogger",
    "Decided",
    "DeviceLostError",
    "EarlyStopping",
    "Event",
    "EventsDropped",
    "GraphCaptureError",
    "HistoryBuffer",
    "HubStatistics",
    "InfoRemoved",
    "InfoUpdated",
    "Journal",
    "JournalDegraded",
    "JournalRestored",
    "JsonlLogger",
    "ManagerMeta",
    "ManagerMixin",
    "Marked",
    "MessageHub",
    "ParameterChangeRequested",
    "ParameterChanged",
    "PendingSave",
    "ReduceLROnPlateau",
    "Request",
    "RequestApplied",
    "RequestRefused",
    "Rewound",
    "RollbackRequested",
    "SaveFailed",
    "ScalarLost",
    "ScalarUpdated",
    "SchedulerStep",
    "SkipRequested",
    "StateDamaged",
    "StateLoaded",
    "StateSaved",
    "StopRequested",
    "Subscriber",
    "SubscriberFailed",
    "Subscription",
    "SubscriptionStatistics",
    "TrackerDegraded",
    "TrackerRestored",
    "Watch",
    "follow",
    "recover",
    "register_backend",
)

__version__ = "0.1.0"

_LAZY = {
    "ConsoleLogger": "subscribers.console",
    "CsvLogger": "subscribers.csv",
    "EarlyStopping": "subscribers.early_stopping",
    "Journal": "journal.journal",
    "JsonlLogger": "subscribers.jsonl",
    "ReduceLROnPlateau": "subscribers.plateau",
    "SchedulerStep": "subscribers.scheduler_step",
    "follow": "journal.following",
    "recover": "journal.recovering",
    "register_backend": "devices.registry",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"asynchub.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
