"""The current table and links to its workers. Any thread may apply a table; only the engine's thread dispatches."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

import torch
from caracal_proto import placement_pb2

from services.router.dispatch.call_latency import HedgeOptions
from services.router.dispatch.errors import WorkerUnavailable
from services.router.dispatch.link_health import LinkHealth
from services.router.dispatch.links import (
    Connect,
    ExpertOutput,
    ExpertRequest,
    Link,
    ProbedLink,
    Scatter,
    Scatterer,
    ScatterRequest,
    Sessions,
)
from services.router.dispatch.shadow_calls import ShadowCalls, ShadowOptions
from services.router.dispatch.table import CPU, Key, RoutingTable, compile_table, key_of

DEPARTED_LINK_S = 1.0  # how long a worker that left the table may still answer what is in flight
PROBE_S = 2.0  # for each call of a probe
MOST_DAMAGED, DAMAGED_WITHIN_S = 3, 10.0  # calls to a worker within so long: its link is bad


def nothing() -> None:
    """The `refresh` of a pool that cannot ask for a newer table and waits until one is pushed."""


class ExpertWorkerPool:
    """The expert workers that one MoEDispatcher sends to."""

    def __init__(
        self,
        connect: Connect,
        num_layers: int,
        num_ffn: int,
        refresh: Callable[[], None] = nothing,
        device: torch.device = CPU,
        dispatch_dtype: torch.dtype | None = None,
        hedging: HedgeOptions = HedgeOptions(),  # noqa: B008  frozen
        shadow: ShadowOptions = ShadowOptions(),  # noqa: B008  frozen
    ) -> None:
        """`dispatch_dtype`: the dtype in which the links send rows; None = the model's."""
        self.dispatch_dtype = dispatch_dtype
        self._connect, self._refresh, self._device = connect, refresh, device
        self._sizes = num_layers, num_ffn
        self._table = self._view = RoutingTable.empty(num_layers, num_ffn)
        self._links: dict[Key, Link] = {}
        self._scatterer = connect if isinstance(connect, Scatterer) else None
        self._linked: tuple[tuple[Key, ...], list[Link]] | None = None  # a table's workers, and their links
        self._used: tuple[RoutingTable, frozenset[int]] | None = None  # a view, and the workers that have any of it
        self._damaged: dict[Key, deque[float]] = {}  # when the last calls to a worker were damaged
        self._changed = threading.Condition()
        self._dispatched = 0  # calls that were sent one by one
        self.looks = 0  # of the engine's thread, while it waits for replies in Python
        self.row: tuple[int, torch.dtype] | None = None  # width and dtype of the rows that were sent last
        self.health = LinkHealth(hedging, self._scatterer, self._probe, self._renew, self._rebuild_view)
        self.shadow = ShadowCalls(shadow, lambda: self._table, self._rebuild_view)

    @property
    def table(self) -> RoutingTable:
        """The newest table."""
        return self._table

    @property
    def view(self) -> RoutingTable:
        """The newest table without the suspect and convicted workers, except where they have the only replica."""
        return self._view

    @property
    def hedges(self) -> bool:
        """Whether overdue calls may be sent to other workers as well: to suspects, where there is no other."""
        return self.health.hedges

    @property
    def convicted(self) -> frozenset[Key]:
        """The workers that have computed wrongly."""
        return self.shadow.convicted

    def messages_sent(self) -> int:
        """Calls that were made until now."""
        return self._dispatched + (self._scatterer.calls_sent() if self._scatterer is not None else 0)

    def apply(self, table: placement_pb2.Table) -> int:
        """Makes a table the current one unless it is older; returns the current epoch. Raises TableError.

        Calls in flight keep the table they started with. Links to workers that the new table no longer names are
        closed after DEPARTED_LINK_S: by then their replies have arrived, or are requested from other workers.
        """
        compiled = compile_table(table, *self._sizes, self._device)
        with self._changed:
            if compiled.epoch > self._table.epoch:
                self._table = self._view = compiled
                self.health.replicated = compiled.replicated
                self._close_later(set(self._links) - set(compiled.keys))
                self.health.keep_only(compiled.keys)
                self.shadow.keep_only(compiled.keys)
                self._damaged = {key: times for key, times in self._damaged.items() if key in compiled.keys}
                self._rebuild_view()
                if compiled.replicated:
                    self.health.start()
                self._changed.notify_all()
            return self._table.epoch

    def wait_newer(self, epoch: int, timeout_s: float) -> bool:
        """Asks for a newer table than `epoch` and waits for it; returns False when none came."""
        self._refresh()
        with self._changed:
            return self._changed.wait_for(lambda: self._table.epoch > epoch, timeout_s)

    def scatter(self, table: RoutingTable, request: ScatterRequest) -> Scatter | None:
        """Sends a plan's rows with one call where links can; None where they cannot."""
        return self._scatterer.scatter(self._links_of(table), request) if self._scatterer is not None else None

    def sessions(self) -> tuple[RoutingTable, Sessions] | None:
        """The newest table and the sessions with all of its workers.

        None where one that rows go to has none, or an expert has no replica.
        """
        if self._scatterer is None:
            return None
        table = self._view
        sessions = self._scatterer.sessions(self._links_of(table), self._used_of(table))
        # A table that comes later outdates the sessions; one that came in between has done so before they were read.
        if sessions is None or table is not self._view or not table.complete:
            return None
        return table, sessions

    def dispatch(self, endpoint: placement_pb2.Endpoint, request: ExpertRequest) -> Future[ExpertOutput]:
        key = key_of(endpoint)
        link = self._links.get(key)
        if link is None:
            with self._changed:
                link = self._links[key] = self._connect(endpoint)
        self._dispatched += 1
        return link.dispatch(request)

    def mark_suspect(self, key: Key, hung: bool) -> None:
        """Avoids a worker until probes of it are answered; a hung worker's link is closed, which fails its calls."""
        self.health.failed(key)
        link = None
        if hung:
            with self._changed:
                link, self._linked = self._links.pop(key, None), None
        if link is not None:
            link.close()

    def is_bad_link(self, key: Key) -> bool:
        """Notes that a call to a worker was damaged on its way; whether that is so often that its link is given up."""
        seen = self._damaged.setdefault(key, deque(maxlen=MOST_DAMAGED))
        seen.append(time.monotonic())
        bad = len(seen) == MOST_DAMAGED and seen[0] > seen[-1] - DAMAGED_WITHIN_S
        if bad:
            seen.clear()
        return bad

    def mark_healthy(self, key: Key) -> None:
        """Ends the suspicion against a worker that has answered."""
        self.health.answered(key)

    def close(self) -> None:
        self.shadow.close()
        self.health.close()
        with self._changed:
            links, self._links, self._linked = self._links, {}, None
        for link in links.values():
            link.close()

    def _links_of(self, table: RoutingTable) -> list[Link]:
        linked = self._linked
        if linked is not None and linked[0] is table.keys:
            return linked[1]
        with self._changed:
            for key, endpoint in zip(table.keys, table.workers, strict=True):
                if key not in self._links:
                    self._links[key] = self._connect(endpoint)
            self._linked = table.keys, [self._links[key] for key in table.keys]
            return self._linked[1]

    def _close_later(self, departed: set[Key]) -> None:
        self._linked = None
        for key in departed:
            timer = threading.Timer(DEPARTED_LINK_S, self._links.pop(key).close)
            timer.daemon = True
            timer.start()

    def _rebuild_view(self) -> None:
        with self._changed:
            self._view = self._table.avoiding(self.health.suspects | self.convicted)
        if self._scatterer is not None:
            self._scatterer.outdate_sessions()

    def _renew(self, key: Key, since_s: float) -> None:
        link = self._links.get(key)
        if isinstance(link, ProbedLink):
            link.renew(since_s)

    def _used_of(self, table: RoutingTable) -> frozenset[int]:
        if self._used is None or self._used[0] is not table:
            self._used = table, table.used()
        return self._used[1]

    def _probe(self, key: Key) -> float:
        """Makes a worker compute one row, over a connection of its own; returns the seconds. Raises DispatchError."""
        table = self._table
        if key not in table.keys or self.row is None:
            raise WorkerUnavailable(f"{key[0]} has left the table")
        worker, (hidden, dtype) = table.keys.index(key), self.row
        with self._changed:
            link = self._links.get(key)
            if link is None:
                link = self._links[key] = self._connect(table.workers[worker])
                self._linked = None
        if not isinstance(link, ProbedLink):
            return 0.0
        if (place := table.of_worker(worker)) is None:
            raise WorkerUnavailable(f"{key[0]} has no experts")
        layer, expert = place
        row_A, expert_A = torch.tensor([0], dtype=torch.int32), torch.tensor([expert], dtype=torch.int32)
        x_RD = torch.ones(1, hidden, dtype=dtype, device=self._device)
        return link.probe(ExpertRequest(0, layer, table.epoch, PROBE_S, x_RD, row_A, expert_A))
