"""What the exchange needs of a way to an expert worker, and how such a way can fail.

    DispatchError
    ├── WorkerUnavailable        the peer is gone, late or leaving: the rows may go elsewhere
    │   ├── InvalidReply             it answered, and the answer cannot be used
    │   └── ExpertsUnavailable   nobody answered for some experts until the wait was over; ends the step
    ├── NotLoaded                  FAILED_PRECONDITION: the peer does not hold an expert it was asked for
    ├── StaleEpoch               FAILED_PRECONDITION: the peer has seen a newer table
    └── CallRejected                  INVALID_ARGUMENT: the call was malformed, or was damaged on its way

Shapes: R rows sent to one worker, P (row, expert) pairs, D hidden.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from caracal_proto import placement_pb2
from torch import Tensor


class DispatchError(Exception):
    """Anything that kept a contribution from coming home."""


class WorkerUnavailable(DispatchError):
    """The peer is gone, late or leaving. Expected; retried by the exchange."""


class InvalidReply(WorkerUnavailable):
    """The peer's answer is short, of the wrong shape, fails its checksum, or is not finite."""


class ExpertsUnavailable(WorkerUnavailable):
    """No worker answered for some experts of a layer within the wait."""

    def __init__(self, layer: int, experts: list[int], waited_s: float, cause: DispatchError | None) -> None:
        names = ", ".join(map(str, experts[:8])) + (", ..." if len(experts) > 8 else "")
        why = f"; last answer: {cause}" if cause else ""
        super().__init__(f"no answer for experts {names} of layer {layer} within {waited_s:.1f} s{why}")
        self.layer = layer
        self.experts = experts


class NotLoaded(DispatchError):
    """The peer does not hold an expert it was asked for. `epoch` is its own."""

    def __init__(self, message: str, epoch: int) -> None:
        super().__init__(message)
        self.epoch = epoch


class StaleEpoch(DispatchError):
    """The call was routed by a table older than one the peer has seen. `epoch` is the peer's."""

    def __init__(self, message: str, epoch: int) -> None:
        super().__init__(message)
        self.epoch = epoch


class CallRejected(DispatchError):
    """The peer calls the call malformed: damage on the way, or our bug."""


@dataclass(frozen=True, slots=True)
class ExpertRequest:
    """One layer's rows for one worker. Assignments ascend by (expert, row)."""

    step: int
    layer: int
    epoch: int
    timeout_s: float  # from now until the answer is of no use
    x_RD: Tensor  # contiguous, the model's dtype, on its device
    row_A: Tensor  # int32, indices into x_RD, on the CPU
    expert_A: Tensor  # int32, on the CPU


class Answer(NamedTuple):
    """One unweighted row per pair, in the request's order, on the device where it came in."""

    y_AD: Tensor
    finite: bool
    arrived_s: float  # time.perf_counter

    @classmethod
    def of(cls, y_AD: Tensor) -> Answer:
        """Looks the rows over on the link's own thread, where it costs the engine nothing."""
        return cls(y_AD, math.isfinite(y_AD.sum(dtype=torch.float32).item()), time.perf_counter())


class Link(Protocol):
    """A session with one expert worker, used by one engine thread."""

    def dispatch(self, request: ExpertRequest) -> Future[Answer]:
        """Returns before any byte has been acknowledged. Every failure comes through the future, as a DispatchError."""
        ...

    def close(self) -> None:
        """Ends the session; what is in flight fails with WorkerUnavailable."""
        ...


Connect = Callable[[placement_pb2.Endpoint], Link]
