"""The processes of one measurement: Redis, routers, and one process that plays all workers; and what they cost."""

from __future__ import annotations

import http.client
import json
import os
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import redis

from bench.processes import PATH, REPO, process, redis_server, rss_bytes, wait_for
from services.process.addresses import free_port

PROBE_S = 0.004
LAG = "caracal_event_loop_lag_seconds"


class FakeWorkers:
    """The process that plays the workers."""

    def __init__(self, redis_url: str, log: Path) -> None:
        command = [sys.executable, "-m", "bench.control.fake_workers", redis_url]
        with log.open("ab") as sink:
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=sink,
                text=True,
                cwd=REPO,
                env=os.environ | {"PYTHONPATH": PATH},
            )
        self._log = log
        self._answer()

    def ask(self, **command: Any) -> dict[str, Any]:
        """Carries one of fake_workers' commands out. Raises RuntimeError when the process has failed."""
        assert self._child.stdin
        self._child.stdin.write(json.dumps(command) + "\n")
        self._child.stdin.flush()
        return self._answer()

    def close(self) -> None:
        self._child.kill()
        self._child.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._child.stdout
        line = self._child.stdout.readline()
        if not line:
            raise RuntimeError(f"the workers' process has ended; see {self._log}")
        answer: dict[str, Any] = json.loads(line)
        return answer


@dataclass
class Router:
    """One router's process."""

    name: str
    port: int  # the admin port, which has every route
    child: psutil.Process

    def get(self, path: str) -> tuple[float, bytes]:
        """Returns (milliseconds, body)."""
        began_s = time.perf_counter()
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as page:
            body = page.read()
        return 1e3 * (time.perf_counter() - began_s), body

    def lag_buckets(self) -> dict[str, float]:
        """The cumulated counts of the event loop's lag, by bucket, and "count"."""
        _, page = self.get("/metrics")
        samples = [line.rsplit(" ", 1) for line in page.decode().splitlines() if line.startswith(LAG)]
        return {
            name.removeprefix(LAG).strip("_").replace('bucket{le="', "").rstrip('"}'): float(v) for name, v in samples
        }


class HealthProbe:
    """Asks a router for /health all the time, over one connection; what it waits is what the event loop stood still."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._ended = threading.Event()
        self.ms: list[float] = []
        self._thread = threading.Thread(target=self._run, name="health", daemon=True)

    def __enter__(self) -> HealthProbe:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def result(self) -> dict[str, float]:
        """Median, 99th percentile and maximum in milliseconds."""
        ordered = sorted(self.ms)
        return {"p50": statistics.median(ordered), "p99": ordered[int(0.99 * (len(ordered) - 1))], "max": ordered[-1]}

    def _run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        while not self._ended.is_set():
            began_s = time.perf_counter()
            connection.request("GET", "/health")
            connection.getresponse().read()
            self.ms.append(1e3 * (time.perf_counter() - began_s))
            self._ended.wait(PROBE_S)
        connection.close()


class Meter:
    """What passes between two moments: CPU of the routers, and Redis's calls and bytes."""

    def __init__(self, control: ControlPlane) -> None:
        self._control, self._began_s = control, time.perf_counter()
        self._before = self._read()

    def result(self) -> dict[str, float]:
        """CPU in seconds and as a share of a core; Redis's commands and bytes per second."""
        seconds = time.perf_counter() - self._began_s
        after = self._read()
        cpu_s, *traffic = (now - before for now, before in zip(after, self._before, strict=True))
        calls, read, written = (each / seconds for each in traffic)
        return {
            "seconds": seconds,
            "router_cpu_s": cpu_s,
            "router_cores": cpu_s / seconds,
            "redis_calls_per_s": calls,
            "redis_bytes_per_s": read + written,
        }

    def _read(self) -> tuple[float, float, float, float]:
        times = [router.child.cpu_times() for router in self._control.routers]
        info: Any = self._control.redis.info("stats")
        return (
            sum(each.user + each.system for each in times) / len(times),
            info["total_commands_processed"],
            info["total_net_input_bytes"],
            info["total_net_output_bytes"],
        )


@dataclass
class ControlPlane:
    """Everything that runs. `redis` is a client of the cluster's Redis."""

    routers: list[Router]
    fakes: FakeWorkers
    redis: Any

    def leader(self) -> Router:
        """The router that leads now. Raises LookupError while none does."""
        holder = (self.redis.get("caracal:leader") or b"").decode().partition("/")[0]
        for router in self.routers:
            if router.name == holder:
                return router
        raise LookupError(holder)

    def resources(self, router: Router) -> dict[str, int]:
        """A router's resident memory in bytes, file descriptors and threads."""
        child = router.child
        return {"rss_bytes": rss_bytes(child.pid), "fds": child.num_fds(), "threads": child.num_threads()}


@contextmanager
def control_plane(model: Path, directory: Path, routers: int, replicas: int) -> Iterator[ControlPlane]:
    """Starts Redis, routers that keep `replicas` of each expert, and a process that plays no worker yet."""
    directory.mkdir(parents=True, exist_ok=True)
    first, *others = sorted(os.sched_getaffinity(0))
    pin = ["taskset", "-c", str(first)] if others else []
    with ExitStack() as stack:
        if others:  # the children that follow keep to them too, but for the routers
            os.sched_setaffinity(0, others)
            stack.callback(os.sched_setaffinity, 0, {first, *others})
        redis_url = stack.enter_context(redis_server(directory))
        client = redis.Redis.from_url(redis_url)
        started = []
        for number in range(routers):
            name, port = f"router-{number}", free_port()
            settings = {
                "CARACAL_MODEL": str(model),
                "CARACAL_REDIS_URL": redis_url,
                "CARACAL_PORT": str(free_port()),
                "CARACAL_ADMIN_PORT": str(port),
                "CARACAL_GRPC_PORT": str(free_port()),
                "CARACAL_WORKER_ID": name,
                "CARACAL_REPLICAS": str(replicas),
                "CARACAL_DRAIN_TIMEOUT_S": "1",
            }
            command = [*pin, sys.executable, "-m", "services.router"]
            child = stack.enter_context(process(command, directory / f"{name}.log", **settings))
            started.append(Router(name, port, psutil.Process(child.pid)))
        for router in started:
            wait_for(f"http://127.0.0.1:{router.port}/health")
        fakes = FakeWorkers(redis_url, directory / "workers.log")
        stack.callback(fakes.close)
        yield ControlPlane(started, fakes, client)
