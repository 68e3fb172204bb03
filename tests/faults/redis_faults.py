"""Faults of Redis itself."""

from __future__ import annotations

import signal
from typing import ClassVar

import redis
from faults.cluster import FaultyCluster, wait_for
from faults.injector import Injector
from faults.network import REDIS
from faults.process_faults import Stopped
from faults.schedule import Lasting


class RedisFault(Injector):
    """A Redis that answers and refuses to write, with an error that has `error_word` in it."""

    roles = (REDIS,)
    lasting = Lasting.LONG
    error_word: ClassVar[str]

    def verify(self) -> bool:
        try:
            self.cluster.store.client.set("caracal-faults:probe", "1", px=1)
        except redis.RedisError as error:
            return self.error_word in f"{type(error).__name__} {error}"
        return False


class RedisFull(RedisFault):
    kind, error_word = "redis full", "OutOfMemory"

    def inject(self) -> None:
        self.cluster.store.client.config_set("maxmemory", "1")

    def heal(self) -> None:
        self.cluster.store.client.config_set("maxmemory", "0")


class RedisReadOnly(RedisFault):
    kind, error_word = "redis read-only", "ReadOnly"

    def inject(self) -> None:
        self.cluster.store.client.replicaof("127.0.0.1", "1")

    def heal(self) -> None:
        self.cluster.store.client.replicaof("NO", "ONE")


class RedisCannotSave(RedisFault):
    """Its snapshot has failed: it takes no write until the next one succeeds."""

    kind, error_word = "redis cannot save", "MISCONF"

    def inject(self) -> None:
        client = self.cluster.store.client
        for name, value in (("stop-writes-on-bgsave-error", "yes"), ("dir", "/proc"), ("save", "3600 1")):
            client.config_set(name, value)
        client.bgsave()
        status = "rdb_last_bgsave_status"
        assert wait_for(lambda: client.info("persistence")[status] == "err", self.seen_s), "the snapshot went through"

    def heal(self) -> None:
        self.cluster.store.client.config_set("save", "")
        self.cluster.store.client.config_set("stop-writes-on-bgsave-error", "no")


class RedisStopped(Stopped):
    kind, roles, lasting = "redis stopped", (REDIS,), Lasting.LONG


class RedisKilled(Injector):
    """It is started again, with nothing in it."""

    kind, roles, lasting = "redis killed", (REDIS,), Lasting.LONG

    def inject(self) -> None:
        self.cluster.signal(REDIS, signal.SIGKILL)

    def verify(self) -> bool:
        return wait_for(lambda: not self.cluster.redis_answers(), self.seen_s)

    def heal(self) -> None:
        self.cluster.restart_redis()


class RedisLost(Injector):
    """Everything in Redis is gone."""

    kind, roles = "redis lost", (REDIS,)
    mark = "caracal-faults:mark"

    def __init__(self, cluster: FaultyCluster, target: str, seed: int = 0) -> None:
        super().__init__(cluster, target, seed)
        cluster.store.client.set(self.mark, "1")

    def inject(self) -> None:
        self.cluster.store.client.flushall()

    def verify(self) -> bool:
        return self.cluster.store.client.get(self.mark) is None

    def heal(self) -> None:
        """Its processes write it anew."""


class HostileRecords(Injector):
    """Records that nobody of the cluster has written: bytes that are no text, a worker that is not there."""

    kind, roles = "hostile records", (REDIS,)
    records: ClassVar[dict[str, bytes]] = {
        "caracal:worker:expert:ghost": b'{"worker_id": "ghost", "role": "expert", "address": "10.255.0.1:1"}',
        "caracal:worker:attention:\xff": b"\xff\xfe",
        "caracal:workers:expert": b"ghost",
        "caracal:workers:attention": b"\xff",
    }

    def inject(self) -> None:
        client = self.cluster.store.client
        for name, value in self.records.items():
            client.sadd(name, value) if ":workers:" in name else client.set(name, value)

    def verify(self) -> bool:
        client = self.cluster.store.client
        return bool(client.exists(*(name for name in self.records if ":worker:" in name)) == 2)

    def heal(self) -> None:
        client = self.cluster.store.client
        for name, value in self.records.items():
            client.srem(name, value) if ":workers:" in name else client.delete(name)
