"""Worker leases, the placement table and other hints in Redis. Everything stored from here can be rebuilt.

Every call is bounded in time and raises only RedisUnavailable. What is read from Redis is checked, never trusted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
DIGESTS_S = 30 * 86400
FEW = 16  # records read without a pause
NO_RECORD = WorkerRecord(worker_id="", role="", address="", boot_id="")
FORGOTTEN_S = 10.0  # after its lease has expired, a worker leaves the index; one that comes back is in it at once


class RedisUnavailable(Exception):
    """Expected: Redis does not answer. Every process keeps its last table and goes on serving."""


@dataclass(frozen=True, slots=True)
class Pulse:
    """What a router looks at often. `changes` advances when a worker starts, drains, leaves or moves."""

    leads: bool
    epoch: int  # of the published placement table, 0 when there is none
    changes: int


def _count(text: bytes | None) -> int:
    """A number that was read; 0 for what is none."""
    return int(text) if text and text.isdigit() and len(text) < 20 else 0


@dataclass(frozen=True, slots=True)
class _Read:
    """A worker's record as it was read last, which is often the same the next time."""

    text: bytes = b""
    counted: bytes | None = None
    record: WorkerRecord = NO_RECORD

    def then(self, text: bytes, counted: bytes | None) -> _Read:
        """What is read now. Raises ValueError."""
        if (text, counted) == (self.text, self.counted):
            return self
        record = self.record if text == self.text else WorkerRecord.from_json(text)
        return _Read(text, counted, record.with_counts(counted) if counted else record)


