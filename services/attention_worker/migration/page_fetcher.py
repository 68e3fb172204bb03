"""Fetches the pages of a sequence from the worker that has computed it so far, before the sequence is queued here.

What does not come in time, or is not what was sent, is computed as if nobody had it. A sequence waits for pages only as
long as they are expected sooner than the engine would compute them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import structlog
from caracal_proto import attention_pb2
from caracal_proto.attention_pb2_grpc import AttentionStub

from services.attention_worker.engine.engine import Engine
from services.attention_worker.engine.sequence import Request
from services.attention_worker.migration.estimate import TransferRate, compute_s
from services.attention_worker.migration.limits import AT_ONCE
from services.attention_worker.migration.stats import MigrationStats
from services.attention_worker.migration.transfer import GivenUp, Transfer, next_reply
from services.security.channels import Dialer
from services.security.identity import ATTENTION

log = structlog.get_logger(__name__)

TICK_S = 1.0  # how often the router hears that the sequence makes progress
MESSAGE_BYTES = 2 << 20  # of a message, beside a page

Tick = Callable[[], None]


@dataclass(slots=True, eq=False)
class _Wanted:
    """The pages of one sequence. The first `have` of `names` were here; the transfer is about the others."""

    names: list[bytes]
    tokens: int
    have: int
    transfer: Transfer


class PageFetcher:
    """Brings pages into one engine's cache. Used on one event loop. `dialer` makes calls as an attention worker."""

    def __init__(self, engine: Engine, dialer: Dialer, stats: MigrationStats) -> None:
        self._engine, self._dialer, self._stats = engine, dialer, stats
        self._rate = TransferRate()
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._open: list[_Wanted] = []  # in the order that they came

    async def fetch(self, request: Request, source: attention_pb2.PageSource, tick: Tick) -> None:
        """Brings what `source` has of the request's pages; `tick` is called now and then meanwhile. Never raises."""
        about = log.bind(request_id=request.request_id, source=source.address)
        ticking = asyncio.ensure_future(_call_often(tick))
        try:
            names = await asyncio.to_thread(self._names, request)
            if not names:
                return
            have = self._engine.cache.pages.cached(names)
            tokens = len(request.prompt_ids) + len(request.emitted_ids)
            wanted = _Wanted(names, tokens, have, Transfer(self._engine.exchange, names[have:]))
            await self._bring(wanted, source)
            self._stats.migrated += 1
            about.info("pages taken over", pages=wanted.transfer.came, had=have)
        except GivenUp as given_up:
            self._stats.fallbacks[given_up.reason] += 1
            about.info("pages are computed", reason=given_up.reason, detail=str(given_up))
        except (RuntimeError, OSError, ValueError):
            self._stats.fallbacks["failed"] += 1
            about.exception("pages cannot be taken over")
        finally:
            ticking.cancel()

    def _names(self, request: Request) -> list[bytes]:
        """The names of the pages that the request's sequence need not compute if they are here."""
        names = self._engine.names(request)
        ids = [*request.prompt_ids, *request.emitted_ids]
        return names.of(ids, request.reusable) if names is not None else []

    async def _bring(self, wanted: _Wanted, source: attention_pb2.PageSource) -> None:
        self._open.append(wanted)
        self._engine.exchange.refresh(wanted.names)
        try:
            compute_s, size = self._compute_s(wanted), wanted.transfer.left * self._engine.exchange.page_bytes
            if size and compute_s <= self._rate.seconds(size):
                await self._decline(wanted, source)
                raise GivenUp("faster to compute")
            if size:
                async with self._turn(compute_s):
                    await self._receive(wanted, source)
            else:
                await self._decline(wanted, source)
        finally:
            self._open.remove(wanted)
            self._engine.exchange.refresh(wanted.names)

    async def _receive(self, wanted: _Wanted, source: attention_pb2.PageSource) -> None:
        transfer = wanted.transfer
        try:
            async with self._call(wanted, wanted.have, source) as call:
                await transfer.run(call, lambda: self._compute_s(wanted), self._kept)
        finally:
            size = transfer.came * self._engine.exchange.page_bytes
            self._stats.pages_received += transfer.came
            self._stats.bytes_received += size
            self._rate.observe(size, transfer.seconds)

    async def _decline(self, wanted: _Wanted, source: attention_pb2.PageSource) -> None:
        """Tells the source that it need not keep the pages."""
        async with self._call(wanted, len(wanted.names), source) as call:
            await next_reply(call, 0.0)

    @asynccontextmanager
    async def _turn(self, compute_s: float) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(compute_s):
                await self._turns.acquire()
        except TimeoutError:
            raise GivenUp("slow", "others' pages were still coming") from None
        try:
            yield
        finally:
            self._turns.release()

    @asynccontextmanager
    async def _call(self, wanted: _Wanted, first: int, source: attention_pb2.PageSource) -> AsyncIterator[Any]:
        options = (
            ("grpc.max_receive_message_length", self._engine.exchange.page_bytes + MESSAGE_BYTES),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_retries", 0),
        )
        channel = self._dialer.aio(source.address, ATTENTION, options)
        try:
            stub = AttentionStub(self._dialer.to_run(channel, source.boot_id))
            yield stub.Pages(attention_pb2.PagesRequest(names=b"".join(wanted.names), first=first))
        finally:
            await channel.close(None)

    def _compute_s(self, wanted: _Wanted) -> float:
        """How long the engine would take for what this sequence, and those that came before it, still lack."""
        cost, limits = self._engine.scheduler.cost, self._engine.limits
        ahead = self._open[: self._open.index(wanted) + 1]
        found = (((each.have + each.transfer.came) * limits.page_size, each.tokens) for each in ahead)
        return compute_s(cost, found, limits.max_batch_tokens)

    def _kept(self) -> frozenset[bytes]:
        return frozenset[bytes]().union(*(each.names for each in self._open))


async def _call_often(tick: Tick) -> None:
    while True:
        await asyncio.sleep(TICK_S)
        tick()
