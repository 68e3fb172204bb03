"""Placement tables from Redis: the first one at start, later ones as a backup to the leader's push."""

from __future__ import annotations

import asyncio

import structlog
from caracal_proto.placement_pb2 import Table

from services.attention_worker.service import AttentionService
from services.membership import Membership, RedisUnavailable

log = structlog.get_logger(__name__)

FIRST_S, LATER_S = 0.2, 2.0


async def follow_tables(membership: Membership, service: AttentionService) -> None:
    """Applies every newer table it finds, for ever. With Redis away the table in force stays in force."""
    while True:
        try:
            table = await membership.read_table()
        except RedisUnavailable:
            table = None
        if table is not None and table.epoch > service.epoch and service.takes(table):
            await _take(service, table)
        await asyncio.sleep(LATER_S if service.epoch else FIRST_S)


async def _take(service: AttentionService, table: Table) -> None:
    try:
        log.info("took a table from redis", epoch=await service.apply(table))
    except ValueError as error:
        log.warning("the table in redis does not fit the model and is ignored", epoch=table.epoch, error=str(error))