class Membership:
    """One process's access to a cluster's Redis. `cluster` is the prefix of every key."""

    def __init__(self, redis_url: str, cluster: str = "caracal") -> None:
        self._cluster = cluster
        self._redis = redis.Redis.from_url(redis_url, socket_timeout=CALL_S, socket_connect_timeout=CALL_S)
        self._skipped: set[tuple[str, str]] = set()
        self._read: dict[tuple[str, bool], dict[str, _Read]] = {}  # by (role, with counts), by worker id
        self._missing: dict[str, dict[str, float]] = {}  # by role and worker id: since when it has had no lease
        self._pubsub: Any = None  # subscribed to changes, unless somebody waits with it or nobody has yet
        self._renewed_at = 0.0  # the leader's lease
        self._announced: tuple[object, ...] = ()
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
        """Writes the lease once; tells others, by `pulse`, when more than counts has changed since the last time."""
        pipe = self._redis.pipeline()
        pipe.set(self._key(record), record.lease_json(), px=LEASE_MS)
        pipe.set(self._counts_key(record.role, record.worker_id), record.counts_json(), px=LEASE_MS)
        pipe.sadd(self._index(record.role), record.worker_id)
        if record.membership() != self._announced:
            self._tell(pipe)
        await self._call(pipe.execute())
        self._announced = record.membership()

    async def withdraw(self, record: WorkerRecord) -> None:
        pipe = self._redis.pipeline()
        pipe.delete(self._key(record), self._counts_key(record.role, record.worker_id))
        pipe.srem(self._index(record.role), record.worker_id)
        self._tell(pipe)
        await self._call(pipe.execute())

    def _tell(self, pipe: Any) -> None:
        pipe.incr(f"{self._cluster}:changes")
        pipe.publish(f"{self._cluster}:changed", "")

    async def wait_for_change(self, seconds: float) -> None:
        """Waits until a worker has started, drains, leaves or moves, for `seconds` at most; may wake for nothing."""
        pubsub, self._pubsub = self._pubsub or self._redis.pubsub(), None
        try:
            if not pubsub.subscribed:
                await self._call(pubsub.subscribe(f"{self._cluster}:changed"))
            await self._call(pubsub.get_message(timeout=seconds), seconds)
        except BaseException:
            await pubsub.aclose()
            raise
        self._pubsub = pubsub

    async def pulse(self, candidate: str = "", lease_ms: int = 0) -> Pulse:
        """Reads what is looked at often, with one small call; a `candidate` takes the leader's lease or renews it."""
        key = f"{self._cluster}:leader"
        pipe = self._redis.pipeline(transaction=False)
        if candidate:
            pipe.set(key, candidate, nx=True, px=lease_ms)
        pipe.get(key)
        pipe.hget(f"{self._cluster}:placement", "epoch")
        pipe.get(f"{self._cluster}:changes")
        leader, epoch, changes = (await self._call(pipe.execute()))[-3:]
        leads = bool(candidate) and leader == candidate.encode()
        if leads and time.monotonic() > self._renewed_at + lease_ms / 4000:
            await self._call(self._redis.pexpire(key, lease_ms))
            self._renewed_at = time.monotonic()
        return Pulse(leads, _count(epoch), _count(changes))

    async def workers(self, role: str, counts: bool = False) -> list[WorkerRecord]:
        """Returns a role's live records, sorted by worker id; a malformed one is skipped and logged once.

        With `counts`, they have what is counted, which takes longer; else that is empty.
        """
        names = sorted(
            name.decode(errors="replace") for name in await self._call(self._redis.smembers(self._index(role)))
        )
        if not names:
            return []
        keys = [f"{self._cluster}:worker:{role}:{name}" for name in names]
        counts_keys = [self._counts_key(role, name) for name in names] if counts else []
        texts = await self._call(self._redis.mget(keys + counts_keys))
        await self._forget(role, [name for name, text in zip(names, texts, strict=False) if text is None])
        before = self._read.get((role, counts), {})
        now: dict[str, _Read] = {}
        self._read[role, counts] = now
        found = []
        for number, (name, text) in enumerate(zip(names, texts, strict=False)):
            if number % FEW == FEW - 1:
                await asyncio.sleep(0)  # hundreds of records are not to hold the event loop
            if text is None:
                continue
            try:
                last = before.get(name) or _Read()
                now[name] = read = last.then(text, texts[len(keys) + number] if counts else None)
                if read.record.worker_id != name:
                    raise ValueError(f"its worker_id is {read.record.worker_id!r}")
            except (ValueError, RecursionError) as error:
                if (role, name) not in self._skipped:
                    self._skipped.add((role, name))
                    log.warning("a malformed worker record is ignored", worker_id=name, role=role, error=str(error))
                continue
            if read.record.role == role:
                found.append(read.record)
        return sorted(found, key=lambda record: record.worker_id)

    def unleased(self, role: str) -> frozenset[str]:
        """Workers whose lease has expired, as of the last `workers` of that role; not those that withdrew theirs."""
        return frozenset(self._missing.get(role, ()))

    async def _forget(self, role: str, missing: Sequence[str]) -> None:
        """Takes workers out of the index that have had no lease for long."""
        now = time.monotonic()
        before = self._missing.get(role, {})
        self._missing[role] = since = {name: before.get(name, now) for name in missing}
        if gone := [name for name, at in since.items() if now - at > FORGOTTEN_S]:
            await self._call(self._redis.srem(self._index(role), *gone))

    async def table_epoch(self) -> int:
        """Returns the epoch of the published placement table, 0 when there is none: a few bytes, so often asked for."""
        return _count(await self._call(self._redis.hget(f"{self._cluster}:placement", "epoch")))

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

    async def digests(self, numerics_class: str) -> dict[int, bytes]:
        """Returns the golden digests of a numerics class, by layer, as they were written."""
        raw = await self._call(self._redis.hgetall(f"{self._cluster}:digests:{numerics_class}"))
        return {int(layer): data for layer, data in raw.items() if layer.isdigit() and len(layer) < 9}

    async def write_digests(self, numerics_class: str, fields: dict[int, bytes]) -> None:
        """Writes the digests of some layers; all are forgotten when none were written for DIGESTS_S."""
        key = f"{self._cluster}:digests:{numerics_class}"
        pipe = self._redis.pipeline()
        for layer, data in fields.items():
            pipe.hset(key, str(layer), data)
        pipe.expire(key, DIGESTS_S)
        await self._call(pipe.execute())

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

    async def leader(self) -> str | None:
        value = await self._call(self._redis.get(f"{self._cluster}:leader"))
        return value.decode() if value else None

    async def resign(self, holder: str) -> None:
        key = f"{self._cluster}:leader"
        if await self._call(self._redis.get(key)) == holder.encode():
            await self._call(self._redis.delete(key))

    async def close(self) -> None:
        if self._pubsub is not None:
            await self._pubsub.aclose()
        await self._redis.aclose()

    def _key(self, record: WorkerRecord) -> str:
        return f"{self._cluster}:worker:{record.role}:{record.worker_id}"

    def _counts_key(self, role: str, worker_id: str) -> str:
        return f"{self._cluster}:counts:{role}:{worker_id}"

    def _index(self, role: str) -> str:
        return f"{self._cluster}:workers:{role}"

    async def _call(self, command: Any, more_s: float = 0.0) -> Any:
        return await bounded(command, 2 * CALL_S + more_s)


async def bounded(command: Any, seconds: float) -> Any:
    """Returns the result of a command to Redis. Raises RedisUnavailable when there is none after `seconds`."""
    task = asyncio.current_task()
    cancels = task.cancelling() if task else 0
    try:
        async with asyncio.timeout(seconds):
            return await command
    except (RedisError, OSError, TimeoutError) as error:
        raise RedisUnavailable(f"{type(error).__name__}: {error}") from None
    finally:
        # Before Python 3.12 wait_for, which the client uses, drops a cancellation that comes with its result.
        if task and task.cancelling() > cancels:
            raise asyncio.CancelledError
