"""All native sessions of one attention worker: one call sends a plan's rows to all workers, one waits for the replies.

Legend: T tokens, D hidden, W workers, R rows of all workers together, A (row, expert) assignments of all workers.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from caracal_kernels import quantize
from caracal_proto import placement_pb2
from caracal_proto.tensors import dtype_name
from torch import Tensor

from services.router.dispatch.errors import InvalidReply, NotLoaded, StaleEpoch
from services.router.dispatch.heartbeats import HEARTBEAT_S, SILENT_BEATS, silent_beats
from services.router.dispatch.links import ExpertRequest, Link, ScatterRequest, Sessions
from services.router.dispatch.native_link import NONE, NativeLink, NativeStats
from services.router.dispatch.native_open import Opened
from services.router.dispatch.native_scatter import NativeScatter, error_of
from services.router.dispatch.table import Key
from services.security.channels import PLAIN, Dialer
from services.transport.native_extension import native
from services.transport.payload import FP8, planes

if TYPE_CHECKING:
    from services.transport._native import Client, Sent

Seen = tuple[Sequence[Link], Collection[int], int]  # links, those of them that are used, and the generation


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
        self._seen: Seen = ((), (), -1)
        self._keys: dict[int, Key] = {}  # whose a session is, by its serial
        self._serials: dict[Key, int] = {}
        self._serial_W = torch.empty(0, dtype=torch.int64)
        self._without: list[int] = []
        self._limits = 0, 0
        self._sessions: Sessions | None = None

    def __call__(self, endpoint: placement_pb2.Endpoint) -> Link:
        """Returns a link to a worker, and starts to open its session."""
        link = NativeLink(endpoint, self)
        link.start_opening()
        return link

    def add(self, opened: Opened, key: Key) -> int:
        """Takes a session with a worker over; returns its serial."""
        serial = self._client.add(opened.socket.detach(), opened.session, opened.keys)
        self._keys[serial], self._serials[key] = key, serial
        return serial

    def end(self, serial: int) -> None:
        """Ends a session; its calls fail at once."""
        self._client.end(serial, "the session was closed")
        self.forget(serial)

    def forget(self, serial: int) -> None:
        """Notes that a session has ended."""
        key = self._keys.pop(serial, None)
        if key is not None and self._serials.get(key) == serial:
            del self._serials[key]

    def outdate_sessions(self) -> None:
        """Makes the next scatter look at the links again, and native code return that sends over their sessions."""
        self._client.touch()

    def sessions(self, links: Sequence[Link], used: Collection[int]) -> Sessions | None:
        """The links' sessions; None when one that is `used` has none, or rows travel in another dtype than theirs."""
        self._look_at(links, used)
        return self._sessions

    def take_latencies(self) -> list[tuple[Key, int, float]]:
        """Whose calls have been answered since this was asked last, with their assignments and seconds."""
        columns = (column.tolist() for column in self._client.take_latencies())
        return [
            (self._keys[serial], assignments, seconds)
            for serial, assignments, seconds in zip(*columns, strict=True)
            if serial in self._keys
        ]

    def set_limits(self, limits: Mapping[Key, Sequence[float]], replicated: bool) -> None:
        """From now on calls to these workers are overdue after so many seconds, by their size. `replicated`: others
        have their experts, so they are soon taken for gone when they give no sign of life."""
        for serial, key in list(self._keys.items()):
            if key in limits:
                beats = silent_beats(limits[key][0]) if replicated else self._options.silent_beats
                self._client.set_limits(serial, limits[key], beats)

    def answered(self, key: Key) -> int:
        """How many calls a worker has answered over its session."""
        serial = self._serials.get(key)
        return self._client.answered(serial) if serial is not None else 0

    def calls_sent(self) -> int:
        """Messages that were sent over native sessions."""
        return self.stats.calls

    def probe(self, opened: Opened, request: ExpertRequest) -> float:
        """Makes a call over a session that only this has; returns the seconds that it took. Raises DispatchError."""
        apart = NativeFanout(replace(self._options, stats=NativeStats(), spin_s=0.0), self.dialer)
        serial_W = torch.tensor([apart.add(opened, ("", "", ""))])
        rows, assignments = len(request.x_RD), len(request.row_A)
        row, one, all_ = torch.arange(rows, dtype=torch.int32), _ints(rows), _ints(assignments)
        plan = row, one, request.row_A, request.expert_A, all_, row.view(-1, 1)
        step, layer, epoch, timeout_s = request.step, request.layer, request.epoch, request.timeout_s
        scatter = ScatterRequest(step, layer, epoch, timeout_s, request.x_RD, plan, [assignments])
        began_s = time.perf_counter()
        for _ in range(2):  # the first one may find a worker that has been idle
            began_s = time.perf_counter()
            y_AD = torch.empty(assignments, request.x_RD.shape[1], dtype=request.x_RD.dtype)
            sent = apart.send(scatter, serial_W, y_AD)
            sent.wait(timeout_s, False)
            for _, outcome, status, its_epoch, text in sent.failures():
                error = error_of(outcome, status, its_epoch, text.decode(errors="replace"))
                if not isinstance(error, NotLoaded | StaleEpoch):  # which only who is well can answer
                    raise error
            if sent.not_finite():
                raise InvalidReply("the rows of a probe are not finite")
        return time.perf_counter() - began_s

    def scatter(self, links: Sequence[Link], request: ScatterRequest) -> NativeScatter | None:
        """Sends each worker's rows; `links` are the workers'. None when no session can take them."""
        self._look_at(links)
        tokens, assignments = len(request.x_TD), len(request.plan[2])
        max_rows, max_assignments = self._limits
        if tokens > max_rows or assignments > max_assignments or len(self._without) == len(links):
            return None
        self.stats.calls += request.messages - sum(request.counts[worker] > 0 for worker in self._without)
        y_AD = torch.empty(assignments, request.x_TD.shape[1], dtype=request.x_TD.dtype)
        return NativeScatter(self._client, links, self._without, y_AD, self.send(request, self._serial_W, y_AD))

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

    def _look_at(self, links: Sequence[Link], used: Collection[int] | None = None) -> None:
        """Reads the links' sessions again if any has changed since the last time. `used`: None = as the last time."""
        used = self._seen[1] if used is None else used
        seen = links, used, self._client.generation
        if seen[0] is self._seen[0] and seen[1] is self._seen[1] and seen[2] == self._seen[2]:
            return
        native_links = [link for link in links if isinstance(link, NativeLink)]
        assert len(native_links) == len(links), "every link of a fan-out was made by it"
        for link in native_links:
            if link.serial != NONE and (why := self._client.why_over(link.serial)):
                self.forget(link.serial)
                link.lost(why)
            elif link.serial != NONE:
                link.retire_grpc()
        serials = [link.serial for link in native_links]
        self._serial_W = torch.tensor(serials, dtype=torch.int64)
        self._without = [worker for worker, serial in enumerate(serials) if serial == NONE]
        limits = [(link.max_rows, link.max_assignments) for link in native_links if link.serial != NONE]
        self._limits = min((rows for rows, _ in limits), default=0), min((most for _, most in limits), default=0)
        self._sessions = self._all_sessions(links, used, seen[2])
        self._seen = seen

    def _all_sessions(self, links: Sequence[Link], used: Collection[int], generation: int) -> Sessions | None:
        options = self._options
        if not used or options.dispatch_dtype != options.dtype or any(worker in used for worker in self._without):
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
        return NativeScatter(self._client, links, [], y_AD, self._client.adopt(exchange, kept))

    def _count_calls(self, messages: int) -> None:
        self.stats.calls += messages


def _ints(number: int) -> Tensor:
    return torch.tensor([number], dtype=torch.int32)
