"""Worker leases, the placement table and other hints in Redis. Everything stored here can be rebuilt.

Every call is bounded in time and raises only RedisUnavailable. What is read from Redis is checked, never trusted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import redis.asyncio as redis
import structlog
from caracal_proto.placement_pb2 import Table
from google.protobuf.message import DecodeError
from redis.exceptions import RedisError

from services.membership.record import WorkerRecord
from services.membership.shortage import CapacityShortage

log = structlog.get_logger(__name__)

LEASE_MS = 3000
RENEW_S = 1.0
CALL_S = 1.0
SHORTAGE_MS = 3000


class RedisUnavailable(Exception):
    """Expected: Redis does not answer. Every process keeps its last table and goes on serving."""


class Membership:
    """One process's access to a cluster's Redis. `cluster` is the prefix of every key."""

    def __init__(self, redis_url: str, cluster: str = "caracal") -> None:
        self._cluster = cluster
        self._redis = redis.Redis.from_url(redis_url, socket_timeout=CALL_S, socket_connect_timeout=CALL_S)
        self._skipped: set[str] = set()
        self._read: dict[str, tuple[bytes, WorkerRecord]] = {}  # by key: what was read last, which is often the same
        self.reachable = False  # whether the last renewal of the lease went through

    async def advertise(self, make_record: Callable[[], WorkerRecord]) -> None:
        """Renews the lease each second until cancelled; retries while Redis is unavailable and logs that once."""
        unavailable = False
        while True:
            try:
                await self.announce(make_record())
                if unavailable:
                    log.info("redis is available again")
                unavailable = False
            except RedisUnavailable as error:
                if not unavailable:
                    log.warning("redis is unavailable; continuing with the last known state", error=str(error))
                unavailable = True
            self.reachable = not unavailable
            await asyncio.sleep(RENEW_S)

    async def announce(self, record: WorkerRecord) -> None:
        """Writes the lease once."""
        await self._call(self._redis.set(self._key(record), record.to_json(), px=LEASE_MS))

    async def withdraw(self, record: WorkerRecord) -> None:
        await self._call(self._redis.delete(self._key(record)))

    async def workers(self, role: str) -> list[WorkerRecord]:
        """Returns a role's live records, sorted by worker id; a malformed one is skipped and logged once."""
        pattern = f"{self._cluster}:worker:{role}:*"
        keys = [key async for key in self._scan(pattern)]
        prefix = pattern.removesuffix("*")
        for gone in {key for key in self._read if key.startswith(prefix)}.difference(keys):
            del self._read[gone]
        if not keys:
            return []
        found = []
        for key, text in zip(keys, await self._call(self._redis.mget(keys)), strict=True):
            try:
                record = self._record(key, text) if text is not None else None
            except (ValueError, RecursionError) as error:
                if key not in self._skipped:
                    self._skipped.add(key)
                    log.warning("a malformed worker record is ignored", key=key, error=str(error))
                continue
            if record and record.role == role:
                found.append(record)
        return sorted(found, key=lambda record: record.worker_id)

    def _record(self, key: str, text: bytes) -> WorkerRecord:
        last, record = self._read.get(key, (None, None))
        if record is None or text != last:
            record = WorkerRecord.from_json(text)
            self._read[key] = text, record
        return record

    async def table_epoch(self) -> int:
        """Returns the epoch of the published placement table, 0 when there is none: a few bytes, so often asked for."""
        epoch = await self._call(self._redis.hget(f"{self._cluster}:placement", "epoch"))
        return int(epoch) if epoch and epoch.isdigit() and len(epoch) < 20 else 0

    async def read_table(self) -> Table | None:
        """Returns the published placement table; None when there is none or it is malformed."""
        data = await self._call(self._redis.hget(f"{self._cluster}:placement", "table"))
        try:
            return Table.FromString(data) if data else None
        except DecodeError:
            log.warning("the placement table in redis is malformed and ignored")
            return None

    async def write_table(self, table: Table) -> None:
        fields: list[str | int | bytes] = ["epoch", table.epoch, "table", table.SerializeToString()]
        await self._call(self._redis.hset(f"{self._cluster}:placement", items=fields))

    async def shortage(self) -> CapacityShortage | None:
        """Returns the capacity shortage that the leader reports; None when there is none or it is malformed."""
        text = await self._call(self._redis.get(f"{self._cluster}:shortage"))
        try:
            return CapacityShortage.from_json(text) if text else None
        except (ValueError, RecursionError):
            return None

    async def write_shortage(self, shortage: CapacityShortage) -> None:
        """Writes the shortage for SHORTAGE_MS; the leader renews it while it lasts."""
        await self._call(self._redis.set(f"{self._cluster}:shortage", shortage.to_json(), px=SHORTAGE_MS))

    async def withdraw_shortage(self) -> None:
        await self._call(self._redis.delete(f"{self._cluster}:shortage"))

    async def desired(self) -> dict[str, int]:
        """Returns the worker counts requested by users, by role; a role without a request is absent."""
        raw = await self._call(self._redis.hgetall(f"{self._cluster}:desired"))
        return {key.decode(): int(value) for key, value in raw.items() if value.isdigit()}

    async def set_desired(self, role: str, count: int) -> None:
        await self._call(self._redis.hset(f"{self._cluster}:desired", role, str(count)))

    async def lead(self, holder: str, lease_ms: int) -> bool:
        """Takes or renews the leader's lease; returns False while another router has it."""
        key = f"{self._cluster}:leader"
        if await self._call(self._redis.set(key, holder, nx=True, px=lease_ms)):
            return True
        if await self._call(self._redis.get(key)) != holder.encode():
            return False
        await self._call(self._redis.pexpire(key, lease_ms))
        return True

    async def leader(self) -> str | None:
        value = await self._call(self._redis.get(f"{self._cluster}:leader"))
        return value.decode() if value else None

    async def resign(self, holder: str) -> None:
        key = f"{self._cluster}:leader"
        if await self._call(self._redis.get(key)) == holder.encode():
            await self._call(self._redis.delete(key))

    async def close(self) -> None:
        await self._redis.aclose()

    def _key(self, record: WorkerRecord) -> str:
        return f"{self._cluster}:worker:{record.role}:{record.worker_id}"

    async def _scan(self, pattern: str) -> Any:
        cursor = 0
        while True:
            cursor, keys = await self._call(self._redis.scan(cursor, match=pattern, count=1000))
            for key in keys:
                yield key.decode()
            if not cursor:
                return

    async def _call(self, command: Any) -> Any:
        task = asyncio.current_task()
        cancels = task.cancelling() if task else 0
        try:
            async with asyncio.timeout(2 * CALL_S):
                return await command
        except (RedisError, OSError, TimeoutError) as error:
            raise RedisUnavailable(f"{type(error).__name__}: {error}") from None
        finally:
            # Before Python 3.12 wait_for, which the client uses, drops a cancellation that comes with its result.
            if task and task.cancelling() > cancels:
                raise asyncio.CancelledError
