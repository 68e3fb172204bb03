"""Assembles one expert worker (experts, batcher, gRPC server, lease), and drains and stops it."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
import uuid
from collections.abc import Coroutine, Hashable

import structlog
import torch
from caracal_kernels import is_compiled
from prometheus_client import CollectorRegistry

from services.checkpoint.device import computes_fp8, find_device
from services.checkpoint.errors import CheckpointError
from services.checkpoint.numerics import numerics_of
from services.checkpoint.reader import Checkpoint
from services.checkpoint.scrub import Region, Scrub
from services.expert_worker.batcher import Batcher
from services.expert_worker.experts import Experts
from services.expert_worker.golden_check import PERIOD_S, GoldenCheck
from services.expert_worker.memory import experts_that_fit
from services.expert_worker.metrics import ExpertMetrics
from services.expert_worker.native_server import NativeServer
from services.expert_worker.p2p_registry import P2PRegistry
from services.expert_worker.placement_state import PlacementState
from services.expert_worker.readiness import Readiness
from services.expert_worker.sample_check import LOOK_S, SampleCheck
from services.expert_worker.server import ExpertServer
from services.expert_worker.service import STANDS_STILL, ExpertService
from services.expert_worker.settings import ExpertSettings
from services.membership.record import WorkerRecord
from services.membership.redis import Membership, RedisUnavailable
from services.process.addresses import authority
from services.process.metrics_server import serve_metrics
from services.process.open_files import open_files
from services.process.own_health import OwnHealth
from services.process.standstill import Standstill
from services.process.telemetry import show_redis
from services.process.thread_watch import COMPILES_S, NOWHERE_S
from services.security.channels import Dialer
from services.security.cluster_key import warn_without
from services.security.guard import Guard
from services.security.identity import EXPERT
from services.transport.handshakes import watch_failed_handshakes
from services.transport.limits import MAX_ROWS
from services.transport.native_extension import unavailable
from services.transport.payload import dispatch_dtype_of, payload_bytes
from services.transport.spinning import spin_s, usable_cores

log = structlog.get_logger(__name__)

TICK_S = 0.5
POLL_S = 1.0  # between two checks for a router while it drains
ALONE_S = 5.0  # without sessions and routers, before a draining worker takes the cluster to be gone
REDIS_S = 3.0
FEWEST_LAUNCHES = 32  # before it is known how long one takes
SLOWER = 4.0  # times that, beyond which its thread gets nowhere
GRACE_S = 2.0  # for calls that are being computed when the server stops


class ExpertWorker:
    """One expert worker. Call `start`, then `drain` and `stop`, each once. Raises NoSuchDevice."""

    def __init__(self, settings: ExpertSettings, checkpoint: Checkpoint) -> None:
        dtype: torch.dtype = getattr(torch, settings.dtype or checkpoint.config.torch_dtype)
        device = find_device(settings.device)
        experts = Experts(checkpoint, dtype, device, keep_fp8=computes_fp8(device))
        self._settings, self._least_s = settings, COMPILES_S if device.type != "cpu" else NOWHERE_S
        self._fitting = experts_that_fit(checkpoint.config, dtype, device)
        dispatch_dtype = dispatch_dtype_of(settings.dispatch_dtype, dtype)
        self._numerics = numerics_of(checkpoint, dtype, device, dispatch_dtype, settings.kv_dtype)
        key = settings.open_cluster_key()
        tls = settings.open_tls()
        warn_without(key)
        self._membership = Membership(settings.redis, settings.cluster, key, settings.redis_next)
        self._samples = SampleCheck(self._membership, checkpoint, self._numerics.name)
        self._state = PlacementState(experts, settings.identity, uuid.uuid4().hex, self._numerics.name)
        self._state.published = self._published_epoch
        self._guard = Guard(key, self._state.boot_id, tls)
        self._loop = asyncio.get_running_loop()
        self._batcher = Batcher(experts.compute, experts.num_layers, experts.num_ffn)
        max_bytes = payload_bytes(MAX_ROWS, checkpoint.config.hidden_size, dispatch_dtype)
        self._p2p_registry: P2PRegistry | None = None
        if settings.p2p_allowed:
            self._p2p_registry = P2PRegistry(settings.reachable_host, device, max_bytes, settings.max_sessions)
        self._service = ExpertService(
            self._state, self._batcher, self._p2p_registry, dispatch_dtype, settings.max_sessions
        )
        self._service.native = self._native = self._native_server(device)
        self._server = ExpertServer(self._service, settings.max_sessions, settings.core_set, self._guard)
        self._scrub = Scrub(experts.regions, self._repair, settings.scrub_s)
        period_s = PERIOD_S if settings.scrub_s else 0.0
        self._golden = GoldenCheck(experts, self._membership.quarantine, self._state.boot_id, period_s)
        self._readiness = Readiness(self._state, self._membership)
        self._address = self._metrics_address = ""

    def start(self) -> None:
        """Opens the ports. Raises OSError when one is taken."""
        settings = self._settings
        port = self._server.start(settings.host, settings.port)
        registry = CollectorRegistry()
        registry.register(ExpertMetrics(self._batcher, self._state, self._service, self._scrub.counters))
        show_redis(registry, lambda: self._membership.reachable)
        self._membership.bad.show(registry)
        self._guard.show(registry)
        if self._guard.tls.given:
            watch_failed_handshakes(registry)
        own_health = OwnHealth(Dialer(tls=self._guard.tls), EXPERT, settings.host, port)
        try:
            metrics_port = serve_metrics(
                settings.host,
                settings.metrics_port,
                registry,
                self._not_ready,
                own_health,
                lambda: self._readiness.hold,
            )
        except OSError as error:
            where = authority(settings.host, settings.metrics_port)
            raise OSError(f"cannot listen on {where}: {error.strerror}") from None
        self._address = authority(settings.reachable_host, port)
        self._metrics_address = authority(settings.reachable_host, metrics_port)
        self._server.set_ready(True)
        self._scrub.start()
        log.info(
            "expert worker listens",
            worker_id=self._state.worker_id,
            address=self._address,
            metrics=self._metrics_address,
            numerics_class=self._state.numerics_class,
            open_files=open_files(),
        )

    def _repair(self, region: Region) -> None:
        """Reads an expert again whose weights have changed in memory; the process ends when it cannot."""
        try:
            self._state.experts.repair(region)
        except CheckpointError as error:
            self._service.broken = error
        else:
            log.warning("weights were read again", weights=region.name)

    def _native_server(self, device: torch.device) -> NativeServer | None:
        """The server of native sessions; None, with the reason in the log, where there is none."""
        settings = self._settings
        if reason := unavailable(settings.tls_files is not None):
            log.info("no native sessions", reason=reason)
            return None
        return NativeServer(
            self._state,
            self._batcher,
            self._service.expected,
            host=settings.host,
            reachable_host=settings.reachable_host,
            port=settings.native_port,
            max_sessions=settings.max_sessions,
            spin_s=spin_s(settings.spin_us, usable_cores(settings.core_set)),
            direct=device.type == "cpu" and is_compiled(),
            encrypted=settings.tls_files is not None,
        )

    def background(self) -> tuple[Coroutine[None, None, None], ...]:
        """The tasks to run beside the server: the lease, the batcher's progress tick, a look at the weights of others,
        and what makes it count as ready.

        Raises CheckpointError when the experts asked for cannot be read and none is loaded: the message that names the
        file and the tensor is then this process's last log line, and not only in the leader's log.
        """
        standstill = Standstill("launches", lambda: self._service.launching, self._stand_still, pace=self._pace)
        looks = self._compare_samples(), self._follow_leave(), self._golden.run()
        return self._membership.advertise(self.record), self._tick(), standstill.run(), *looks

    async def _follow_leave(self) -> None:
        await self._readiness.wait_for_leave()
        await asyncio.Event().wait()  # the end of a background task would end the process

    async def drain(self) -> None:
        """Announces the drain, and serves on until the leader has placed its experts elsewhere or the timeout is over.

        It also ends after ALONE_S without a session and without a router in Redis: then the cluster is gone and no
        leader is left to drain this worker.
        """
        self._state.drain()
        with contextlib.suppress(RedisUnavailable):
            await self._membership.announce(self.record())
        deadline = time.monotonic() + self._settings.drain_timeout_s
        following = asyncio.create_task(self._readiness.follow())
        needed_s = polled_s = time.monotonic()  # last time it was needed, last poll for a router
        while not self._state.drained and time.monotonic() < min(deadline, needed_s + ALONE_S):
            await asyncio.sleep(0.05)
            if self._service.sessions:
                needed_s = time.monotonic()
            elif time.monotonic() - polled_s > POLL_S:
                needed_s = time.monotonic() if await self._has_router() else needed_s
                polled_s = time.monotonic()
        following.cancel()
        if self._state.drained:
            log.info("drained", loaded=len(self._state.experts.loaded))
        else:
            log.error("leaving undrained", reason=self._readiness.still_here())

    def _published_epoch(self) -> int:
        """The epoch of the table in Redis, asked for by another thread; 0 when Redis does not say."""
        asked = asyncio.run_coroutine_threadsafe(self._membership.table_epoch(), self._loop)
        try:
            return asked.result(REDIS_S)
        except (RedisUnavailable, TimeoutError):
            asked.cancel()
            return 0

    async def _has_router(self) -> bool:
        """Whether Redis knows a router; false when Redis does not answer."""
        try:
            async with asyncio.timeout(1):
                return bool(await self._membership.workers("router"))
        except (RedisUnavailable, TimeoutError):
            return False

    async def stop(self) -> None:
        with contextlib.suppress(RedisUnavailable):
            await self._membership.withdraw(self.record())
        await asyncio.to_thread(self._scrub.stop)
        await asyncio.to_thread(self._server.stop, GRACE_S)
        if self._native is not None:
            await asyncio.to_thread(self._native.stop)
        if self._p2p_registry is not None:
            self._p2p_registry.close()
        await self._membership.close()

    def record(self) -> WorkerRecord:
        """The content of the worker's lease."""
        counters = self._batcher.counters
        return WorkerRecord(
            worker_id=self._state.worker_id,
            role="expert",
            address=self._address,
            metrics_address=self._metrics_address,
            boot_id=self._state.boot_id,
            numerics_class=self._state.numerics_class,
            numerics=self._numerics.parts(),
            epoch=self._state.epoch,
            progress=counters.progress,
            draining=self._state.draining,
            stands_still=self._service.stands_still,
            refused=self._samples.reason,
            capacity=self._settings.capacity,
            fitting=self._fitting,
            host=self._settings.node,
            zone=self._settings.zone,
            loaded=len(self._state.experts.loaded),
            stats={
                "launches": counters.launches,
                "calls": counters.calls,
                "rows": counters.rows,
                "assignments": counters.assignments,
                "rejected": self._service.rejected_calls,
                "over_native": self._service.native_calls,
                "over_p2p": self._service.over_p2p,
            },
        )

    def _not_ready(self) -> str:
        return STANDS_STILL if self._service.stands_still else self._readiness.reason()

    def _pace(self) -> tuple[Hashable, float]:
        """A launch takes as long as all have until now, in proportion to its assignments; the first ones, any time."""
        counters, launch = self._batcher.counters, self._batcher.launch
        native = self._native.launch if self._native is not None else (0.0, 0)
        if counters.launches < FEWEST_LAUNCHES or not counters.assignments:
            return (launch, native), math.inf
        usual_s = max(launch[1], native[1]) * counters.busy_s / counters.assignments
        return (launch, native), max(self._least_s, SLOWER * usual_s)

    async def _stand_still(self, still: bool) -> None:
        self._service.stand_still(still)
        with contextlib.suppress(RedisUnavailable):
            await self._membership.announce(self.record())

    async def _compare_samples(self) -> None:
        while True:
            with contextlib.suppress(RedisUnavailable):
                if await self._samples.look(self._state.epoch):
                    await asyncio.Event().wait()
            await asyncio.sleep(LOOK_S)

    async def _tick(self) -> None:
        while self._service.broken is None:
            self._service.measure_load()
            if self._native is not None:
                self._native.log_endings()
            if self._native is None or self._native.launch_s < TICK_S:  # one that hangs must not look like progress
                await asyncio.to_thread(self._batcher.tick)
            await asyncio.sleep(TICK_S)
        raise self._service.broken
