"""The interface of a link to an expert worker; its failures are in errors.py.

Legend: R rows sent to one worker, A (row, expert) assignments of one call, D hidden.
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


@dataclass(frozen=True, slots=True)
class ExpertRequest:
    """One layer's rows for one worker, and the experts to run them through. Assignments ascend by (expert, row)."""

    step: int
    layer: int
    epoch: int
    timeout_s: float  # from now until the reply is of no use
    x_RD: Tensor  # contiguous, the model's dtype, on its device
    row_A: Tensor  # int32, indices into x_RD, on the CPU
    expert_A: Tensor  # int32, on the CPU


class ExpertOutput(NamedTuple):
    """One unweighted row per assignment, in the request's order, on the device on which it was received."""

    y_AD: Tensor
    finite: bool
    arrived_s: float  # time.perf_counter

    @classmethod
    def of(cls, y_AD: Tensor) -> ExpertOutput:
        """Checks the rows for non-finite values, on the link's own thread, where it costs the engine nothing."""
        return cls(y_AD, math.isfinite(y_AD.sum(dtype=torch.float32).item()), time.perf_counter())


class Link(Protocol):
    """A connection to one expert worker, used by one engine thread."""

    def dispatch(self, request: ExpertRequest) -> Future[ExpertOutput]:
        """Sends without waiting for an acknowledgement. Every failure comes through the future, as a DispatchError."""
        ...

    def close(self) -> None:
        """Ends the session; what is in flight fails with WorkerUnavailable."""
        ...


Connect = Callable[[placement_pb2.Endpoint], Link]
