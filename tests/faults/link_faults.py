"""Faults of connections: all those that lead to the target."""

from __future__ import annotations

from typing import Any, ClassVar

from faults.cluster import wait_for
from faults.injector import WORKERS, Injector
from faults.network import REDIS
from faults.schedule import Lasting

ROUTER: tuple[str, ...] = ("router",)


class LinkFault(Injector):
    """All connections to the target go wrong. `counter`: what the hub counts then. `knocks`: what this process sends
    there counts, too, since there may be no other traffic where nobody uses the target just now."""

    roles = WORKERS
    values: ClassVar[dict[str, Any]]
    counter: ClassVar[str]
    knocks: ClassVar[bool] = True

    def inject(self) -> None:
        self._before = self._count(self.values | {"seed": self.seed})

    def verify(self) -> bool:
        if not self.knocks:
            return wait_for(self._shows, self.seen_s)
        with self.cluster.knock(self.target):
            return wait_for(self._shows, self.seen_s)

    def heal(self) -> None:
        self._count({name: type(value)() for name, value in self.values.items()})

    def _shows(self) -> bool:
        return self._count({}) > self._before

    def _count(self, values: dict[str, Any]) -> int:
        network = self.cluster.network
        callers = dict.fromkeys((*(["here"] if self.knocks else []), *network.callers(self.target)))
        return sum(network.fault(caller, self.target, **values)[self.counter] for caller in callers)


class Delayed(LinkFault):
    kind, counter = "link +500 ms", "delayed"
    values: ClassVar[dict[str, Any]] = {"delay_s": 0.5}


class Throttled(LinkFault):
    kind, counter = "link 100 kB/s", "throttled"
    values: ClassVar[dict[str, Any]] = {"rate": 1e5}


class Blackholed(LinkFault):
    kind, counter, lasting = "blackhole", "held", Lasting.SOMETIMES_LONG
    values: ClassVar[dict[str, Any]] = {"hold_there": True, "hold_back": True}


class OneWay(LinkFault):
    """What the target sends is lost; what is sent to it arrives."""

    kind, counter, lasting = "one-way", "held", Lasting.SOMETIMES_LONG
    values: ClassVar[dict[str, Any]] = {"hold_back": True}


class Flipped(LinkFault):
    kind, counter, knocks = "bits flipped", "flipped", False  # a bit of ours says nothing about theirs
    values: ClassVar[dict[str, Any]] = {"flips": 3}


class Reset(LinkFault):
    """Every connection to the target is cut once; where there is none just now, as soon as there is one."""

    kind, counter, knocks = "reset", "reset", False
    values: ClassVar[dict[str, Any]] = {}

    def inject(self) -> None:
        super().inject()
        wait_for(self._cut, self.seen_s)

    def _cut(self) -> bool:
        for caller in self.cluster.network.callers(self.target):
            self.cluster.network.reset(caller, self.target)
        return self._shows()


# The same of the connections of clients, and of other routers, to a router. Bits that flip there change what is asked
# and answered: HTTP without TLS has no checksum.


class ClientDelayed(Delayed):
    kind, roles = "client link +500 ms", ROUTER


class ClientBlackholed(Blackholed):
    kind, roles = "client blackhole", ROUTER


class ClientReset(Reset):
    kind, roles = "client reset", ROUTER


class RedisDelayed(Delayed):
    kind, roles, lasting = "redis link +500 ms", (REDIS,), Lasting.LONG


class RedisBlackholed(Blackholed):
    kind, roles, lasting = "redis blackhole", (REDIS,), Lasting.LONG


class RedisFlipped(Flipped):
    kind, roles = "redis bits flipped", (REDIS,)


class RedisReset(Reset):
    kind, roles = "redis reset", (REDIS,)
