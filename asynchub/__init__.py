"""An asyncio event bus for training loops: record scalars, watch them, steer the run.

``MessageHub`` keeps the contract of mmengine's hub; every update also goes out as an event to async subscribers.
Subscribers are loaded when they are named; neither torch nor an extra is loaded by importing this package.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from asynchub.bridging import (
    BridgeDegraded,
    BridgeRestored,
    ClocksApart,
    FrameRefused,
    RankLeft,
    ReductionDegraded,
    ReductionRestored,
    ScalarsReduced,
)
from asynchub.channels import SubscriptionStatistics
from asynchub.dataflow import (
    BottleneckChanged,
    ConcurrencyChanged,
    PipelineRecovered,
    PipelineReported,
    PipelineStalled,
    SlowItems,
)
from asynchub.declaring import Parameter
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
    Paused,
    PauseEnded,
    PauseRequested,
    Request,
    RequestApplied,
    RequestRefused,
    ResumeRequested,
    RollbackRequested,
    SkipRequested,
    StopRequested,
)
from asynchub.runner import Attachment, Subscriber
from asynchub.saving import PendingSave
from asynchub.subscription import Subscription
from asynchub.watch import Watch

if TYPE_CHECKING:
    from asynchub.bridges.bridge import Bridge
    from asynchub.bridges.children import Children
    from asynchub.bridges.reducer import Reducer
    from asynchub.bridges.remote import RemoteHub, attach
    from asynchub.dashboard.picture.notebook import show
    from asynchub.devices.registry import register_backend
    from asynchub.journal.following import follow
    from asynchub.journal.journal import Journal
    from asynchub.journal.recovering import recover
    from asynchub.pipeline.chains import monitor
    from asynchub.pipeline.controller import HillClimbing
    from asynchub.pipeline.monitor import Pipeline
    from asynchub.pipeline.pipeline_report import PipelineReport
    from asynchub.subscribers.batch_size import BatchSizeScheduler
    from asynchub.subscribers.checkpoint_policy import CheckpointContext, CheckpointPolicy
    from asynchub.subscribers.clipping import AutoClip, ZClip
    from asynchub.subscribers.console import ConsoleLogger
    from asynchub.subscribers.csv import CsvLogger
    from asynchub.subscribers.delivery import TrackerLogger
    from asynchub.subscribers.early_stopping import EarlyStopping
    from asynchub.subscribers.hub_monitor import HubMonitor
    from asynchub.subscribers.jsonl import JsonlLogger
    from asynchub.subscribers.learning_rate import LearningRateMonitor
    from asynchub.subscribers.limits import MaxSteps, Timer
    from asynchub.subscribers.monitors import StepTimeMonitor, ThroughputMonitor, timed_batches
    from asynchub.subscribers.nan_guard import NanGuard
    from asynchub.subscribers.noise_scale import GradNoiseScale
    from asynchub.subscribers.plateau import ReduceLROnPlateau
    from asynchub.subscribers.remote_control import RemoteControl
    from asynchub.subscribers.scheduler_step import SchedulerStep
    from asynchub.subscribers.spikes import SpikeDetection
    from asynchub.subscribers.sqlite import SQLiteLogger
    from asynchub.subscribers.stop_on import StopOnFile, StopOnSignal
    from asynchub.subscribers.trial_group import TrialGroup
    from asynchub.subscribers.trials import ASHA, MedianStopping

__all__ = (
    "ASHA",
    "AsyncHubError",
    "Attachment",
    "AutoClip",
    "BatchSizeScheduler",
    "BottleneckChanged",
    "Bridge",
    "BridgeDegraded",
    "BridgeRestored",
    "CheckpointContext",
    "CheckpointPolicy",
    "CheckpointRemoved",
    "CheckpointRequested",
    "CheckpointSaved",
    "Children",
    "ClocksApart",
    "ConcurrencyChanged",
    "ConsoleLogger",
    "CsvLogger",
    "Decided",
    "DeviceLostError",
    "EarlyStopping",
    "Event",
    "EventsDropped",
    "FrameRefused",
    "GradNoiseScale",
    "GraphCaptureError",
    "HillClimbing",
    "HistoryBuffer",
    "HubMonitor",
    "HubStatistics",
    "InfoRemoved",
    "InfoUpdated",
    "Journal",
    "JournalDegraded",
    "JournalRestored",
    "JsonlLogger",
    "LearningRateMonitor",
    "ManagerMeta",
    "ManagerMixin",
    "Marked",
    "MaxSteps",
    "MedianStopping",
    "MessageHub",
    "NanGuard",
    "Parameter",
    "ParameterChangeRequested",
    "ParameterChanged",
    "PauseEnded",
    "PauseRequested",
    "Paused",
    "PendingSave",
    "Pipeline",
    "PipelineRecovered",
    "PipelineReport",
    "PipelineReported",
    "PipelineStalled",
    "RankLeft",
    "ReduceLROnPlateau",
    "Reducer",
    "ReductionDegraded",
    "ReductionRestored",
    "RemoteControl",
    "RemoteHub",
    "Request",
    "RequestApplied",
    "RequestRefused",
    "ResumeRequested",
    "Rewound",
    "RollbackRequested",
    "SQLiteLogger",
    "SaveFailed",
    "ScalarLost",
    "ScalarUpdated",
    "ScalarsReduced",
    "SchedulerStep",
    "SkipRequested",
    "SlowItems",
    "SpikeDetection",
    "StateDamaged",
    "StateLoaded",
    "StateSaved",
    "StepTimeMonitor",
    "StopOnFile",
    "StopOnSignal",
    "StopRequested",
    "Subscriber",
    "SubscriberFailed",
    "Subscription",
    "SubscriptionStatistics",
    "ThroughputMonitor",
    "Timer",
    "TrackerDegraded",
    "TrackerLogger",
    "TrackerRestored",
    "TrialGroup",
    "Watch",
    "ZClip",
    "attach",
    "follow",
    "monitor",
    "recover",
    "register_backend",
    "show",
    "timed_batches",
)

__version__ = "0.1.0"

_LAZY = {
    "ASHA": "subscribers.trials",
    "AutoClip": "subscribers.clipping",
    "BatchSizeScheduler": "subscribers.batch_size",
    "Bridge": "bridges.bridge",
    "CheckpointContext": "subscribers.checkpoint_policy",
    "CheckpointPolicy": "subscribers.checkpoint_policy",
    "Children": "bridges.children",
    "ConsoleLogger": "subscribers.console",
    "CsvLogger": "subscribers.csv",
    "EarlyStopping": "subscribers.early_stopping",
    "GradNoiseScale": "subscribers.noise_scale",
    "HillClimbing": "pipeline.controller",
    "HubMonitor": "subscribers.hub_monitor",
    "Journal": "journal.journal",
    "JsonlLogger": "subscribers.jsonl",
    "LearningRateMonitor": "subscribers.learning_rate",
    "MaxSteps": "subscribers.limits",
    "MedianStopping": "subscribers.trials",
    "NanGuard": "subscribers.nan_guard",
    "Pipeline": "pipeline.monitor",
    "PipelineReport": "pipeline.pipeline_report",
    "ReduceLROnPlateau": "subscribers.plateau",
    "Reducer": "bridges.reducer",
    "RemoteControl": "subscribers.remote_control",
    "RemoteHub": "bridges.remote",
    "SQLiteLogger": "subscribers.sqlite",
    "SchedulerStep": "subscribers.scheduler_step",
    "SpikeDetection": "subscribers.spikes",
    "StepTimeMonitor": "subscribers.monitors",
    "StopOnFile": "subscribers.stop_on",
    "StopOnSignal": "subscribers.stop_on",
    "ThroughputMonitor": "subscribers.monitors",
    "Timer": "subscribers.limits",
    "TrackerLogger": "subscribers.delivery",
    "TrialGroup": "subscribers.trial_group",
    "ZClip": "subscribers.clipping",
    "attach": "bridges.remote",
    "follow": "journal.following",
    "monitor": "pipeline.chains",
    "recover": "journal.recovering",
    "register_backend": "devices.registry",
    "show": "dashboard.picture.notebook",
    "timed_batches": "subscribers.monitors",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"asynchub.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
