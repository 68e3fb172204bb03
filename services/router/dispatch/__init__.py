"""Token routing, linked into attention workers: gate, zero experts, send, combine, retry."""

from services.router.dispatch.links import (
    CallRejected,
    DispatchError,
    ExpertsUnavailable,
    InvalidReply,
    NotLoaded,
    StaleEpoch,
    WorkerUnavailable,
)

__all__ = [
    "CallRejected",
    "DispatchError",
    "ExpertsUnavailable",
    "InvalidReply",
    "NotLoaded",
    "StaleEpoch",
    "WorkerUnavailable",
]
