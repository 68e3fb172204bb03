"""Looks at the cluster for the console: each second while a page does, else seldom, so that events are not missed."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
import zlib
from collections import deque
from dataclasses import dataclass

import orjson
import structlog
from caracal_proto.placement_pb2 import Table
from caracal_proto.placements import PlacementError

from services.membership.overview import SHOWN, Overview
from services.membership.redis import Membership, RedisUnavailable
from services.router.console.events import Event, events_between, table_event
from services.router.console.placement_view import PlacementView
from services.router.console.state_view import state_of

log = structlog.get_logger(__name__)

FRESH_S = 0.8  # however many pages ask, Redis is read no more often than this
IDLE_S = 10.0  # between two looks while no page asks and nothing is known to have changed
PAUSE_S = 0.2  # at least between such looks
LOOK_TIMEOUT_S = 4.0
KEPT_EVENTS = 300


@dataclass(frozen=True, slots=True)
class State:
    """What a page is given: its JSON without the events, and a tag that is the same while that is."""

    body: bytes
    tag: str


class Observer:
    """One router's view of the cluster, with the events since it started. For one event loop."""

    def __init__(self, membership: Membership, router: str) -> None:
        self._membership, self._router = membership, router
        self._source = uuid.uuid4().hex[:8]  # numbers of events are this process's
        self._events: deque[tuple[int, int, Event]] = deque(maxlen=KEPT_EVENTS)  # number, ms since 1970
        self._numbered = 0
        self._overview: Overview | None = None
        self._placement: PlacementView | None = None
        self._malformed_epoch = 0
        self._unavailable = ""
        self._looking = asyncio.Lock()
        self._state = State(b"{}", "")
        self._counted_at = -IDLE_S  # when the state was made; it alone has what workers count

    @property
    def overview(self) -> Overview:
        """As it was seen last."""
        return self._overview or Overview()

    @property
    def placement(self) -> PlacementView | None:
        """The table that was seen last; None before the first."""
        return self._placement

    async def watch(self, changed: asyncio.Event) -> None:
        """Looks when `changed` is set, and now and then, until cancelled."""
        while True:
            changed.clear()
            async with self._looking:
                await self._look(counts=False)
            await asyncio.sleep(PAUSE_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(IDLE_S):
                    await changed.wait()

    async def state(self) -> State:
        """Returns the state, at most FRESH_S old. While Redis is unavailable, the last one, which says so."""
        async with self._looking:
            if time.monotonic() - self._counted_at >= FRESH_S:
                await self._look(counts=True)
        return self._state

    def events_after(self, source: str, number: int) -> list[list[object]]:
        """Returns [number, ms since 1970, kind, text] of newer events; all, if the number is another router's."""
        after = number if source == self._source else 0
        return [[number, at, event.kind, event.text] for number, at, event in self._events if number > after]

    async def _look(self, counts: bool) -> None:
        """Reads the cluster once and notes what has changed."""
        try:
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                overview = await Overview.read(self._membership, counts=counts)
                read = await self._read_placement(overview.epoch)
        except (RedisUnavailable, TimeoutError) as error:
            self._lost_redis(str(error) or f"not within {LOOK_TIMEOUT_S:g} s")
        else:
            if self._unavailable:
                self._note([Event("redis", "Redis answers again")])
            self._unavailable = ""
            if self._overview is None:
                self._note([Event("console", f"{self._router} began to watch")])
            else:
                unleased = {(role, name) for role in SHOWN for name in self._membership.unleased(role)}
                self._note(events_between(self._overview, overview, unleased))
            if read is not None:
                self._take_placement(*read)
            self._overview = overview
        if counts:
            self._state, self._counted_at = self._serialized(), time.monotonic()

    def _lost_redis(self, why: str) -> None:
        if not self._unavailable:
            self._note([Event("redis", "Redis does not answer: what is shown is the last known state")])
        self._unavailable = why

    async def _read_placement(self, epoch: int) -> tuple[PlacementView, int] | None:
        """The published table, if it is another one than the last, and how many experts it moves."""
        if epoch == (self._placement.epoch if self._placement else 0) or epoch == self._malformed_epoch:
            return None
        table = await self._membership.read_table()
        try:
            return await asyncio.to_thread(_view, table, self._placement) if table else None
        except PlacementError as error:
            self._malformed_epoch = epoch
            log.warning("the console cannot show a placement table", epoch=epoch, error=str(error))
            return None

    def _take_placement(self, placement: PlacementView, moved: int) -> None:
        before, self._placement = self._placement, placement
        if before is not None or self._overview is not None:
            self._note([table_event(placement.epoch, placement.experts, len(placement.workers), moved)])

    def _note(self, events: list[Event]) -> None:
        now_ms = int(time.time() * 1000)
        for event in events:
            self._numbered += 1
            self._events.append((self._numbered, now_ms, event))

    def _serialized(self) -> State:
        state = state_of(self.overview) | {
            "router": self._router,
            "source": self._source,
            "last_event": self._numbered,
            "unavailable": self._unavailable,
            "table": self._placement.epoch if self._placement else 0,
        }
        body = orjson.dumps(state)
        return State(body, f"{zlib.crc32(body):08x}")


def _view(table: Table, before: PlacementView | None) -> tuple[PlacementView, int]:
    """Takes milliseconds, so it is for a thread. Raises PlacementError."""
    view = PlacementView.of(table)
    return view, view.moved_from(before) if before else len(view.code_A)
