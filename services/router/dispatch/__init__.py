"""Token routing, linked into attention workers: gate, zero experts, send, combine, retry."""

from services.router.dispatch.links import (
    BadReply,
    DispatchError,
    ExpertsUnavailable,
    NotHeld,
    Refused,
    StaleEpoch,
    WorkerUnavailable,
)

__all__ = ["BadReply", "DispatchError", "ExpertsUnavailable", "NotHeld", "Refused", "StaleEpoch", "WorkerUnavailable"]
