"""The calls of one plan over native sessions, and what their failures are in Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from caracal_proto import expert_pb2
from torch import Tensor

from services.router.dispatch.errors import (
    CallDamaged,
    CallRejected,
    DispatchError,
    InvalidReply,
    NotLoaded,
    StaleEpoch,
    WorkerUnavailable,
)
from services.router.dispatch.links import Failure, Link, Scatter
from services.router.dispatch.native_link import NativeLink

if TYPE_CHECKING:
    from services.transport._native import Client, Sent

REJECTED, LOST, INVALID, LATE, DAMAGED = 2, 3, 4, 5, 6  # Outcome in services/transport/native/session.h


class NativeScatter:
    """One plan's calls over native sessions. `without` are the workers that have none: their calls are not in it."""

    def __init__(self, client: Client, links: Sequence[Link], without: Sequence[int], y_AD: Tensor, sent: Sent) -> None:
        self._client = client
        self.without, self.y_AD = without, y_AD
        self._links, self._sent = links, sent
        self._given_up: set[int] = set()

    @property
    def arrived_s(self) -> float:
        """When the last reply was taken in, on time.perf_counter's clock."""
        return self._sent.arrived_s

    @property
    def all_well(self) -> bool:
        """Whether every call has brought its rows, and they are finite."""
        return self._sent.all_well

    def wait_in_time(self, timeout_s: float) -> bool:
        """Waits until every call has ended, or one is overdue; returns whether all have ended."""
        self._sent.wait(timeout_s, True)
        return self._sent.all_well or not self._sent.pending()

    def wait_for_one(self, others: Sequence[Scatter], timeout_s: float) -> None:
        """Waits until one more call of this or the others, all sent by the same links, has ended."""
        all_ = [self._sent, *(other._sent for other in others if isinstance(other, NativeScatter))]
        self._client.wait_for_one(all_, max(0.0, timeout_s))

    def pending(self) -> list[tuple[int, float]]:
        """The workers whose calls are pending, and when each is overdue, on time.perf_counter's clock."""
        return self._sent.pending()

    def give_up(self, worker: int) -> None:
        """Ends the call to one worker, which is no failure: what it brings is not needed."""
        self._given_up.add(worker)
        self._sent.give_up(worker)

    def wait(self, timeout_s: float) -> tuple[list[Failure], list[int]]:
        """Waits for all replies; returns the failures, and the workers whose rows are not finite."""
        sent = self._sent
        sent.wait(timeout_s, False)
        if sent.all_well:
            return [], []
        failures = []
        for worker, outcome, status, epoch, text in sent.failures():
            if worker in self._given_up:
                continue
            link = self._links[worker]
            assert isinstance(link, NativeLink)
            message = f"{link.name}: {text.decode(errors='replace')}"
            failures.append(Failure(worker, error_of(outcome, status, epoch, message), outcome == LATE))
        return failures, sent.not_finite()


def error_of(outcome: int, status: int, epoch: int, message: str) -> DispatchError:
    """The failure of a call that has ended so."""
    if outcome == INVALID:
        return InvalidReply(message)
    if outcome == DAMAGED:
        return CallDamaged(message)
    if outcome in (LOST, LATE):
        return WorkerUnavailable(message)
    match status:
        case expert_pb2.ExpertReply.NOT_LOADED:
            return NotLoaded(message, epoch)
        case expert_pb2.ExpertReply.STALE_EPOCH:
            return StaleEpoch(message, epoch)
        case expert_pb2.ExpertReply.INVALID:
            return CallRejected(message)
        case expert_pb2.ExpertReply.DAMAGED:
            return CallDamaged(message)
        case _:
            return WorkerUnavailable(message)
