"""Faults of processes and of their nodes."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Sequence
from typing import ClassVar

from faults.cluster import MAX_SEQUENCES, FaultyCluster, stopped, wait_for
from faults.injector import WORKERS, Injector, whole_roles
from faults.network import role_of
from faults.overload import Burst
from faults.schedule import Lasting

from bench.frozen_thread import STOPPED as FROZEN
from bench.frozen_thread import FrozenThread, state, threads


class Killed(Injector):
    kind, roles = "killed", WORKERS

    def inject(self) -> None:
        for name in self.nodes:
            self.cluster.signal(name, signal.SIGKILL)

    def verify(self) -> bool:
        return all(wait_for(lambda name=name: self.cluster.ended(name), self.seen_s) for name in self.nodes)  # type: ignore[misc]

    def heal(self) -> None:
        for name in self.nodes:
            self.cluster.end(name)
            self.cluster.restart(name)


class RouterKilled(Killed):
    """A router that no client over gRPC asks; perhaps the one that leads."""

    kind, roles = "router killed", ("router",)


class RoleKilled(Killed):
    """All attention workers at once, or all expert workers."""

    kind = "role killed"

    @classmethod
    def targets(cls, names: Sequence[str], own: str) -> list[str]:
        return whole_roles(names, cls.roles)


class Drained(Injector):
    """SIGTERM: it hands its work over, and ends."""

    kind, roles = "drained", WORKERS
    ends_s = 40.0  # that it may take

    def inject(self) -> None:
        self.cluster.signal(self.target, signal.SIGTERM)

    def verify(self) -> bool:
        return wait_for(lambda: self.cluster.ended(self.target) or self._leaves(), self.seen_s)

    def heal(self) -> None:
        ended = wait_for(lambda: self.cluster.ended(self.target), self.ends_s)
        self.cluster.end(self.target)
        self.cluster.restart(self.target)
        assert ended, f"{self.target} has not ended within {self.ends_s:g} s"

    def _leaves(self) -> bool:
        record = self.cluster.record(self.target)
        return record is not None and bool(record["draining"])


class RouterDrained(Drained):
    kind, roles = "router drained", ("router",)

    def _leaves(self) -> bool:
        return not self.cluster.is_ready(self.target)


class Stopped(Injector):
    kind, roles = "stopped", WORKERS
    lasting = Lasting.SOMETIMES_LONG

    def inject(self) -> None:
        for name in self.nodes:
            self.cluster.signal(name, signal.SIGSTOP)

    def verify(self) -> bool:
        return all(wait_for(lambda name=name: stopped(self.cluster.pid(name)), self.seen_s) for name in self.nodes)  # type: ignore[misc]

    def heal(self) -> None:
        for name in self.nodes:
            self.cluster.signal(name, signal.SIGCONT)


class RouterStopped(Stopped):
    kind, roles = "router stopped", ("router",)


class RoleStopped(Stopped):
    """Both workers of a role."""

    kind = "role stopped"

    @classmethod
    def targets(cls, names: Sequence[str], own: str) -> list[str]:
        return whole_roles(names, cls.roles)


class Frozen(Injector):
    """The thread that computes, of an attention or expert worker, alone: its sockets live on."""

    kind, roles = "thread frozen", WORKERS
    names: ClassVar[dict[str, str]] = {"attention": "engine", "expert": "launches"}  # of these threads

    def __init__(self, cluster: FaultyCluster, target: str, seed: int = 0) -> None:
        super().__init__(cluster, target, seed)
        self.name = self.thread = self.names[role_of(target)]
        self._fault: FrozenThread | None = None

    def inject(self) -> None:
        pid = self.cluster.pid(self.target)
        assert wait_for(lambda: threads(pid, self.thread), self.seen_s), f"{self.target} has no thread {self.thread!r}"
        self._fault = FrozenThread(threads(pid, self.thread)[0])
        self._fault.inject()

    def verify(self) -> bool:
        return any(state(one) == FROZEN for one in threads(self.cluster.pid(self.target), self.name))

    def heal(self) -> None:
        with contextlib.suppress(FileNotFoundError):  # a worker that stands still ends itself in the end
            if self._fault is not None:
                self._fault.heal()


class Overloaded(Injector):
    """The traffic's own client asks for more, all at once, than the router takes on."""

    kind, roles = "overload", ("router",)
    requests = 3 * MAX_SEQUENCES // 2

    def __init__(self, cluster: FaultyCluster, target: str, seed: int = 0) -> None:
        super().__init__(cluster, target, seed)
        self._burst: Burst | None = None

    @classmethod
    def targets(cls, names: Sequence[str], own: str) -> list[str]:
        return [own]

    def inject(self) -> None:
        self._burst = Burst(self.cluster.door(self.target).http, self.requests)

    def verify(self) -> bool:
        burst = self._burst
        return burst is not None and wait_for(lambda: burst.refused() > 0, self.seen_s)

    def heal(self) -> None:
        if self._burst is not None:
            self._burst.close()


class Unplugged(Injector):
    """The node's cable: nothing gets in or out, and no connection hears of it."""

    kind, roles = "unplugged", WORKERS
    lasting = Lasting.SOMETIMES_LONG

    def inject(self) -> None:
        for name in self.nodes:
            self.cluster.network.unplug(name)

    def verify(self) -> bool:
        return not any(map(self._is_reached, self.nodes))

    def heal(self) -> None:
        for name in self.nodes:
            self.cluster.network.plug(name)

    def _is_reached(self, name: str) -> bool:
        try:
            with socket.create_connection((self.cluster.network.address(name), 8001), 0.3):
                return True
        except OSError:
            return False


class MachineUnplugged(Unplugged):
    """A machine that had an attention worker, an expert worker and a router."""

    kind = "machine unplugged"

    @classmethod
    def targets(cls, names: Sequence[str], own: str) -> list[str]:
        routers = [name for name in names if role_of(name) == "router" and name != own]
        each = [[name for name in names if role_of(name) == role] for role in WORKERS]
        return ["+".join((*workers, *routers)) for workers in zip(*each, strict=True)]
