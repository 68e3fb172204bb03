"""All native sessions of one attention worker: one call sends a plan's rows to all workers, one waits for the replies.

Legend: T tokens, D hidden, W workers, R rows of all workers together, A (row, expert) assignments of all workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from caracal_kernels import quantize
from caracal_proto import expert_pb2, placement_pb2
from caracal_proto.tensors import dtype_name
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
from services.router.dispatch.links import Failure, Link, ScatterRequest, Sessions
from services.router.dispatch.native_link import NONE, NativeLink, NativeStats
from services.router.dispatch.native_open import Opened
from services.security.channels import PLAIN, Dialer
from services.transport.native_extension import native
from services.transport.payload import FP8, planes

if TYPE_CHECKING:
    from services.transport._native import Client, Sent

HEARTBEAT_S = 0.05  # between signs of life while a wait lasts
SILENT_BEATS = 10  # without one, the worker is gone: half a second
REJECTED, LOST, INVALID, LATE = 2, 3, 4, 5  # Outcome in services/transport/native/session.h


@dataclass(frozen=True, slots=True)
class NativeOptions:
    """What the fan-out needs to know."""

    dtype: torch.dtype  # of replies
    dispatch_dtype: torch.dtype  # of rows
    stats: NativeStats
    spin_s: float = 0.0  # how long a wait polls before it sleeps
    heartbeat_s: float = HEARTBEAT_S
    silent_beats: int = SILENT_BEATS


class NativeFanout:
    """Opens links and sends over their sessions. The engine's thread scatters and waits, links call the rest."""

    def __init__(self, options: NativeOptions, dialer: Dialer = PLAIN) -> None:
        """Raises NativeUnavailable."""
        self.dialer = dialer
        self.stats, self.dispatch_dtype = options.stats, options.dispatch_dtype
        self._options = options
        self._module = native()
        self._client: Client = self._module.Client(
            options.heartbeat_s, options.silent_beats, options.spin_s, dtype_name(options.dtype)
        )
        self._scatterer = self._client.scatterer()
        self._seen: tuple[object, int] = ((), -1)
        self._serial_W = torch.empty(0, dtype=torch.int64)
        self._without: list[int] = []
        self._limits = 0, 0
        self._sessions: Sessions | None = None

    def __call__(self, endpoint: placement_pb2.Endpoint) -> Link:
        """Returns a link to a worker, and starts to open its session."""
        link = NativeLink(endpoint, self)
        link.start_opening()
        return link

    def add(self, opened: Opened) -> int:
        """Takes a session over; returns its serial."""
        return self._client.add(opened.socket.detach(), opened.session, opened.keys)

    def end(self, serial: int) -> None:
        """Ends a session; its calls fail at once."""
        self._client.end(serial, "the session was closed")

    def outdate_sessions(self) -> None:
        """Makes the next scatter look at the links again, and native code return that sends over their sessions."""
        self._client.touch()

    def sessions(self, links: Sequence[Link]) -> Sessions | None:
        """The links' sessions; None when one has none, or rows travel in another dtype than the model's."""
        self._look_at(links)
        return self._sessions

    def scatter(self, links: Sequence[Link], request: ScatterRequest) -> NativeScatter | None:
        """Sends each worker's rows; `links` are the workers'. None when no session can take them."""
        self._look_at(links)
        tokens, assignments = len(request.x_TD), len(request.plan[2])
        max_rows, max_assignments = self._limits
        if tokens > max_rows or assignments > max_assignments or len(self._without) == len(links):
            return None
        self.stats.calls += request.messages - sum(request.counts[worker] > 0 for worker in self._without)
        y_AD = torch.empty(assignments, request.x_TD.shape[1], dtype=request.x_TD.dtype)
        return NativeScatter(links, self._without, y_AD, self.send(request, self._serial_W, y_AD))

    def send(self, request: ScatterRequest, serial_W: Tensor, y_AD: Tensor) -> Sent:
        """Sends over the sessions; the replies' rows go to `y_AD`, on the CPU."""
        x_TD = request.x_TD
        hidden = x_TD.shape[1]
        if self.dispatch_dtype == FP8:
            parts = [part.cpu() for part in quantize(x_TD)]
        else:
            parts = [x_TD.to(self.dispatch_dtype).contiguous().cpu()]
        rows = [(part.data_ptr(), size) for part, size in zip(parts, planes(hidden, self.dispatch_dtype), strict=True)]
        arrays = [each.cpu().contiguous() for each in request.plan[:5]]
        pointers = [each.data_ptr() for each in (serial_W, *arrays)]
        return self._client.scatter(
            request.step,
            request.layer,
            request.epoch,
            max(1, int(request.timeout_s * 1000)),
            hidden,
            dtype_name(self.dispatch_dtype),
            rows,
            self._module.Plan(*pointers, len(serial_W)),
            y_AD.data_ptr(),
            hidden * y_AD.itemsize,
            (parts, arrays, serial_W, y_AD),
        )

    def _look_at(self, links: Sequence[Link]) -> None:
        """Reads the links' sessions again if any has changed since the last time."""
        seen = links, self._client.generation
        if seen[0] is self._seen[0] and seen[1] == self._seen[1]:
            return
        native_links = [link for link in links if isinstance(link, NativeLink)]
        assert len(native_links) == len(links), "every link of a fan-out was made by it"
        for link in native_links:
            if link.serial != NONE and (why := self._client.why_over(link.serial)):
                link.lost(why)
            elif link.serial != NONE:
                link.retire_grpc()
        serials = [link.serial for link in native_links]
        self._serial_W = torch.tensor(serials, dtype=torch.int64)
        self._without = [worker for worker, serial in enumerate(serials) if serial == NONE]
        limits = [(link.max_rows, link.max_assignments) for link in native_links if link.serial != NONE]
        self._limits = min((rows for rows, _ in limits), default=0), min((most for _, most in limits), default=0)
        self._sessions = self._all_sessions(links, seen[1])
        self._seen = seen

    def _all_sessions(self, links: Sequence[Link], generation: int) -> Sessions | None:
        options = self._options
        if self._without or not links or options.dispatch_dtype != options.dtype:
            return None
        max_rows, max_assignments = self._limits
        return Sessions(
            self._scatterer,
            generation,
            self._serial_W,
            options.dtype,
            dtype_name(options.dtype),
            max_rows,
            max_assignments,
            partial(self._adopt, links),
            self._count_calls,
        )

    def _adopt(self, links: Sequence[Link], exchange: object, y_AD: Tensor, kept: object) -> NativeScatter:
        return NativeScatter(links, [], y_AD, self._client.adopt(exchange, kept))

    def _count_calls(self, messages: int) -> None:
        self.stats.calls += messages


class NativeScatter:
    """One plan's calls over native sessions. `without` are the workers that have none: their calls are not in it."""

    def __init__(self, links: Sequence[Link], without: Sequence[int], y_AD: Tensor, sent: Sent) -> None:
        self.without, self.y_AD = without, y_AD
        self._links, self._sent = links, sent

    @property
    def arrived_s(self) -> float:
        """When the last reply was taken in, on time.perf_counter's clock."""
        return self._sent.arrived_s

    def wait(self, timeout_s: float) -> tuple[list[Failure], list[int]]:
        """Waits for all replies; returns the failures, and the workers whose rows are not finite."""
        sent = self._sent
        sent.wait(timeout_s)
        if sent.all_well:
            return [], []
        failures = []
        for worker, outcome, status, epoch, text in sent.failures():
            link = self._links[worker]
            assert isinstance(link, NativeLink)
            message = f"{link.name}: {text.decode(errors='replace')}"
            failures.append(Failure(worker, _error(outcome, status, epoch, message), outcome == LATE))
        return failures, sent.not_finite()


def _error(outcome: int, status: int, epoch: int, message: str) -> DispatchError:
    if outcome == INVALID:
        return InvalidReply(message)
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
