"""What a misled injector hits: a process that sleeps, another Redis, another node, a server that says nothing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from faults.asking import Door, Question
from faults.cluster import FaultyCluster
from faults.injector import Injector
from faults.kinds import KINDS, choices
from faults.link_faults import LinkFault
from faults.network import role_of
from faults.process_faults import Frozen, Overloaded, Unplugged
from faults.traffic import Traffic, verdicts
from support.worker_processes import redis_store

SEEN_S = 0.3  # nothing is to be seen, so it is not waited for long
OWN = "router-0"


class OtherNodes:
    """The network as far as an injector uses it: what is meant for a worker hits the other one of its role; what is
    meant for a router, or Redis, an expert worker. Counts are those of the node that is meant."""

    def __init__(self, cluster: FaultyCluster) -> None:
        self._network, self._names = cluster.network, cluster.names
        self.address, self.callers = self._network.address, self._network.callers

    def fault(self, caller: str, called: str, **values: Any) -> dict[str, int]:
        self._network.fault(caller, self._other(called), **values)
        return self._network.fault(caller, called)

    def reset(self, caller: str, called: str) -> dict[str, int]:
        self._network.reset(caller, self._other(called))
        return self._network.fault(caller, called)

    def unplug(self, name: str) -> None:
        self._network.unplug(self._other(name))

    def plug(self, name: str) -> None:
        self._network.plug(self._other(name))

    def _other(self, name: str) -> str:
        role = role_of(name) if role_of(name) in ("attention", "expert") else "expert"
        return next(one for one in reversed(self._names) if role_of(one) == role and one != name)


class Decoy:
    """Stands in for the cluster."""

    def __init__(
        self, cluster: FaultyCluster, sleeper: subprocess.Popen[bytes], store: Any, server: socket.socket
    ) -> None:
        self.network, self.children, self.store = OtherNodes(cluster), cluster.children, store
        self._sleeper, self._server = sleeper, server

    def pid(self, name: str) -> int:
        return self._sleeper.pid

    def door(self, router: str) -> Door:
        server: tuple[str, int] = self._server.getsockname()
        return Door("", server, server)

    def signal(self, name: str, number: signal.Signals) -> None:
        os.kill(self._sleeper.pid, number)


@contextmanager
def misled(injector: Injector) -> Iterator[None]:
    """Has the injector hit a decoy. Its `verify` looks at the cluster, as ever."""
    cluster: Any = injector.cluster
    with (
        tempfile.TemporaryDirectory() as folder,
        redis_store(Path(folder)) as store,
        socket.create_server(("127.0.0.1", 0), backlog=Overloaded.requests) as server,
    ):
        sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        decoy: Any = Decoy(cluster, sleeper, store, server)
        injector.cluster, injector.seen_s = decoy, SEEN_S
        if isinstance(injector, Frozen):
            injector.thread = ""  # any of the sleeper's
        try:
            injector.inject()
            injector.cluster = cluster
            yield
        finally:
            injector.cluster = decoy
            if isinstance(injector, LinkFault | Unplugged | Frozen | Overloaded):
                injector.heal()
            injector.cluster = cluster
            sleeper.kill()
            sleeper.wait()


def is_taken_in(cluster: FaultyCluster, questions: Sequence[Question], kind: str) -> str:
    """The control of a kind: its injector hits something else on purpose, and its own check has to say so. Returns what
    is wrong with the check, or with answers meanwhile; empty when nothing is."""
    target = choices(cluster.names, OWN)[kind].targets[0]
    traffic = Traffic(cluster.door(OWN), questions)
    try:
        injector = KINDS[kind](cluster, target)
        with misled(injector):
            taken_in = injector.verify()
    finally:
        requests = traffic.finish()
    if taken_in:
        return f"{kind} at {target} is seen where it is not"
    return "; ".join(f"{verdict} ({kind} elsewhere)" for verdict in verdicts(requests))
