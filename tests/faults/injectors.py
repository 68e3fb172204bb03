"""Faults that can be injected into the cluster. Each proves that it took effect, and heals.

`verify` is asked after `inject` and before `heal`, while there is traffic.
"""

from __future__ import annotations

import contextlib
import signal
import socket
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import redis
from faults.cluster import MAX_SEQUENCES, FaultyCluster, stopped, wait_for
from faults.network import REDIS
from faults.overload import Burst

from bench.frozen_thread import STOPPED as FROZEN
from bench.frozen_thread import FrozenThread, state, threads


class Injector(ABC):
    """A fault at a target: a node's name, or Redis."""

    kind: ClassVar[str]
    roles: ClassVar[tuple[str, ...]]  # whose nodes are targets; a name is that node's alone
    seen_s = 5.0  # that it may take to show

    def __init__(self, cluster: FaultyCluster, target: str) -> None:
        self.cluster, self.target = cluster, target

    @abstractmethod
    def inject(self) -> None: ...

    @abstractmethod
    def verify(self) -> bool:
        """Whether the fault is there."""

    @abstractmethod
    def heal(self) -> None: ...


class Killed(Injector):
    kind = "killed"
    roles: ClassVar[tuple[str, ...]] = ("attention", "expert")

    def inject(self) -> None:
        self.cluster.signal(self.target, signal.SIGKILL)

    def verify(self) -> bool:
        return wait_for(lambda: self.cluster.children[self.target].poll() is not None, self.seen_s)

    def heal(self) -> None:
        self.cluster.children[self.target].wait()
        self.cluster.restart(self.target)


class OtherRouterKilled(Killed):
    """The router that no client of the traffic uses; perhaps the one that leads."""

    kind, roles = "router killed", ("router",)


class Stopped(Injector):
    kind = "stopped"
    roles: ClassVar[tuple[str, ...]] = ("attention", "expert", "router")

    def inject(self) -> None:
        self.cluster.signal(self.target, signal.SIGSTOP)

    def verify(self) -> bool:
        return wait_for(lambda: stopped(self.cluster.pid(self.target)), self.seen_s)

    def heal(self) -> None:
        self.cluster.signal(self.target, signal.SIGCONT)


class Frozen(Injector):
    """The thread that computes, of an attention or expert worker, alone: its sockets live on."""

    kind, roles = "thread frozen", ("attention", "expert")
    names: ClassVar[dict[str, str]] = {"attention": "engine", "expert": "launches"}  # of these threads

    def __init__(self, cluster: FaultyCluster, target: str) -> None:
        super().__init__(cluster, target)
        self.name = self.thread = self.names[target.rpartition("-")[0]]

    def inject(self) -> None:
        self._fault = FrozenThread(threads(self.cluster.pid(self.target), self.thread)[0])
        self._fault.inject()

    def verify(self) -> bool:
        return any(state(one) == FROZEN for one in threads(self.cluster.pid(self.target), self.name))

    def heal(self) -> None:
        with contextlib.suppress(FileNotFoundError):  # a worker that stands still ends itself in the end
            self._fault.heal()


class Overloaded(Injector):
    """The traffic's own client asks for more, all at once, than the router takes on."""

    kind, roles = "overload", ("router-0",)
    requests = 3 * MAX_SEQUENCES // 2

    def inject(self) -> None:
        self._burst = Burst(self.cluster.door(self.target).http, self.requests)

    def verify(self) -> bool:
        return wait_for(lambda: self._burst.refused() > 0, self.seen_s)

    def heal(self) -> None:
        self._burst.close()


class LinkFault(Injector):
    """All connections to the target go wrong. `counter`: what the hub counts then."""

    roles = ("attention", "expert")
    values: ClassVar[dict[str, Any]]
    well: ClassVar[dict[str, Any]]
    counter: ClassVar[str]

    def inject(self) -> None:
        self._before = self._count(self.values)

    def verify(self) -> bool:
        with self.cluster.knock(self.target):  # there may be no other traffic, where nobody uses the target just now
            return wait_for(lambda: self._count({}) > self._before, self.seen_s)

    def heal(self) -> None:
        self._count(self.well)

    def _count(self, values: dict[str, Any]) -> int:
        network = self.cluster.network
        callers = dict.fromkeys(("here", *network.callers(self.target)))
        return sum(network.fault(caller, self.target, **values)[self.counter] for caller in callers)


class Delayed(LinkFault):
    kind, counter = "link +500 ms", "delayed"
    values, well = {"delay_s": 0.5}, {"delay_s": 0.0}


class Throttled(LinkFault):
    kind, counter = "link 100 kB/s", "throttled"
    values, well = {"rate": 1e5}, {"rate": 0.0}


class Blackholed(LinkFault):
    kind, counter = "blackhole", "held"
    values, well = {"hold_there": True, "hold_back": True}, {"hold_there": False, "hold_back": False}


class OneWay(LinkFault):
    """What the target sends is lost; what is sent to it arrives."""

    kind, counter = "one-way", "held"
    values, well = {"hold_back": True}, {"hold_back": False}


class Flipped(LinkFault):
    kind, counter = "bits flipped", "flipped"
    values, well = {"flips": 3}, {"flips": 0}


class Reset(LinkFault):
    """Every connection to the target is cut once."""

    kind, counter = "reset", "reset"
    values, well = {}, {}

    def inject(self) -> None:
        super().inject()
        for caller in self.cluster.network.callers(self.target):
            self.cluster.network.reset(caller, self.target)


class Unplugged(Injector):
    """The node's cable: nothing gets in or out, and no connection hears of it."""

    kind, roles = "unplugged", ("attention", "expert")

    def inject(self) -> None:
        self.cluster.network.unplug(self.target)

    def verify(self) -> bool:
        try:
            with socket.create_connection((self.cluster.network.address(self.target), 8001), 0.3):
                return False
        except OSError:
            return True

    def heal(self) -> None:
        self.cluster.network.plug(self.target)


class RedisFault(Injector):
    """A Redis that answers and refuses to write, with an error that has `error_word` in it."""

    roles = (REDIS,)
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


class RedisStopped(Stopped):
    kind, roles = "redis stopped", (REDIS,)


class RedisLost(Injector):
    """Everything in Redis is gone."""

    kind, roles = "redis lost", (REDIS,)
    mark = "caracal-faults:mark"

    def __init__(self, cluster: FaultyCluster, target: str) -> None:
        super().__init__(cluster, target)
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


KINDS: dict[str, type[Injector]] = {
    one.kind: one
    for one in (
        Killed,
        OtherRouterKilled,
        Stopped,
        Frozen,
        Overloaded,
        Delayed,
        Throttled,
        Blackholed,
        OneWay,
        Flipped,
        Reset,
        Unplugged,
        RedisFull,
        RedisReadOnly,
        RedisStopped,
        RedisLost,
        HostileRecords,
    )
}


def targets(cluster: FaultyCluster) -> dict[str, list[str]]:
    """The targets of each kind. The traffic's own router, router-0, is one only where it is named."""
    roles = {name: name.rpartition("-")[0] for name in (*cluster.names, REDIS) if name != "router-0"}
    return {
        kind: [name for name in (*cluster.names, REDIS) if name in injector.roles or roles.get(name) in injector.roles]
        for kind, injector in KINDS.items()
    }
