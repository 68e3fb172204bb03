"""A cluster as child processes: started, kept at the counts that Redis asks for, stopped with nothing left behind."""

from __future__ import annotations

import asyncio
import http.client
import shutil
import signal
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import structlog

from services.local.cores import cores_of
from services.local.redis_server import free_port, start_redis
from services.local.settings import MAX_WORKERS, SCALED, LocalSettings
from services.membership.redis import Membership, RedisUnavailable
from services.process import children
from services.process.children import Child

log = structlog.get_logger(__name__)

TICK_S = 0.1
LEAVE_S = 60.0  # a worker that still drains after so long is killed
STEADY_S = 10.0  # a child that request_lifecycle so long may be restarted at once
LAST_PAUSE_S = 10.0
GRACE_S = 3.0
MODULES = {"router": "services.router", "attention": "services.attention_worker", "expert": "services.expert_worker"}


class StartFailed(Exception):
    """A child died before the cluster was ready; the message is its own error line."""


class LocalCluster:
    """`start`, `ready`, then `run` until cancelled, and `stop` always: all on one thread that outlives the children."""

    def __init__(self, settings: LocalSettings) -> None:
        self.settings = settings
        self.directory = Path(tempfile.mkdtemp(prefix="caracal-"))
        self._redis_port = free_port()
        ports = [free_port() for _ in range(settings.routers)]
        self._ports = [settings.port or ports[0], *ports[1:]]
        self.redis_url = f"redis://127.0.0.1:{self._redis_port}/0"
        self.cluster = "caracal"
        self.counts = {"router": settings.routers, "attention": settings.attention, "expert": settings.expert}
        self.children: dict[str, Child] = {}
        self._again_at: dict[str, tuple[float, float]] = {}  # name -> (not before, pause)
        self.membership = Membership(self.redis_url, self.cluster)

    @property
    def urls(self) -> list[str]:
        """Of the gateways."""
        return [f"http://{self.settings.host}:{port}" for port in self._ports]

    async def start(self) -> None:
        """Starts Redis and every process; returns when Redis answers. Raises InvalidSetting, NoRedis, StartFailed."""
        self.settings.check()
        self.children["redis"] = start_redis(self._redis_port, self.directory)
        await self._redis_answers()
        self._spawn_missing()

    async def ready(self, timeout_s: float, report: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Until every worker serves. `report(done, total)` counts processes. Raises StartFailed."""
        deadline = time.monotonic() + timeout_s
        total = sum(self.counts[role] for role in SCALED)
        while (done := await self._serving()) < total:
            self._fail_on_dead_child()
            report(done, total)
            if time.monotonic() > deadline:
                raise StartFailed(f"not ready after {timeout_s:.0f} s; logs are in {self.directory}")
            await asyncio.sleep(TICK_S)
        report(total, total)

    async def run(self) -> None:
        """Follows the wanted counts, and restarts what died, for ever."""
        while True:
            await self._follow()
            self._retire()
            self._reap()
            self._spawn_missing()
            await asyncio.sleep(TICK_S)

    async def stop(self, keep_logs: bool = False) -> None:
        """Ends every child, the routers first so that streams end in words, Redis last."""
        everybody = list(self.children.values())
        try:
            await self.membership.close()
            for group in (
                [child for child in everybody if child.name.startswith("router")],
                [child for child in everybody if child.name != "redis"],
                everybody,
            ):
                await asyncio.to_thread(children.end, group, GRACE_S)
        finally:
            for child in everybody:
                child.signal(signal.SIGKILL)
                child.process.wait()
            if not keep_logs:
                shutil.rmtree(self.directory, ignore_errors=True)

    async def _redis_answers(self) -> None:
        """Waits for Redis and writes the wanted counts. Raises StartFailed."""
        for _ in range(100):
            self._fail_on_dead_child()
            try:
                await self._write_counts()
                return
            except RedisUnavailable:
                await asyncio.sleep(0.05)
        raise StartFailed(f"redis does not answer; its log: {self.directory / 'redis.log'}")

    async def _write_counts(self) -> None:
        for role in SCALED:
            await self.membership.set_desired(role, self.counts[role])

    async def _serving(self) -> int:
        """Workers that have a table; none while the gateway says that it cannot serve."""
        if not await asyncio.to_thread(_is_ready, self.urls[0]):
            return 0
        try:
            return sum([sum(r.epoch > 0 for r in await self.membership.workers(role)) for role in SCALED])
        except RedisUnavailable:
            return 0

    async def _follow(self) -> None:
        """Reads the wanted counts; puts them back when Redis has lost them."""
        try:
            wanted = await self.membership.desired()
            if any(role not in wanted for role in SCALED):
                await self._write_counts()
                return
        except RedisUnavailable:
            return
        for role in SCALED:
            count = min(max(wanted[role], 1), MAX_WORKERS)
            if count != self.counts[role]:
                log.info("scaling", kind=role, now=self.counts[role], wanted=count)
            self.counts[role] = count

    def _retire(self) -> None:
        """Tells workers above the wanted count to leave: those with the highest numbers."""
        for child in self.children.values():
            role, _, number = child.name.rpartition("-")
            if role and int(number) >= self.counts[role] and child.leaving_since is None:
                child.leaving_since = time.monotonic()
                child.signal(signal.SIGTERM)
            elif child.leaving_since is not None and time.monotonic() - child.leaving_since > LEAVE_S:
                child.signal(signal.SIGKILL)

    def _reap(self) -> None:
        """Forgets children that are gone; one that died by itself is to start again, ever more slowly if it goes on."""
        for name, child in list(self.children.items()):
            if child.alive:
                continue
            del self.children[name]
            if child.leaving_since is None:
                _, pause = self._again_at.get(name, (0.0, 0.25))
                pause = 0.0 if time.monotonic() - child.started > STEADY_S else min(LAST_PAUSE_S, 2 * pause)
                self._again_at[name] = time.monotonic() + pause, max(pause, 0.25)
                said = child.last_log_line()
                log.warning("a process died; starting it again", name=name, code=child.process.returncode, said=said)

    def _spawn_missing(self) -> None:
        wanted = ["redis", *(f"{role}-{n}" for role, count in self.counts.items() for n in range(count))]
        for name in wanted:
            if name not in self.children and self._again_at.get(name, (0.0, 0.0))[0] <= time.monotonic():
                self.children[name] = self._spawn(name)

    def _spawn(self, name: str) -> Child:
        if name == "redis":
            return start_redis(self._redis_port, self.directory)
        role, _, number = name.rpartition("-")
        environment = self.settings.worker_environment() | {
            "CARACAL_REDIS_URL": self.redis_url,
            "CARACAL_CLUSTER": self.cluster,
            "CARACAL_WORKER_ID": name,
            "CARACAL_METRICS_PORT": "0",
            "CARACAL_PORT": str(self._ports[int(number)]) if role == "router" else "0",
            "CARACAL_GRPC_PORT": "0",
            "CARACAL_DRAIN_TIMEOUT_S": str(GRACE_S / 3),  # streams still open then are told so, before patience ends
        }
        command = [sys.executable, "-m", MODULES[role]]
        child = children.start(name, command, self.directory / f"{name}.log", environment)
        settings = self.settings
        if int(number) < {"attention": settings.attention, "expert": settings.expert}.get(role, 0):
            child.pin_to(cores_of(role, settings.attention_ranks, settings.expert, children.available_cores()))
        return child

    def _fail_on_dead_child(self) -> None:
        for child in self.children.values():
            if not child.alive:
                raise StartFailed(f"{child.name}: {child.last_log_line()}")


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/ready", timeout=2):
            return True
    except (OSError, http.client.HTTPException):
        return False
