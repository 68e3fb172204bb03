"""The worker's gRPC service: checks requests, passes them to the engine, and streams its tokens and endings back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import grpc
from caracal_proto import attention_pb2, attention_pb2_grpc, placement_pb2
from caracal_proto.placements import takes_epoch_of

from services.attention_worker.attempt_stream import AttemptStream
from services.attention_worker.attempts import STANDS_STILL, Attempts, Rejected, failure, fill
from services.attention_worker.engine.engine import Engine
from services.attention_worker.engine.sequence import Ending, TokenOut
from services.attention_worker.grammars import GrammarCompiler
from services.attention_worker.migration.migration import Migration
from services.attention_worker.migration.page_server import CallRejected
from services.attention_worker.paced_rejections import PacedRejections
from services.attention_worker.table_check import Named, TableCheck, named_by
from services.membership.checks import epoch_violation
from services.membership.numerics_class import fits
from services.process.grpc_server import abort

Event = tuple[list[TokenOut], Ending | None]
Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The worker's identity, fixed while the process runs."""

    worker_id: str
    boot_id: str
    numerics_class: str


class EpochTaken(ValueError):
    """This worker has another table of the same epoch: two leaders have given one."""


class AttentionService(attention_pb2_grpc.AttentionServicer):
    """The Attention service over one engine. `apply_table` is the dispatcher's: it returns the current epoch."""

    def __init__(
        self,
        engine: Engine,
        vocab_size: int,
        identity: Identity,
        apply_table: Callable[[placement_pb2.Table], int],
        grammars: GrammarCompiler,
        check: TableCheck | None = None,
        migration: Migration | None = None,
    ) -> None:
        """`check`: of tables that are given; None believes any. Without `migration` all pages are computed."""
        self.epoch = 0
        self.refused = ""  # why the worker must not serve
        self._check, self._named = check, Named()
        self._table: placement_pb2.Table | None = None  # the current one
        self._applying = asyncio.Lock()
        self._engine = engine
        self._attempts = Attempts(engine, vocab_size, grammars, migration.fetcher if migration else None)
        self._migration = migration
        self._streams: set[AttemptStream] = set()
        self._rejections = PacedRejections()
        self._identity = identity
        self._apply_table = apply_table
        self.on_ready_change: Callable[[bool], Awaitable[None]] | None = None

    @property
    def draining(self) -> bool:
        return self._attempts.draining

    @property
    def stands_still(self) -> bool:
        """Whether the engine's thread does not go on: then nothing is answered that needs it."""
        return self._attempts.stands_still

    @property
    def preparing(self) -> int:
        """How many requests wait for their grammar, or for pages of another worker."""
        return self._attempts.preparing

    @property
    def busy_rejections(self) -> int:
        """How many attempts were rejected because too many were open."""
        return self._attempts.busy_rejections

    @property
    def ready(self) -> bool:
        """Whether requests are accepted: there is a placement table, and the worker neither drains nor stands still."""
        return self.epoch > 0 and not self.draining and not self.stands_still

    async def Generate(
        self, request: attention_pb2.GenerateRequest, context: Context
    ) -> AsyncIterator[attention_pb2.GenerateEvent]:
        events: asyncio.Queue[Event] = asyncio.Queue()
        try:
            key = self._attempts.begin(request, lambda tokens, ending: events.put_nowait((tokens, ending)), direct=True)
        except Rejected as error:
            await asyncio.sleep(self._rejections.delay_s(time.monotonic()))
            await abort(context, error.code, error)
        try:
            while True:
                tokens, ending = await self._next(events)
                code = failure(ending)
                if tokens or not code:
                    yield fill(attention_pb2.GenerateEvent(), request.attempt, tokens, None if code else ending)
                if code and ending:
                    await context.abort(code, ending.message)
                if ending:
                    return
        finally:
            self._attempts.cancel(key)

    async def GenerateMany(
        self, messages: AsyncIterator[attention_pb2.AttemptMessage], context: Context
    ) -> AsyncIterator[attention_pb2.AttemptEvents]:
        stream = AttemptStream(self._attempts, messages)
        self._streams.add(stream)
        # A call that ends before its client has got anything ends as INTERNAL there, whatever status it has.
        await context.send_initial_metadata(())
        try:
            async with aclosing(stream.events()) as news:
                async for events in news:
                    yield events
        except Rejected as error:
            await abort(context, error.code, error)
        finally:
            self._streams.discard(stream)

    async def Pages(
        self, request: attention_pb2.PagesRequest, context: Context
    ) -> AsyncIterator[attention_pb2.PagesReply]:
        if self._migration is None:
            await abort(context, grpc.StatusCode.FAILED_PRECONDITION, "CARACAL_KV_MIGRATION is off at this worker")
        await self._check_goes_on(context)
        try:
            async with aclosing(self._migration.server.pages(request)) as replies:
                async for reply in replies:
                    yield reply
        except CallRejected as error:
            await abort(context, error.code, error)

    async def Describe(
        self, request: attention_pb2.AttentionDescribeRequest, context: Context
    ) -> attention_pb2.AttentionDescription:
        await self._check_goes_on(context)
        engine, pages = self._engine, self._engine.cache.pages
        return attention_pb2.AttentionDescription(
            worker_id=self._identity.worker_id,
            boot_id=self._identity.boot_id,
            numerics_class=self._identity.numerics_class,
            epoch=self.epoch,
            kv_pages_total=pages.total,
            kv_pages_used=pages.used,
            page_size=pages.page_size,
            running=len(engine.scheduler.running),
            waiting=len(engine.scheduler.waiting),
            progress=engine.counters.progress,
            max_model_len=engine.limits.max_model_len,
            draining=self.draining,
            places=self._attempts.places,
        )

    async def ApplyTable(self, request: placement_pb2.Table, context: Context) -> attention_pb2.ApplyTableReply:
        if not self.takes(request):
            other = f"the table is for {request.numerics_class}, this worker is {self._identity.numerics_class}"
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, self.refused or other)
        if self._check is not None and (why := await self._check.violation(request, self.epoch, self._named)):
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, why)
        try:
            return attention_pb2.ApplyTableReply(epoch=await self.apply(request))
        except EpochTaken as error:
            await abort(context, grpc.StatusCode.ALREADY_EXISTS, error)
        except ValueError as error:
            await abort(context, grpc.StatusCode.INVALID_ARGUMENT, error)

    def takes(self, table: placement_pb2.Table) -> bool:
        """Whether the table is for this worker's numerics class, or for any, and the worker may serve."""
        return not self.refused and fits(self._identity.numerics_class, table.numerics_class)

    async def apply(self, table: placement_pb2.Table) -> int:
        """Makes a table the current one unless it is older; returns the current epoch.

        Raises EpochTaken, and ValueError for one that does not fit the model.
        """
        async with self._applying:
            if takes_epoch_of(table, self._table):
                raise EpochTaken(f"epoch {table.epoch} is another table's here")
            was_ready = self.ready
            self.epoch = max(self.epoch, await asyncio.to_thread(self._apply_table, table))
            if table.epoch == self.epoch:
                self._table, self._named = table, named_by(table)
            await self._notify(was_ready)
            return self.epoch

    async def violation(self, table: placement_pb2.Table) -> str:
        """Why a table that was read from Redis is not believed; empty when it is."""
        if why := epoch_violation(table.epoch, self.epoch):  # what Redis says of epochs is no proof of itself
            return why
        return await self._check.violation(table, self.epoch, self._named) if self._check is not None else ""

    async def drain(self, move: bool) -> None:
        """Accepts no more requests; with `move`, ends the running ones so that the router continues them elsewhere."""
        was_ready, self._attempts.draining = self.ready, True
        await self._notify(was_ready)
        if move:
            self._attempts.move()
        for stream in self._streams:
            stream.look()

    async def stand_still(self, still: bool) -> None:
        """The engine's thread stands still, so that all attempts end and go on elsewhere; or it goes on again."""
        was_ready = self.ready
        if still:
            self._attempts.stand_still()
        else:
            self._attempts.go_on()
        await self._notify(was_ready)

    async def _check_goes_on(self, context: Context) -> None:
        if self.stands_still:
            await context.abort(grpc.StatusCode.UNAVAILABLE, STANDS_STILL)

    async def _notify(self, was_ready: bool) -> None:
        if self.ready != was_ready and self.on_ready_change is not None:
            await self.on_ready_change(self.ready)

    @staticmethod
    async def _next(events: asyncio.Queue[Event]) -> Event:
        """The tokens of the next step, or of all steps since the client last read; none when a prompt goes on."""
        tokens, ending = await events.get()
        while ending is None and not events.empty():
            more, ending = events.get_nowait()
            tokens = tokens + more
        return tokens, ending
