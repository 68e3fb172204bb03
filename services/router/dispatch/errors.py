"""The ways in which a call to an expert worker can fail. Pure: retry decisions are made from them.

DispatchError
├── WorkerUnavailable        the worker is gone, late or draining: the rows may go elsewhere
│   ├── InvalidReply         the worker answered, and the reply cannot be used
│   └── ExpertsUnavailable   no worker answered for some experts within the wait; ends the step
├── NotLoaded                FAILED_PRECONDITION: the worker has not loaded an expert it was asked for
├── StaleEpoch               FAILED_PRECONDITION: the worker has seen a newer table
├── CallRejected             INVALID_ARGUMENT: the call was malformed
└── CallDamaged              DATA_LOSS: what the worker got is not what was sent, or what came back is not
"""

from __future__ import annotations


class DispatchError(Exception):
    """Expected: an expert worker's reply did not arrive or cannot be used."""


class WorkerUnavailable(DispatchError):
    """The worker is gone, late or draining. Its rows are sent again, to another worker if there is one."""


class InvalidReply(WorkerUnavailable):
    """The worker's reply is short, of the wrong shape, or is not finite."""


class ExpertsUnavailable(WorkerUnavailable):
    """No worker answered for some experts of a layer within the wait."""

    def __init__(self, layer: int, experts: list[int], waited_s: float, cause: DispatchError | None) -> None:
        names = ", ".join(map(str, experts[:8])) + (", ..." if len(experts) > 8 else "")
        why = f"; last failure: {cause}" if cause else ""
        super().__init__(f"no answer for experts {names} of layer {layer} within {waited_s:.1f} s{why}")
        self.layer = layer
        self.experts = experts


class NotLoaded(DispatchError):
    """The worker has not loaded an expert it was asked for. `epoch` is the worker's."""

    def __init__(self, message: str, epoch: int) -> None:
        super().__init__(message)
        self.epoch = epoch


class StaleEpoch(DispatchError):
    """The call was routed by a table older than one the worker has seen. `epoch` is the worker's."""

    def __init__(self, message: str, epoch: int) -> None:
        super().__init__(message)
        self.epoch = epoch


class CallRejected(DispatchError):
    """The worker rejected the call as malformed: a bug on one of the sides. It is sent again like any other."""


class CallDamaged(DispatchError):
    """The call or its reply was damaged on its way. It is sent again at once, to the same worker if there is no other.

    It says nothing against the worker; a link on which it happens often is given up.
    """
