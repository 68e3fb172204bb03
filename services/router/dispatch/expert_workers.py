"""The table in force and links to the workers it names. Any thread may apply a table; one engine thread dispatches."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

import torch
from caracal_proto import placement_pb2

from services.router.dispatch.links import Answer, Connect, ExpertRequest, Link
from services.router.dispatch.table import CPU, Key, RoutingTable, compile_table, key_of

LINGER_S = 1.0  # how long a worker that left the table may still answer what is in flight
FIRST_SUSPECT_S, LAST_SUSPECT_S = 1.0, 60.0


def nothing() -> None:
    """The refresh of an exchange that is told about tables and never asks."""


class ExpertWorkerPool:
    """Expert workers as one exchange sees them."""

    def __init__(
        self,
        connect: Connect,
        num_layers: int,
        num_ffn: int,
        refresh: Callable[[], None] = nothing,
        device: torch.device = CPU,
        wire: torch.dtype | None = None,
    ) -> None:
        """`wire`: what the links send rows in, the model's dtype unless given."""
        self.wire = wire
        self._connect, self._refresh, self._device = connect, refresh, device
        self._sizes = num_layers, num_ffn
        self._table = self._view = RoutingTable.empty(num_layers, num_ffn)
        self._links: dict[Key, Link] = {}
        self._suspects: dict[
            Key, tuple[float, float]
        ] = {}  # until when a worker is passed over, and for how long that was
        self._suspected_until = 0.0
        self._changed = threading.Condition()

    @property
    def table(self) -> RoutingTable:
        """The newest table."""
        return self._table

    @property
    def view(self) -> RoutingTable:
        """The newest table, with workers that failed lately passed over wherever another replica can do it."""
        if self._suspected_until and time.monotonic() > self._suspected_until:
            self._refresh_view()
        return self._view

    def apply(self, table: placement_pb2.Table) -> int:
        """Puts a table in force unless it is older; returns the epoch in force. Raises TableError.

        Calls in call keep what they started with. Links to workers that are in the new table no more are closed after
        LINGER_S, so that what such a worker still owes is either here by then or asked for elsewhere.
        """
        compiled = compile_table(table, *self._sizes, self._device)
        with self._changed:
            if compiled.epoch > self._table.epoch:
                self._table = self._view = compiled
                self._dismiss(set(self._links) - set(compiled.keys))
                self._suspects = {
                    key: mark_suspect for key, mark_suspect in self._suspects.items() if key in compiled.keys
                }
                self._rebuild_view()
                self._changed.notify_all()
            return self._table.epoch

    def wait_newer(self, epoch: int, timeout_s: float) -> bool:
        """Asks for a newer table than `epoch` and waits; False when none came."""
        self._refresh()
        with self._changed:
            return self._changed.wait_for(lambda: self._table.epoch > epoch, timeout_s)

    def dispatch(self, endpoint: placement_pb2.Endpoint, request: ExpertRequest) -> Future[Answer]:
        key = key_of(endpoint)
        link = self._links.get(key)
        if link is None:
            with self._changed:
                link = self._links[key] = self._connect(endpoint)
        return link.dispatch(request)

    def mark_suspect(self, key: Key, hung: bool) -> None:
        """Passes a worker over for a while, longer each time; a hung one's link is dropped with all it still owes."""
        with self._changed:
            _, before_s = self._suspects.get(key, (0.0, FIRST_SUSPECT_S / 2))
            for_s = min(LAST_SUSPECT_S, 2 * before_s)
            self._suspects[key] = time.monotonic() + for_s, for_s
            self._rebuild_view()
            link = self._links.pop(key, None) if hung else None
        if link is not None:
            link.close()

    def mark_healthy(self, key: Key) -> None:
        """Forgets what was held against a worker that has answered."""
        if key in self._suspects:
            with self._changed:
                self._suspects.pop(key, None)
                self._rebuild_view()

    def close(self) -> None:
        with self._changed:
            links, self._links = self._links, {}
        for link in links.values():
            link.close()

    def _dismiss(self, departed: set[Key]) -> None:
        for key in departed:
            timer = threading.Timer(LINGER_S, self._links.pop(key).close)
            timer.daemon = True
            timer.start()

    def _rebuild_view(self) -> None:
        now = time.monotonic()
        doubted = {key for key, (until, _) in self._suspects.items() if until > now}
        self._view = self._table.avoiding(doubted)
        self._suspected_until = min((self._suspects[key][0] for key in doubted), default=0.0)

    def _refresh_view(self) -> None:
        with self._changed:
            self._rebuild_view()
