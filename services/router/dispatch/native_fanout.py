"""All native sessions of one attention worker: one call sends a plan's rows to all workers, one waits for the replies.

Legend: T tokens, D hidden, W workers, R rows of all workers together, A (row, expert) assignments of all workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from caracal_kernels import quantize
from caracal_proto import expert_pb2, placement_pb2
from caracal_proto.tensors import dtype_name
from torch import Tensor

from services.router.dispatch.errors import (
    CallRejected,
    DispatchError,
    InvalidReply,
    NotLoaded,
    StaleEpoch,
    WorkerUnavailable,
)
from services.router.dispatch.links import Failure, Link, ScatterRequest
from services.router.dispatch.native_link import NONE, NativeLink, NativeStats
from services.router.dispatch.native_open import Opened
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

    def __init__(self, options: NativeOptions) -> None:
        """Raises NativeUnavailable."""
        self.stats, self.dispatch_dtype = options.stats, options.dispatch_dtype
        self._options = options
        self._module = native()
        self._client: Client = self._module.Client(
            options.heartbeat_s, options.silent_beats, options.spin_s, dtype_name(options.dtype)
        )
        self._version = 0
        self._seen: tuple[object, int, int] = ((), -1, -1)
        self._serial_W = torch.empty(0, dtype=torch.int64)
        self._without: list[int] = []
        self._limits = 0, 0

    def __call__(self, endpoint: placement_pb2.Endpoint) -> Link:
        """Returns a link to a worker, and starts to open its session."""
        link = NativeLink(endpoint, self)
        link.start_opening()
        return link

    def add(self, opened: Opened) -> int:
        """Takes a session over; returns its serial."""
        return self._client.add(opened.socket.detach(), opened.session)

    def end(self, serial: int) -> None:
        """Ends a session; its calls fail at once."""
        self._client.end(serial, "the session was closed")

    def links_changed(self) -> None:
        """Makes the next scatter look at the links again."""
        self._version += 1

    def scatter(self, links: Sequence[Link], request: ScatterRequest) -> NativeScatter | None:
        """Sends each worker's rows; `links` are the workers'. None when no session can take them."""
        self._look_at(links)
        tokens, assignments = len(request.x_TD), len(request.plan[2])
        max_rows, max_assignments = self._limits
        if tokens > max_rows or assignments > max_assignments or len(self._without) == len(links):
            return None
        self.stats.calls += request.messages - sum(request.counts[worker] > 0 for worker in self._without)
        return NativeScatter(self, request, links, self._serial_W, self._without)

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

    def close(self) -> None:
        """Drops the sessions that are left. Links are closed before."""
        self._version += 1

    def _look_at(self, links: Sequence[Link]) -> None:
        """Reads the links' sessions again if any has changed since the last time."""
        seen = (links, self._version, self._client.generation)
        if seen[0] is self._seen[0] and seen[1:] == self._seen[1:]:
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
        self._seen = seen


class NativeScatter:
    """One plan's calls over native sessions. `without` are the workers that have none: their calls are not in it."""

    def __init__(
        self,
        fanout: NativeFanout,
        request: ScatterRequest,
        links: Sequence[Link],
        serial_W: Tensor,
        without: Sequence[int],
    ) -> None:
        self.without, self._links = without, links
        x_TD = request.x_TD
        self.y_AD = torch.empty(len(request.plan[2]), x_TD.shape[1], dtype=x_TD.dtype)
        self._sent = fanout.send(request, serial_W, self.y_AD)

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
        case _:
            return WorkerUnavailable(message)
