"""A cluster of child processes: started, kept at the desired counts in Redis, stopped without leftovers."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import structlog

from services.checkpoint.ngram import TABLES_FOLDER
from services.checkpoint.tables_folder import remove_unused_tables
from services.local.redis_server import start_redis
from services.local.settings import LocalSettings
from services.local.spares import Spares
from services.membership.desired import MAX_WORKERS, SCALED
from services.membership.redis import Membership, RedisUnavailable
from services.process import children
from services.process.addresses import authority, held_port, loopback_of, on_this_machine
from services.process.children import Child
from services.process.settings import InvalidSetting
from services.security.cluster_key import ClusterKey, key_violation

log = structlog.get_logger(__name__)

POLL_S = 0.1
DRAIN_TIMEOUT_S = 60.0  # a worker that still drains after this is killed
STEADY_S = 10.0  # a child that ran for this long is restarted without backoff
FIRST_BACKOFF_S, MAX_BACKOFF_S = 0.25, 10.0
GRACE_S = 3.0
MODULES = {"router": "services.router", "attention": "services.attention_worker", "expert": "services.expert_worker"}


DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever proxies the environment names


class StartFailed(Exception):
    """The cluster did not get ready; when a child died, the message is that child's error line."""


class LocalCluster:
    """Call `start`, `ready`, `run` until cancelled, and always `stop`, on one thread.

    The thread has to outlive the children: they die with the thread that started them (PR_SET_PDEATHSIG).
    """

    def __init__(self, settings: LocalSettings) -> None:
        """Raises InvalidSetting when the environment has a cluster key that cannot be used."""
        text, named = given_key()
        self.settings = settings
        self.directory = Path(tempfile.mkdtemp(prefix="caracal-"))
        self._held: list[socket.socket] = []
        self._redis_port = self._hold("127.0.0.1")
        ports = [self._hold(settings.host) for _ in range(settings.routers)]
        self._ports = [settings.port or ports[0], *ports[1:]]
        self._admin_host = loopback_of(settings.host)
        admin = [self._hold(self._admin_host) for _ in range(settings.routers)]
        self._admin_ports = [settings.admin_port or admin[0], *admin[1:]]
        self.redis_url = f"redis://127.0.0.1:{self._redis_port}/0"
        self.cluster = "caracal"
        self.console_token = os.environ.get("CARACAL_CONSOLE_TOKEN") or secrets.token_urlsafe(24)
        self.counts = {"router": settings.routers, "attention": settings.attention, "expert": settings.expert}
        self.children: dict[str, Child] = {}
        workers = [MODULES[role] for role in SCALED]
        self.spares = Spares(settings.spares, workers, self.directory, settings.worker_environment())
        self._backoff: dict[str, tuple[float, float]] = {}  # name -> (time of the restart, last delay)
        self.key_file = Path(named).absolute() if named else _new_key_file(self.directory, text)
        self.membership = Membership(self.redis_url, self.cluster, ClusterKey(file=self.key_file))
        self._certificates = self.directory / "tls" if settings.tls else None
        if self._certificates is not None:
            from services.local.certificates import make_certificates  # with a package that only --tls needs

            make_certificates(self._certificates, self.cluster)

    def _hold(self, host: str) -> int:
        """A port of its own until the cluster stops, restarts of the process that listens on it included."""
        self._held.append(held_port(host))
        return int(self._held[-1].getsockname()[1])

    @property
    def urls(self) -> list[str]:
        """URLs of the gateways."""
        return [f"http://{authority(on_this_machine(self.settings.host), port)}" for port in self._ports]

    @property
    def admin_url(self) -> str:
        """URL of the first router's admin port."""
        return f"http://{authority(self._admin_host, self._admin_ports[0])}"

    async def start(self) -> None:
        """Starts Redis and every process; returns when Redis answers. Raises InvalidSetting, NoRedis, StartFailed."""
        self.settings.check_port()
        self.children["redis"] = start_redis(self._redis_port, self.directory)
        await self._redis_answers()
        with contextlib.suppress(RedisUnavailable):  # without it the first leader waits
            await self.membership.begin_cluster()
        self._spawn_missing()

    async def ready(self, timeout_s: float, report: Callable[[int, int], None] = lambda done, total: None) -> None:
        """Waits until every worker serves; calls `report(done, total)` with the number that do. Raises StartFailed."""
        deadline = time.monotonic() + timeout_s
        total = sum(self.counts[role] for role in SCALED)
        while (done := await self._serving()) < total:
            self._fail_on_dead_child()
            report(done, total)
            if time.monotonic() > deadline:
                raise StartFailed(f"not ready after {timeout_s:.0f} s; logs are in {self.directory}")
            await asyncio.sleep(POLL_S)
        report(total, total)

    async def run(self) -> None:
        """Keeps the cluster at the desired counts and restarts dead children, until cancelled."""
        while True:
            await self._read_desired()
            self._retire()
            self._reap()
            self._spawn_missing()
            if self.steady():
                self.spares.fill()
            await asyncio.sleep(POLL_S)

    def steady(self) -> bool:
        """Whether all are there and have run for a while: what starts beside them then slows nobody's start."""
        latest = time.monotonic() - STEADY_S
        return self.children.keys() >= set(self._wanted()) and all(c.started < latest for c in self.children.values())

    async def stop(self) -> None:
        """Ends every child: routers first, so that open streams end with an error event, and Redis last."""
        running = list(self.children.values())
        try:
            self.spares.end()
            await self.membership.close()
            for group in (
                [child for child in running if child.name.startswith("router")],
                [child for child in running if child.name != "redis"],
                running,
            ):
                await asyncio.to_thread(children.end, group, GRACE_S)
        finally:
            for child in running:
                child.signal(signal.SIGKILL)
                child.process.wait()
            for holder in self._held:
                holder.close()
            shutil.rmtree(self.directory, ignore_errors=True)
            await self._remove_tables()

    async def _remove_tables(self) -> None:
        """Removes n-gram tables that killed workers have left; ranks end a moment after the worker that is killed."""
        given = (os.environ | self.settings.worker_environment()).get("CARACAL_TABLES_DIR")
        for _ in range(10):
            if remove_unused_tables(Path(given or TABLES_FOLDER)):
                return
            await asyncio.sleep(0.05)

    async def _redis_answers(self) -> None:
        """Waits for Redis and writes the desired counts. Raises StartFailed."""
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
        """Counts the workers that have a placement table; 0 while the gateway is not ready."""
        if not await asyncio.to_thread(_is_ready, self.urls[0]):
            return 0
        try:
            return sum([sum(r.epoch > 0 for r in await self.membership.workers(role)) for role in SCALED])
        except RedisUnavailable:
            return 0

    async def _read_desired(self) -> None:
        """Reads the desired counts from Redis; writes them again when Redis has lost them."""
        try:
            desired = await self.membership.desired()
            if any(role not in desired for role in SCALED):
                await self.membership.restore_desired({role: self.counts[role] for role in SCALED})
                return
        except RedisUnavailable:
            return
        for role in SCALED:
            count = min(desired[role], MAX_WORKERS)
            if count != self.counts[role]:
                log.info("scaling", workers=role, now=self.counts[role], desired=count)
            self.counts[role] = count

    def _retire(self) -> None:
        """Sends SIGTERM to the workers numbered above the desired count, and SIGKILL after DRAIN_TIMEOUT_S."""
        for child in self.children.values():
            role, _, number = child.name.rpartition("-")
            if role and int(number) >= self.counts[role] and child.terminated_at is None:
                child.terminated_at = time.monotonic()
                child.signal(signal.SIGTERM)
            elif child.terminated_at is not None and time.monotonic() - child.terminated_at > DRAIN_TIMEOUT_S:
                child.signal(signal.SIGKILL)

    def _reap(self) -> None:
        """Removes dead children; schedules the restart of those that died by themselves, with exponential backoff."""
        for name, child in list(self.children.items()):
            if child.alive:
                continue
            del self.children[name]
            if child.terminated_at is None:
                _, delay = self._backoff.get(name, (0.0, FIRST_BACKOFF_S))
                delay = 0.0 if time.monotonic() - child.started > STEADY_S else min(MAX_BACKOFF_S, 2 * delay)
                self._backoff[name] = time.monotonic() + delay, max(delay, FIRST_BACKOFF_S)
                code, last_line = child.process.returncode, child.last_log_line()
                log.warning("a process died and is restarted", name=name, code=code, last_line=last_line)

    def _wanted(self) -> list[str]:
        return ["redis", *(f"{role}-{n}" for role, count in self.counts.items() for n in range(count))]

    def _spawn_missing(self) -> None:
        for name in self._wanted():
            if name not in self.children and self._backoff.get(name, (0.0, 0.0))[0] <= time.monotonic():
                self.children[name] = self._spawn(name)

    def _spawn(self, name: str) -> Child:
        if name == "redis":
            return start_redis(self._redis_port, self.directory)
        role, _, number = name.rpartition("-")
        environment = self.settings.worker_environment() | {
            "CARACAL_REDIS_URL": self.redis_url,
            "CARACAL_CLUSTER": self.cluster,
            "CARACAL_CLUSTER_KEY": "",
            "CARACAL_CLUSTER_KEY_FILE": str(self.key_file),
            "CARACAL_WORKER_ID": name,
            "CARACAL_METRICS_PORT": "0",
            "CARACAL_PORT": str(self._ports[int(number)]) if role == "router" else "0",
            "CARACAL_GRPC_PORT": "0",
            "CARACAL_DRAIN_TIMEOUT_S": str(GRACE_S / 3),  # open streams then get an error event, before GRACE_S is over
        }
        if self._certificates is not None:
            environment |= certificate_environment(self._certificates, role)
        if role == "router":
            environment |= self.settings.router_environment(int(number)) | {
                "CARACAL_CONSOLE_TOKEN": self.console_token,
                "CARACAL_ADMIN_PORT": str(self._admin_ports[int(number)]),
            }
        environment |= self.settings.cores_environment(role, int(number))
        sink = self.directory / f"{name}.log"
        if role in SCALED and (taken := self.spares.take(name, MODULES[role], sink, environment)):
            return taken
        return children.start(name, [sys.executable, "-P", "-m", MODULES[role]], sink, environment)

    def _fail_on_dead_child(self) -> None:
        for child in self.children.values():
            if not child.alive:
                raise StartFailed(f"{child.name}: {child.last_log_line()}")


def certificate_environment(folder: Path, role: str) -> dict[str, str]:
    """The variables with which a process of the role uses its certificate."""
    files = {"CERT": f"{role}.crt", "KEY": f"{role}.key", "CA": "ca.crt"}
    return {f"CARACAL_TLS_{part}": str(folder / file) for part, file in files.items()}


def given_key() -> tuple[str, str]:
    """The cluster key and the file with it that the environment has. Raises InvalidSetting."""
    text, named = os.environ.get("CARACAL_CLUSTER_KEY", ""), os.environ.get("CARACAL_CLUSTER_KEY_FILE", "")
    if violation := key_violation(text, Path(named) if named else None):
        raise InvalidSetting(f"CARACAL_CLUSTER_KEY{'' if text else '_FILE'}: {violation}")
    return text, named


def _new_key_file(directory: Path, text: str) -> Path:
    """A file that this user alone can read, with the key that was given or with a new one."""
    file = directory / "cluster-key"
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        opened.write((text or secrets.token_hex(32)) + "\n")
    return file


def _is_ready(url: str) -> bool:
    try:
        with DIRECT.open(f"{url}/ready", timeout=2):
            return True
    except (OSError, http.client.HTTPException):
        return False
