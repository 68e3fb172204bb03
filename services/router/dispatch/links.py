"""The interface of a link to an expert worker, and of links that send together; failures are in errors.py.

Legend: T tokens, R rows sent to one worker, A (row, expert) assignments of one call or plan, D hidden.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from caracal_kernels.plan_rows import Plan
from caracal_proto import placement_pb2
from torch import Tensor

from services.router.dispatch.errors import DispatchError
from services.router.dispatch.table import Key


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
    traceparent: str = ""  # of the layer's span, if it has one


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


@runtime_checkable
class ProbedLink(Link, Protocol):
    """A link that can find out whether its worker is well again; one that cannot takes it for well."""

    def probe(self, request: ExpertRequest) -> float:
        """Makes a call over a connection of its own; returns the seconds that it took. Blocks, for any thread.

        Raises DispatchError.
        """
        ...

    def renew(self, since_s: float) -> None:
        """Replaces a session that was open at `since_s`, of time.monotonic, by a new one. Blocks, for any thread.

        After a fault of the network, an old connection may stand still for long when new ones work.
        """
        ...


Connect = Callable[[placement_pb2.Endpoint], Link]


@dataclass(frozen=True, slots=True)
class ScatterRequest:
    """One layer's rows for all workers, as `plan_rows` has planned them."""

    step: int
    layer: int
    epoch: int
    timeout_s: float  # from now until a reply is of no use
    x_TD: Tensor  # contiguous, the model's dtype, on its device
    plan: Plan
    counts: list[int]  # the plan's assignments of each worker

    @property
    def messages(self) -> int:
        """Workers that get a message."""
        return len(self.counts) - self.counts.count(0)


class Failure(NamedTuple):
    """One worker's call that brought no usable rows."""

    worker: int
    error: DispatchError
    late: bool  # given up without an answer


class Scatter(Protocol):
    """One plan's calls that were sent with one call, and are waited for with one."""

    without: Sequence[int]  # workers whose calls are not in it: they have to be sent one by one
    y_AD: Tensor  # the replies' rows, on the CPU, at their places among all of the plan's; complete after `wait`

    @property
    def arrived_s(self) -> float:
        """When the last reply was taken in, on time.perf_counter's clock."""
        ...

    @property
    def all_well(self) -> bool:
        """Whether every call has brought its rows, and they are finite."""
        ...

    def wait(self, timeout_s: float) -> tuple[list[Failure], list[int]]:
        """Waits for all replies; returns the failures, and the workers whose rows are not finite."""
        ...

    def wait_in_time(self, timeout_s: float) -> bool:
        """Waits until every call has ended, or one is overdue; returns whether all have ended."""
        ...

    def wait_for_one(self, others: Sequence[Scatter], timeout_s: float) -> None:
        """Waits until one more call of this or the others, all sent by the same links, has ended."""
        ...

    def pending(self) -> list[tuple[int, float]]:
        """The workers whose calls are pending, and when each is overdue, on time.perf_counter's clock."""
        ...

    def give_up(self, worker: int) -> None:
        """Ends the call to one worker, which is no failure: what it brings is not needed."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Sessions:
    """The sessions with all workers of a table, for native code that sends over them itself. They are as described as
    long as `scatterer` has this generation."""

    scatterer: object  # a capsule of services/transport/native/scatterer.h
    generation: int
    serial_W: Tensor  # int64
    dtype: torch.dtype  # of rows and replies
    wire_dtype: int  # the same, as frames name it
    max_rows: int  # of a plan
    max_assignments: int
    adopt: Callable[[object, Tensor, object], Scatter]  # takes over (a capsule's exchange, y_AD, what it refers to)
    count_calls: Callable[[int], None]  # messages that native code has sent


@runtime_checkable
class Scatterer(Protocol):
    """A Connect whose links can send a whole plan together."""

    def __call__(self, endpoint: placement_pb2.Endpoint) -> Link: ...

    def scatter(self, links: Sequence[Link], request: ScatterRequest) -> Scatter | None:
        """Sends each worker's rows without waiting; `links` are the workers'. None when none can be sent together."""
        ...

    def sessions(self, links: Sequence[Link], used: Collection[int]) -> Sessions | None:
        """The links' sessions; None when one that is `used` has none, or rows cannot be sent as they are."""
        ...

    def take_latencies(self) -> list[tuple[Key, int, float]]:
        """Whose calls have been answered since this was asked last, with their assignments and seconds."""
        ...

    def set_limits(self, limits: Mapping[Key, Sequence[float]], replicated: bool) -> None:
        """From now on calls to these workers are overdue after so many seconds, by their size. `replicated`: others
        have their experts, so they are soon taken for gone when they give no sign of life."""
        ...

    def answered(self, key: Key) -> int:
        """How many calls a worker has answered over its session."""
        ...

    def calls_sent(self) -> int:
        """Messages that were sent together until now."""
        ...

    def outdate_sessions(self) -> None:
        """Makes native code that sends over sessions return, since something it was given is new."""
        ...
