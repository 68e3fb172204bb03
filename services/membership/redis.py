"""Worker leases, the placement table and other hints in Redis. Everything stored from here can be rebuilt.

Every call is bounded in time and raises only RedisUnavailable. What is read from Redis is checked, never trusted: a
record that is malformed, or not signed where the cluster has a key, counts as none (`bad`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog
from caracal_proto.placement_pb2 import Table
from redis.exceptions import RedisError

from services.membership.agreed_weights import AgreedWeights
from services.membership.bad_records import BadRecords
from services.membership.checks import is_text
from services.membership.client import (
    CALL_S,
    COUNTER,
    RedisClient,
    RedisUnavailable,
    bounded,
    field_name,
    is_wrong_type,
)
from services.membership.desired import MAX_DESIRED, SCALED
from services.membership.generation_hints import GenerationHints
from services.membership.leases import Leases
from services.membership.page_hints import PageHints
from services.membership.placement_hash import PlacementHash
from services.membership.pulse import Pulse
from services.membership.quarantine import Quarantine
from services.membership.record import WorkerRecord
from services.membership.shortage import CapacityShortage
from services.security.cluster_key import NO_KEY, ClusterKey

log = structlog.get_logger(__name__)

LEASE_MS = 3000
RENEW_S = 1.0
SHORTAGE_MS = 3000
DIGESTS_S = 30 * 86400
MAX_LEADER_MS = 60_000  # no leader's lease lasts longer: one that does would keep every router from leading
PAUSE_S = 0.02  # at least between two wakings: whoever reaches Redis may publish without end
MAX_DIGEST_BYTES = 8 << 16

__all__ = ["Membership", "RedisUnavailable"]


def _count(text: object) -> int:
    """A number that was read; 0 for what is none."""
    return int(text) if isinstance(text, bytes) and text.isdigit() and len(text) < 20 else 0


class Membership:
    """One process's access to a cluster's Redis. `cluster` is the prefix of every key.

    `next_url`: another Redis, for while that one does not answer.
    """

    def __init__(self, redis_url: str, cluster: str = "caracal", key: ClusterKey = NO_KEY, next_url: str = "") -> None:
        self._cluster = cluster
        self._client = RedisClient(redis_url, key, next_url)
        self._redis = self._client.redis
        self._leases = Leases(self._client, cluster)
        self._placement = PlacementHash(self._client, cluster)
        self.pages = PageHints(self._client, cluster)
        self.weights = AgreedWeights(self._client, cluster)
        self.generations = GenerationHints(self._client, cluster)
        self.quarantine = Quarantine(self._client, cluster)
        self._pubsub: Any = None  # subscribed to changes, unless somebody waits with it or nobody has yet
        self._renewed_at = 0.0  # the leader's lease
        self._woken_at = 0.0
        self._announced: tuple[object, ...] = ()
        self.reachable = False  # whether the last renewal of the lease went through
        self.refuses_writes = False  # whether it did not

    @property
    def bad(self) -> BadRecords:
        """The records that were ignored."""
        return self._client.bad

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
            self.reachable, self.refuses_writes = not unavailable, unavailable
            await asyncio.sleep(RENEW_S)

    async def announce(self, record: WorkerRecord) -> None:
        """Writes the lease once; tells others, by `pulse`, when more than counts has changed since the last time."""
        changed = record.membership() != self._announced

        def fill(pipe: Any) -> None:
            self._leases.put(pipe, record, LEASE_MS)
            if changed:
                self._tell(pipe)

        await self._client.write(fill, {self._leases.index(record.role): "set", self._key("changes"): COUNTER})
        self._announced = record.membership()

    async def withdraw(self, record: WorkerRecord) -> None:
        def fill(pipe: Any) -> None:
            self._leases.remove(pipe, record)
            self._tell(pipe)

        await self._client.write(fill, {self._leases.index(record.role): "set", self._key("changes"): COUNTER})

    def _tell(self, pipe: Any) -> None:
        pipe.incr(self._key("changes"))
        pipe.publish(self._key("changed"), "")

    async def wait_for_change(self, seconds: float) -> None:
        """Waits until a worker has started, drains, leaves or moves, for `seconds` at most; may wake for nothing."""
        pubsub, self._pubsub = self._pubsub or self._redis.pubsub(), None
        try:
            if not pubsub.subscribed:
                await bounded(pubsub.subscribe(self._key("changed")), 2 * CALL_S)
            await bounded(pubsub.get_message(timeout=seconds), 2 * CALL_S + seconds)
        except BaseException:
            await pubsub.aclose()
            raise
        self._pubsub = pubsub
        if (early_s := self._woken_at + PAUSE_S - time.monotonic()) > 0:
            await asyncio.sleep(early_s)
        self._woken_at = time.monotonic()

    async def pulse(self, candidate: str = "", lease_ms: int = 0) -> Pulse:
        """Reads what is looked at often, with one small call; a `candidate` takes the leader's lease or renews it.

        A Redis that refuses that is as good as none: a lease that nobody can take has no meaning when it lapses.
        """
        key, placement = self._key("leader"), self._placement.key
        pipe = self._redis.pipeline(transaction=False)
        if candidate:
            pipe.set(key, self._client.signed(key, candidate), nx=True, px=lease_ms)
        pipe.get(key)
        pipe.pttl(key)
        pipe.hget(placement, "epoch")
        pipe.hget(placement, "term")
        pipe.get(self._key("changes"))
        replies = await bounded(pipe.execute(raise_on_error=False), 2 * CALL_S)
        for reply in replies:
            if isinstance(reply, RedisError) and not is_wrong_type(reply):
                raise RedisUnavailable(f"{type(reply).__name__}: {reply}")
        leader, left_ms, epoch, term, changes = replies[-5:]
        holder, taken = self._holder(leader, left_ms), bool(candidate) and replies[0] is True
        if candidate and holder is None:  # nobody of ours has written it
            await self._client.write(lambda pipe: pipe.set(key, self._client.signed(key, candidate), px=lease_ms))
            holder, taken, self._renewed_at = candidate, True, time.monotonic()
        leads = bool(candidate) and holder == candidate
        if leads and time.monotonic() > self._renewed_at + lease_ms / 4000:
            await bounded(self._redis.pexpire(key, lease_ms), 2 * CALL_S)
            self._renewed_at = time.monotonic()
        epoch, term = self._placement.number(epoch), self._placement.number(term, "term")
        return Pulse(leads, epoch or 0, term or 0, _count(changes), taken, term is None)

    async def workers(self, role: str, counts: bool = False) -> list[WorkerRecord]:
        """Returns a role's live records, sorted by worker id; a bad one is left out and logged once.

        With `counts`, they have what is counted, which takes longer; else that is empty.
        """
        found = await self._leases.read(role, counts)
        return await self.quarantine.mark(found) if found and role != "router" else found

    async def named(self, role: str, worker_ids: Sequence[str]) -> dict[str, WorkerRecord]:
        """Returns the live records of these workers, by id; without those that have none."""
        return await self._leases.named(role, worker_ids)

    def unleased(self, role: str) -> frozenset[str]:
        """Workers whose lease has expired, as of the last `workers` of that role; not those that withdrew theirs."""
        return self._leases.unleased(role)

    async def table_epoch(self) -> int:
        """Returns the epoch of the published placement table, 0 when there is none: a few bytes, so often asked for."""
        return await self._placement.epoch()

    async def read_table(self) -> Table | None:
        """Returns the published placement table; None when there is none or it is malformed."""
        return await self._placement.read_table()

    async def write_table(self, table: Table, over: int = 0) -> bool:
        """As `PlacementHash.write_table`."""
        return await self._placement.write_table(table, over)

    async def write_term(self, first: int, over: int = 0) -> bool:
        """As `PlacementHash.write_term`."""
        return await self._placement.write_term(first, over)

    async def begin_cluster(self) -> None:
        """As `PlacementHash.begin_cluster`."""
        await self._placement.begin_cluster()

    async def digests(self, numerics_class: str) -> dict[int, bytes]:
        """Returns the golden digests of a numerics class, by layer, as they were written."""
        key = self._key(f"digests:{numerics_class}")
        found = {}
        for layer, record in (await self._hash("digests", key)).items():
            data = self._client.verified("digests", field_name(key, layer), record)
            named = layer.isascii() and layer.isdigit() and len(layer) < 9
            if data is not None and named and len(data) <= MAX_DIGEST_BYTES:
                found[int(layer)] = data
        return found

    async def write_digests(self, numerics_class: str, fields: dict[int, bytes]) -> None:
        """Writes the digests of some layers; all are forgotten when none were written for DIGESTS_S."""
        key = self._key(f"digests:{numerics_class}")

        def fill(pipe: Any) -> None:
            for layer, data in fields.items():
                pipe.hset(key, str(layer), self._client.signed(field_name(key, str(layer)), data))
            pipe.expire(key, DIGESTS_S)

        await self._client.write(fill, {key: "hash"})

    async def shortage(self) -> CapacityShortage | None:
        """Returns the capacity shortage that the leader reports; None when there is none or it is malformed."""
        key = self._key("shortage")
        text = self._client.verified("shortage", key, await self._client.read(self._redis.get(key)))
        try:
            return CapacityShortage.from_json(text) if text else None
        except (ValueError, RecursionError) as error:
            self.bad.note("shortage", key, str(error))
            return None

    async def write_shortage(self, shortage: CapacityShortage) -> None:
        """Writes the shortage for SHORTAGE_MS; the leader renews it while it lasts."""
        key = self._key("shortage")
        text = self._client.signed(key, shortage.to_json())
        await self._client.write(lambda pipe: pipe.set(key, text, px=SHORTAGE_MS))

    async def withdraw_shortage(self) -> None:
        await bounded(self._redis.delete(self._key("shortage")), 2 * CALL_S)

    async def desired(self) -> dict[str, int]:
        """Returns the worker counts requested by users, by role; a role without a request is absent."""
        key, found = self._key("desired"), {}
        for role, record in (await self._hash("desired", key)).items():
            value = self._client.verified("desired", field_name(key, role), record)
            if role in SCALED and (value == b"0" or 0 < _count(value) <= MAX_DESIRED):
                found[role] = _count(value)
            elif value is not None:
                self.bad.note("desired", field_name(key, role), "it is no count of workers of a role")
        return found

    async def set_desired(self, role: str, count: int) -> None:
        key = self._key("desired")
        record = self._client.signed(field_name(key, role), str(count))
        await self._client.write(lambda pipe: pipe.hset(key, role, record), {key: "hash"})

    async def restore_desired(self, counts: Mapping[str, int]) -> None:
        """Writes the counts of roles that Redis has lost. What a user asks for in the meantime stands."""
        key = self._key("desired")
        found, raw = await self.desired(), await self._hash("desired", key)
        records = {
            role: self._client.signed(field_name(key, role), str(count))
            for role, count in counts.items()
            if role not in found
        }

        def fill(pipe: Any) -> None:
            for role, record in records.items():
                pipe.hset(key, role, record) if role in raw else pipe.hsetnx(key, role, record)

        if records:
            await self._client.write(fill, {key: "hash"})

    async def leader(self) -> str | None:
        """The router that leads, as it has named itself; None when none does."""
        key = self._key("leader")
        return self._holder(await self._client.read(self._redis.get(key)), 0) or None

    async def resign(self, holder: str) -> None:
        if await self.leader() == holder:
            await bounded(self._redis.delete(self._key("leader")), 2 * CALL_S)

    async def close(self) -> None:
        if self._pubsub is not None:
            await self._pubsub.aclose()
        await self._client.close()

    def _key(self, name: str) -> str:
        return f"{self._cluster}:{name}"

    def _holder(self, record: object, left_ms: object) -> str | None:
        """Who leads; empty when nobody does, None when what is stored is no lease of ours."""
        if record is None:
            return ""
        key = self._key("leader")
        value = self._client.verified("leader", key, record)
        if value is None:
            return None
        name = value.decode(errors="backslashreplace")
        if not name or not is_text(name) or name.encode() != value:
            self.bad.note("leader", key, "it is no name of a router")
            return None
        if left_ms == -1 or (isinstance(left_ms, int) and left_ms > MAX_LEADER_MS):
            self.bad.note("leader", key, "it does not expire in time")
            return None
        return name

    async def _hash(self, kind: str, key: str) -> dict[str, bytes]:
        """The fields of a hash whose names are text; none when it is something else."""
        raw = await self._client.read(self._redis.hgetall(key))
        if not isinstance(raw, dict):
            self._client.verified(kind, key, raw)
            return {}
        return {field.decode(errors="replace"): value for field, value in raw.items()}
