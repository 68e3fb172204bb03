"""Assembles one attention worker (engine thread, dispatcher, gRPC server, lease), and drains and stops it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import uuid
from collections.abc import Coroutine, Sequence

import structlog
import torch
from prometheus_client import CollectorRegistry

from services.attention_worker.accusations import Accusations
from services.attention_worker.attempts import STANDS_STILL
from services.attention_worker.engine.delivery import LoopDelivery
from services.attention_worker.engine.engine import Engine
from services.attention_worker.golden_check import golden_check_of
from services.attention_worker.grammars import GrammarCompiler
from services.attention_worker.loading import Loaded, Servable
from services.attention_worker.metrics import AttentionMetrics, LinkStats
from services.attention_worker.migration.limits import HANDOVER_S
from services.attention_worker.migration.migration import Migration
from services.attention_worker.migration.stats import MigrationStats
from services.attention_worker.p2p_sizes import p2p_options
from services.attention_worker.page_reporter import PageReporter
from services.attention_worker.recent_layers import RecentLayers
from services.attention_worker.server import AttentionServer
from services.attention_worker.service import AttentionService, Identity
from services.attention_worker.settings import AttentionSettings
from services.attention_worker.table_check import TableCheck
from services.attention_worker.table_follower import TableFollower
from services.attention_worker.weights_agreement import WeightsAgreement
from services.attention_worker.weights_scrub import scrub
from services.checkpoint.scrub import ScrubCounters
from services.membership.record import WorkerRecord
from services.membership.redis import Membership, RedisUnavailable
from services.process.addresses import authority
from services.process.cores import run_on
from services.process.loop_lag import LoopLag
from services.process.metrics_server import serve_metrics
from services.process.open_files import open_files
from services.process.own_health import OwnHealth
from services.process.standstill import Standstill
from services.process.telemetry import show_redis
from services.process.thread_name import name_this_thread
from services.process.thread_watch import COMPILES_S, NOWHERE_S
from services.router.dispatch.connect import connector, shadow_options
from services.router.dispatch.moe_dispatcher import MoEDispatcher
from services.router.dispatch.native_fanout import NativeOptions
from services.router.dispatch.native_link import NativeStats
from services.security.channels import Dialer
from services.security.cluster_key import warn_without
from services.security.guard import Guard
from services.security.identity import ATTENTION
from services.transport.handshakes import watch_failed_handshakes
from services.transport.native_extension import unavailable
from services.transport.spinning import spin_s, usable_cores

log = structlog.get_logger(__name__)

SLOWER = 4.0  # times what is known of a step, beyond which its thread gets nowhere
MOVE_S = 5.0  # for the endings of evicted sequences to be delivered, and for the engine's thread to end


class AttentionWorker:
    """One attention worker, built inside its event loop. Call `start`, then `drain` and `stop`, each once."""

    _announcing: asyncio.Task[None] | None = None

    def __init__(self, settings: AttentionSettings, loaded: Loaded[Servable], ranks: Sequence[int] = ()) -> None:
        config, self._ranks = loaded.model.config, ranks  # the processes of the others
        self._settings, self._numerics, self._regions = settings, loaded.numerics, loaded.regions
        p2p = p2p_options(settings, config, loaded.model.device)
        spins_s = spin_s(settings.spin_us, usable_cores(settings.core_set))
        native = NativeOptions(p2p.dtype, p2p.dispatch_dtype, NativeStats(), spins_s)
        self._identity = Identity(
            worker_id=settings.identity, boot_id=uuid.uuid4().hex, numerics_class=loaded.numerics.name
        )
        self._p2p_stats, self._native_stats = p2p.stats, native.stats
        key = settings.open_cluster_key()
        tls = settings.open_tls()
        warn_without(key)
        if not settings.link and (reason := unavailable(tls.given)):
            log.info("rows travel over gRPC", reason=reason)
        dialer = Dialer(key, ATTENTION, tls)
        self._guard = Guard(key, self._identity.boot_id, tls)
        self._membership = Membership(settings.redis, settings.cluster, key, settings.redis_next)
        self._accusations = Accusations(self._membership)
        self._dispatcher = MoEDispatcher(
            connector(settings.chosen_link, p2p, native, dialer),
            config,
            device=loaded.model.device,
            dispatch_dtype=p2p.dispatch_dtype,
            overlap=settings.overlap,
            expert_wait_s=settings.expert_wait_s,
            refresh=lambda: self._tables.poll_now(),
            hedging=settings.hedging,
            shadow=shadow_options(settings.shadow_share, p2p.dispatch_dtype, dialer, self._accusations.convict),
        )
        self._recent = RecentLayers(self._dispatcher.stats, time.monotonic())
        self._loop, self._golden = asyncio.get_running_loop(), golden_check_of(settings, loaded)
        self._delivery = LoopDelivery(self._loop)
        self._engine = Engine(
            loaded.model,
            self._dispatcher,
            loaded.limits,
            config.eos_ids,
            numerics_class=loaded.numerics.name,
            deliver=self._delivery,
            between_steps=self._golden,
        )
        self._engine_ended = asyncio.Event()
        self._thread = threading.Thread(target=self._run_engine, name="engine", daemon=True)
        self._grammars = GrammarCompiler(settings.model, config.vocab_size, config.eos_ids)
        self._migration = Migration(self._engine, dialer) if settings.kv_migration else None
        self._service = AttentionService(
            self._engine,
            config.vocab_size,
            self._identity,
            self._dispatcher.apply,
            self._grammars,
            TableCheck(self._membership, key.given),
            self._migration,
        )
        self._server = AttentionServer(self._service, self._guard)
        self._tables, self._agreement = TableFollower(self._membership, self._service), self._agreement_of(loaded)
        self._registry, self._scrubs = CollectorRegistry(), ScrubCounters()
        self._lag = LoopLag(self._registry)
        self._address = self._metrics_address = ""

    def _agreement_of(self, loaded: Loaded[Servable]) -> WeightsAgreement | None:
        """What compares the weights with the other workers'; None for a model that has read none."""
        if loaded.weights is None:
            return None

        def notify(reason: str) -> None:
            self._service.refused = reason

        numerics = loaded.numerics
        return WeightsAgreement(
            self._membership, self._identity.boot_id, numerics.name, numerics.table_name, loaded.weights, notify
        )

    async def start(self) -> None:
        """Starts the engine and opens the ports. Raises OSError when a port is taken."""
        settings = self._settings
        self._thread.start()
        if self._agreement is not None:
            with contextlib.suppress(RedisUnavailable):  # it is compared later: no worker joins until then
                await self._agreement.compare()
        port = await self._server.start(settings.host, settings.port)
        self._service.on_ready_change = self._ready_changed
        registry = self._registry
        links = LinkStats(self._p2p_stats, self._native_stats)
        service = self._service
        registry.register(
            AttentionMetrics(
                self._engine,
                self._dispatcher.stats,
                links,
                lambda: service.epoch,
                lambda: service.busy_rejections,
                self._migration.stats if self._migration is not None else MigrationStats(),
                lambda: self._dispatcher.suspects,
                self._dispatcher.shadow_stats,
                self._golden,
                self._scrubs,
            )
        )
        show_redis(registry, lambda: self._membership.reachable)
        self._membership.bad.show(registry)
        self._guard.show(registry)
        if self._guard.tls.given:
            watch_failed_handshakes(registry)
        own_health = OwnHealth(Dialer(tls=self._guard.tls), ATTENTION, settings.host, port)
        metrics_port = serve_metrics(settings.host, settings.metrics_port, registry, self._not_ready, own_health)
        self._address = authority(settings.reachable_host, port)
        self._metrics_address = authority(settings.reachable_host, metrics_port)
        log.info(
            "attention worker listens",
            worker_id=self._identity.worker_id,
            address=self._address,
            metrics=self._metrics_address,
            numerics_class=self._identity.numerics_class,
            kv_bytes=self._engine.cache.bytes,
            open_files=open_files(),
        )

    def background(self) -> tuple[Coroutine[None, None, None], ...]:
        """The tasks to run beside the server: the lease, polling for newer tables, watches of the engine and loop, and
        the hint of cached pages.
        """
        tasks = [
            self._membership.advertise(self.record),
            self._tables.run(),
            self._watch_engine(),
            self._lag.watch(),
            Standstill("engine", lambda: self._thread.native_id, self._stand_still, self._ranks, pace=self._pace).run(),
            scrub(self._regions, self._settings.scrub_s, self._scrubs),
            self._accusations.run(self._dispatcher.look_closely),
            self._golden.run(self._membership.quarantine, self._identity.boot_id, self._settings.scrub_s > 0),
        ]
        if self._agreement is not None:
            tasks.append(self._agreement.run(lambda: self._service.epoch > 0))
        if self._engine.limits.prefix_cache:
            identity, pages = self._identity, self._engine.cache.pages
            tasks.append(PageReporter(self._membership.pages, identity.worker_id, identity.boot_id, pages).run())
        return tuple(tasks)

    async def drain(self) -> None:
        """Evicts running sequences when another worker can continue them, else after the drain timeout.

        Then waits until other workers have fetched their pages.
        """
        began = time.monotonic()
        await self._service.drain(move=False)
        await self._announce()
        if await self._others() or not await self._empties(self._settings.drain_timeout_s):
            await self._service.drain(move=True)
            await self._empties(MOVE_S)
            if self._migration is not None:
                left_s = began + self._settings.drain_timeout_s - time.monotonic()
                await self._migration.server.handed_over(max(HANDOVER_S, left_s), self._others)

    async def stop(self) -> None:
        """Stops engine, server and lease, also after a `start` that failed."""
        if self._metrics_address:
            with contextlib.suppress(RedisUnavailable):
                await self._membership.withdraw(self.record())
        self._engine.stop()
        await self._server.stop(MOVE_S)
        # A step that waits for experts may take longer; the thread is a daemon and ends with the process.
        await asyncio.to_thread(self._thread.join, MOVE_S)
        self._dispatcher.close()
        self._delivery.close()
        self._grammars.close()
        await self._membership.close()

    async def _stand_still(self, still: bool) -> None:
        await self._service.stand_still(still)
        await self._announce()

    def _pace(self) -> tuple[int, float]:
        """A layer at least is computed in what the whole step takes."""
        counters, on_gpu = self._engine.counters, self._engine.cache.tensors[0].device.type != "cpu"
        least_s = COMPILES_S if on_gpu else NOWHERE_S
        return counters.progress + self._dispatcher.progress, max(least_s, SLOWER * counters.step_s)

    async def _ready_changed(self, ready: bool) -> None:
        await self._server.set_ready(ready)
        self._announcing = asyncio.create_task(self._announce())  # routers are not to wait for the next renewal

    async def _announce(self) -> None:
        with contextlib.suppress(RedisUnavailable):
            await self._membership.announce(self.record())

    def _run_engine(self) -> None:
        name_this_thread(self._thread.name)
        run_on(self._settings.core_set)
        if self._settings.kernel_threads:
            torch.set_num_threads(self._settings.kernel_threads)  # OpenMP keeps this number per thread
        try:
            self._engine.run()
        finally:
            self._loop.call_soon_threadsafe(self._engine_ended.set)

    async def _watch_engine(self) -> None:
        await self._engine_ended.wait()
        raise RuntimeError("the engine's thread has ended")

    def record(self) -> WorkerRecord:
        """The content of the worker's lease."""
        return WorkerRecord(
            worker_id=self._identity.worker_id,
            role="attention",
            address=self._address,
            metrics_address=self._metrics_address,
            boot_id=self._identity.boot_id,
            numerics_class=self._identity.numerics_class,
            numerics=self._numerics.parts(),
            epoch=self._service.epoch,
            progress=self._engine.counters.progress,
            draining=self._service.draining,
            stands_still=self._service.stands_still,
            refused=self._service.refused or (self._agreement.damaged if self._agreement is not None else ""),
            stats=self._stats(),
            layers=self._recent.read(time.monotonic()),
        )

    def _not_ready(self) -> str:
        if self._service.draining:
            scheduler = self._engine.scheduler
            running = len(scheduler.running) + len(scheduler.waiting) + self._service.preparing
            return f"draining: {running} sequences are still here" if running else "draining"
        if self._service.stands_still:
            return STANDS_STILL
        return "" if self._service.epoch else self._service.refused or "no placement yet"

    def _stats(self) -> dict[str, float]:
        scheduler, counters = self._engine.scheduler, self._engine.counters
        sums = self._dispatcher.stats.total()
        layers = max(1, sums.layer_calls)
        return {
            "running": len(scheduler.running),
            "waiting": len(scheduler.waiting),
            "kv_pages_used": scheduler.pages.used,
            "kv_pages_total": scheduler.pages.total,
            "zero_share": 1 - sums.ffn_choices / sums.choices if sums.choices else 0.0,
            "expert_differences": self._dispatcher.shadow_stats.differences,
            "exposed_s_per_layer": sums.exposed_s / layers,
            "round_trip_s_per_layer": sums.round_trip_s / layers,
            "prompt_tokens": counters.prompt_tokens,
            "generation_tokens": counters.generation_tokens,
            "preemptions": scheduler.preemptions,
            "p2p_calls": self._p2p_stats.calls,
            "native_calls": self._native_stats.calls,
        }

    async def _others(self) -> bool:
        """Whether another worker of this numerics class could continue the sequences."""
        try:
            async with asyncio.timeout(2):
                workers = await self._membership.workers("attention")
        except (RedisUnavailable, TimeoutError):
            return False
        return any(
            one.boot_id != self._identity.boot_id
            and not one.draining
            and one.epoch > 0
            and one.numerics_class == self._identity.numerics_class
            for one in workers
        )

    async def _empties(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self._busy and time.monotonic() < deadline:  # noqa: ASYNC110 - another thread's state
            await asyncio.sleep(0.02)
        return not self._busy

    @property
    def _busy(self) -> bool:
        return self._engine.busy or self._service.preparing > 0
