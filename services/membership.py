"""Who is alive, and the placement table, as hints in Redis: nothing here that cannot be rebuilt.

Every call is bounded in time and raises only RedisUnavailable. What Redis holds is checked when read, not trusted.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import redis.asyncio as redis
import structlog
from caracal_proto.placement_pb2 import Table
from google.protobuf.message import DecodeError
from redis.exceptions import RedisError

from services.refusal import Refusal

log = structlog.get_logger(__name__)

LEASE_MS = 3000
RENEW_S = 1.0
CALL_S = 1.0
REFUSAL_MS = 3000
ROLES = ("attention", "expert", "router")


class RedisUnavailable(Exception):
    """Expected: Redis is away. Everything keeps its last table and goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRecord:
    """One process's lease: who it is, where it is, and what it says of itself."""

    worker_id: str
    role: str
    address: str  # host:port of its gRPC server
    boot_id: str  # changes with every start
    metrics_address: str = ""
    numerics_class: str = ""
    epoch: int = 0
    progress: int = 0  # advances while the compute loop does
    draining: bool = False
    capacity: int = 0  # experts it may hold; 0 = any number
    held: int = 0
    stats: dict[str, float] = field(default_factory=dict)

    @classmethod
    def from_json(cls, text: str | bytes) -> WorkerRecord:
        """Raises ValueError when the text is not a record."""
        raw = json.loads(text)
        if not isinstance(raw, dict):
            raise ValueError("not an object")
        values: dict[str, Any] = {f.name: raw[f.name] for f in fields(cls) if f.name in raw}
        for f in fields(cls):
            kind = {"str": str, "int": int, "bool": bool}.get(str(f.type), dict)
            if f.name in values and type(values[f.name]) is not kind:
                raise ValueError(f"{f.name} is not of type {f.type}")
        stats = values.get("stats", {})
        if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in stats.values()):
            raise ValueError("stats holds something else than numbers")
        try:
            record = cls(**values)
        except TypeError as error:
            raise ValueError(str(error)) from None
        if record.role not in ROLES:
            raise ValueError(f"role {record.role!r} is unknown")
        return record

    def to_json(self) -> str:
        return json.dumps(asdict(self))


class Membership:
    """One process's view of a cluster's Redis. `cluster` is the prefix of every key."""

    def __init__(self, redis_url: str, cluster: str = "caracal") -> None:
        self._cluster = cluster
        self._redis = redis.Redis.from_url(redis_url, socket_timeout=CALL_S, socket_connect_timeout=CALL_S)
        self._skipped: set[str] = set()
        self.reachable = False  # whether the last renewal of the lease went through

    async def advertise(self, make_record: Callable[[], WorkerRecord]) -> None:
        """Renews the lease each second, for ever; while Redis is away it tries again, and says so once."""
        away = False
        while True:
            try:
                await self.announce(make_record())
                if away:
                    log.info("redis is back")
                away = False
            except RedisUnavailable as error:
                if not away:
                    log.warning("redis is away; going on with what is known", error=str(error))
                away = True
            self.reachable = not away
            await asyncio.sleep(RENEW_S)

    async def announce(self, record: WorkerRecord) -> None:
        """Writes the lease once, now."""
        await self._call(self._redis.set(self._key(record), record.to_json(), px=LEASE_MS))

    async def withdraw(self, record: WorkerRecord) -> None:
        await self._call(self._redis.delete(self._key(record)))

    async def workers(self, role: str) -> list[WorkerRecord]:
        """The live records of a role, by worker id; a malformed one is skipped and logged once."""
        pattern = f"{self._cluster}:worker:{role}:*"
        keys = [key async for key in self._scan(pattern)]
        if not keys:
            return []
        found = []
        for key, text in zip(keys, await self._call(self._redis.mget(keys)), strict=True):
            try:
                record = WorkerRecord.from_json(text) if text is not None else None
            except (ValueError, RecursionError) as error:
                if key not in self._skipped:
                    self._skipped.add(key)
                    log.warning("a malformed worker record is ignored", key=key, error=str(error))
                continue
            if record and record.role == role:
                found.append(record)
        return sorted(found, key=lambda record: record.worker_id)

    async def read_table(self) -> Table | None:
        """The published placement table; None when there is none or it cannot be read as one."""
        data = await self._call(self._redis.get(f"{self._cluster}:table"))
        try:
            return Table.FromString(data) if data else None
        except DecodeError:
            log.warning("the table in redis is malformed and ignored")
            return None

    async def write_table(self, table: Table) -> None:
        await self._call(self._redis.set(f"{self._cluster}:table", table.SerializeToString()))

    async def refusal(self) -> Refusal | None:
        """What the leader says has no room; None when there is nothing, or nothing that can be read."""
        text = await self._call(self._redis.get(f"{self._cluster}:refusal"))
        try:
            return Refusal.from_json(text) if text else None
        except (ValueError, RecursionError):
            return None

    async def write_refusal(self, refusal: Refusal) -> None:
        """Runs out by itself: whoever says it renews it while it holds."""
        await self._call(self._redis.set(f"{self._cluster}:refusal", refusal.to_json(), px=REFUSAL_MS))

    async def withdraw_refusal(self) -> None:
        await self._call(self._redis.delete(f"{self._cluster}:refusal"))

    async def desired(self) -> dict[str, int]:
        """How many workers of a role somebody asked for; roles nobody asked about are absent."""
        raw = await self._call(self._redis.hgetall(f"{self._cluster}:desired"))
        return {key.decode(): int(value) for key, value in raw.items() if value.isdigit()}

    async def set_desired(self, role: str, count: int) -> None:
        await self._call(self._redis.hset(f"{self._cluster}:desired", role, str(count)))

    async def lead(self, holder: str, lease_ms: int) -> bool:
        """Takes or renews the leadership; False while another holds it."""
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
        asked = task.cancelling() if task else 0
        try:
            async with asyncio.timeout(2 * CALL_S):
                return await command
        except (RedisError, OSError, TimeoutError) as error:
            raise RedisUnavailable(f"{type(error).__name__}: {error}") from None
        finally:
            # Before Python 3.12 wait_for, which the client uses, drops a cancellation that comes with its result.
            if task and task.cancelling() > asked:
                raise asyncio.CancelledError
