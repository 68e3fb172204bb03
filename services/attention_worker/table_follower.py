"""Polls Redis for placement tables: for the first one after the start, and in case a push of the leader's was lost."""

from __future__ import annotations

import asyncio

import structlog
from caracal_proto.placement_pb2 import Table

from services.attention_worker.service import AttentionService
from services.membership.redis import Membership, RedisUnavailable

log = structlog.get_logger(__name__)

FIRST_S, LATER_S = 0.2, 2.0


class TableFollower:
    """Applies every newer table that it finds in Redis. While Redis is unreachable the current table stays."""

    def __init__(self, membership: Membership, service: AttentionService) -> None:
        self._membership = membership
        self._service = service
        self._loop = asyncio.get_running_loop()
        self._asked = asyncio.Event()

    def poll_now(self) -> None:
        """Makes `run` poll at once, from any thread: there may be a newer table."""
        self._loop.call_soon_threadsafe(self._asked.set)

    async def run(self) -> None:
        """Polls until cancelled."""
        while True:
            await self._poll()
            try:
                async with asyncio.timeout(LATER_S if self._service.epoch else FIRST_S):
                    await self._asked.wait()
            except TimeoutError:
                continue
            self._asked.clear()

    async def _poll(self) -> None:
        try:
            if await self._membership.table_epoch() <= self._service.epoch:
                return
            table = await self._membership.read_table()
        except RedisUnavailable:
            return
        if table is not None and table.epoch > self._service.epoch and self._service.takes(table):
            if why := await self._service.violation(table):
                self._membership.bad.note("table", "placement", why)
            else:
                await self._apply(table)

    async def _apply(self, table: Table) -> None:
        try:
            log.info("applied a table from redis", epoch=await self._service.apply(table))
        except ValueError as error:
            log.warning("the table in redis does not fit the model and is ignored", epoch=table.epoch, error=str(error))
