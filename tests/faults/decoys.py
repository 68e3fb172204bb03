"""What a misled injector hits: a process that sleeps, another Redis, unused links, a server that says nothing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from faults.asking import Door
from faults.cluster import FaultyCluster
from faults.injectors import Frozen, Injector, Overloaded
from support.worker_processes import redis_store

SEEN_S = 0.3  # nothing is to be seen, so it is not waited for long


class UnusedLinks:
    """The network as far as an injector uses it: nothing that it sets is set."""

    def __init__(self, cluster: FaultyCluster) -> None:
        self._network = cluster.network
        self.address, self.callers = self._network.address, self._network.callers

    def fault(self, caller: str, called: str, **values: Any) -> dict[str, int]:
        return self._network.fault(caller, called)

    def reset(self, caller: str, called: str) -> dict[str, int]:
        return self._network.fault(caller, called)

    def unplug(self, name: str) -> None:
        """No such node."""


class Decoy:
    """Stands in for the cluster."""

    def __init__(
        self, cluster: FaultyCluster, sleeper: subprocess.Popen[bytes], store: Any, server: socket.socket
    ) -> None:
        self.network, self.children, self.store = UnusedLinks(cluster), cluster.children, store
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
            if isinstance(injector, Frozen | Overloaded):
                injector.heal()
            sleeper.kill()
            sleeper.wait()
