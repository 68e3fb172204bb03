"""`python -m services.router`: one router process, with the gateway's two servers and the placement loop."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
import uuid
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog
import uvloop
from prometheus_client import CollectorRegistry

from services.checkpoint.config import ModelConfig
from services.checkpoint.config_file import expert_bytes, read_config
from services.checkpoint.errors import CheckpointError
from services.membership.overview import Overview
from services.membership.record import WorkerRecord
from services.membership.redis import Membership, RedisUnavailable
from services.process import tracing
from services.process.addresses import authority
from services.process.garbage import keep_what_is_made
from services.process.lifecycle import exit_with_error, serve_until_signal
from services.process.loop_lag import LoopLag
from services.process.open_files import open_files, raise_open_files
from services.process.settings import InvalidSetting
from services.process.start_times import StartTimes
from services.process.telemetry import configure_logging, show_redis
from services.router.access.control import Access
from services.router.console.console import Console
from services.router.gateway.context import GatewayContext
from services.router.gateway.responses_api.store import ResponseStore
from services.router.introductions import Introductions
from services.router.placement.balance_budget import BalanceBudget
from services.router.placement.kubernetes_events import KubernetesEvents
from services.router.placement.leader import PlacementLeader
from services.router.placement.plan import Shape
from services.router.placement.pod_removal import PodRemoval
from services.router.placement.shortage_reporter import ShortageReporter
from services.router.recording.metrics import RecordMetrics
from services.router.recording.record_file import RecordFile
from services.router.recording.recorder import Recorder, Source
from services.router.requests.admission import AdmissionLimits
from services.router.requests.assets import ModelAssets
from services.router.requests.attention_workers import AttentionWorkerPool
from services.router.requests.choice_stream import ServingContext
from services.router.requests.directory import RouterCount, list_attention_workers
from services.router.requests.metrics import RequestMetrics
from services.router.requests.model_files import AssetError
from services.router.requests.ready_probe import ReadyProbe
from services.router.requests.shadow_answers import ShadowAnswers
from services.router.requests.silent_workers import StallTimeouts
from services.router.servers import RouterServers
from services.router.settings import RouterSettings
from services.security.channels import PLAIN, Dialer
from services.security.cluster_key import ClusterKey, warn_without
from services.security.identity import ROUTER
from services.security.sealed_calls import DAMAGED_MESSAGES
from services.security.tls import Tls

log = structlog.get_logger(__name__)

# A placement is planned on a thread; the event loop waits for the GIL at most so long each time.
GIL_SWITCH_S = 0.0005
ROUTERS_AGAIN_S = 10.0  # other routers are asked again who they are, for they have no connection that would end


@dataclass(frozen=True, slots=True)
class Others:
    """How this router reaches the cluster's other processes."""

    key: ClusterKey
    membership: Membership
    tls: Tls
    dialer: Dialer
    introductions: Introductions
    routers: Introductions  # of other routers, which are asked at the port of their clients

    @classmethod
    def of(cls, settings: RouterSettings) -> Others:
        key = settings.open_cluster_key()
        warn_without(key)
        membership = Membership(settings.redis, settings.cluster, key, settings.redis_next)
        tls = settings.open_tls()
        dialer = Dialer(key, ROUTER, tls)
        routers = Introductions(PLAIN, membership.bad, ROUTERS_AGAIN_S)
        return cls(key, membership, tls, dialer, Introductions(dialer, membership.bad), routers)


def placement_leader(
    settings: RouterSettings,
    candidate: str,
    others: Others,
    shortages: ShortageReporter,
    config: ModelConfig,
    bytes_per_expert: int,
) -> PlacementLeader:
    return PlacementLeader(
        others.membership,
        candidate,
        shape_of(settings, config),
        shortages,
        BalanceBudget(1e9 * settings.rebalance_gb_per_minute, bytes_per_expert, time.monotonic())
        if settings.rebalance_gb_per_minute
        else None,
        dialer=others.dialer,
        introductions=others.introductions,
    )


async def serve(
    settings: RouterSettings,
    assets: ModelAssets,
    access: Access,
    config: ModelConfig,
    bytes_per_expert: int,
    record_file: RecordFile | None = None,
    times: StartTimes | None = None,
) -> None:
    boot_id, others = uuid.uuid4().hex, Others.of(settings)
    membership = others.membership
    events = KubernetesEvents(settings.identity, settings.expert_set) if settings.events else None
    shortages = ShortageReporter(membership, events.notify if events else None)
    leader = placement_leader(settings, f"{settings.identity}/{boot_id}", others, shortages, config, bytes_per_expert)
    attention_workers = attention_worker_pool(settings, others, assets)
    metrics = RequestMetrics(assets.name, CollectorRegistry())
    show_redis(metrics.registry, lambda: membership.reachable)
    lag = LoopLag(metrics.registry)
    metrics.registry.register(DAMAGED_MESSAGES)
    for shown in (membership.bad, others.tls, shortages, leader.metrics):
        shown.show(metrics.registry)
    serving = ServingContext(assets, attention_workers, metrics, limits_of(settings))
    recorder, shadow = answer_readers(settings, serving, membership, record_file)
    access.routers = lambda: attention_workers.routers
    probe = ready_probe(settings, serving, shortages)
    responses = stored_responses(settings, others.key)
    console = console_of(settings, membership)
    gateway = GatewayContext(
        serving,
        lambda: shortages.known,
        partial(Overview.read, membership),
        responses,
        access,
        console,
        (lambda: others.key.signs("salt")) if others.key.given else (lambda: b""),
        lambda: None if attention_workers.cold else probe.reason,
        (settings.identity, boot_id),
    )
    servers = await listening(settings, gateway)
    record = partial(record_of, settings, servers, leader, boot_id)
    log_start(times)

    async def drain() -> None:
        await leader.resign()
        await servers.stop(settings.drain_timeout_s)

    try:
        loops = (leader.run(), membership.advertise(record), servers.watch())
        asked_for = [console.observer.watch(leader.changed)] if console else []
        if settings.lost_pods:
            asked_for.append(pod_removal(settings.lost_pods, leader).run())
        await serve_until_signal(drain, *loops, lag.watch(), probe.run(), access.watch(), shadow.run(), *asked_for)
    finally:
        with contextlib.suppress(RedisUnavailable):
            await membership.withdraw(record())
        await others.routers.close()
        await membership.close()
        await responses.close()
        if recorder is not None:
            await asyncio.to_thread(recorder.close)


def log_start(times: StartTimes | None) -> None:
    if times is not None:
        times.reached("listening")
        log.info("started", **times.parts)


def limits_of(settings: RouterSettings) -> AdmissionLimits:
    return AdmissionLimits(queue_timeout_s=settings.queue_timeout_s, max_sequences=settings.max_sequences)


def pod_removal(pods: str, leader: PlacementLeader) -> PodRemoval:
    def living() -> set[str]:
        return {record.worker_id for registry in leader.registries.values() for record in registry.known()}

    return PodRemoval(pods, lambda: leader.leading, living)


async def listening(settings: RouterSettings, gateway: GatewayContext) -> RouterServers:
    """The servers, at their ports. Ends the process where one cannot listen."""
    servers = RouterServers(gateway, settings.origins)
    try:
        admin_at = settings.admin_host, settings.admin_port
        await servers.start(settings.host, settings.port, settings.grpc_port, *admin_at)
    except (OSError, RuntimeError) as error:
        exit_with_error(str(error))
    http, rpc = authority(settings.host, servers.http_port), authority(settings.host, servers.grpc_port)
    admin = authority(settings.admin_host, servers.admin_port)
    log.info("router listens", http=http, grpc=rpc, admin=admin, open_files=open_files())
    return servers


def record_of(settings: RouterSettings, servers: RouterServers, leader: PlacementLeader, boot_id: str) -> WorkerRecord:
    """The content of the router's lease."""
    return WorkerRecord(
        worker_id=settings.identity,
        role="router",
        address=authority(settings.reachable_host, servers.grpc_port),
        metrics_address=authority(settings.reachable_admin_host, servers.admin_port),
        boot_id=boot_id,
        epoch=leader.epoch,
        stats={"leading": float(leader.leading)},
    )


def attention_worker_pool(settings: RouterSettings, others: Others, assets: ModelAssets) -> AttentionWorkerPool:
    return AttentionWorkerPool(
        partial(list_attention_workers, others.membership, others.introductions),
        max_model_len=assets.max_model_len,
        cold_start_s=settings.cold_start_s,
        timeouts=StallTimeouts(progress_s=settings.progress_timeout_s),
        count_routers=RouterCount(others.membership, others.routers, settings.identity).read,
        read_hints=others.membership.pages.read,
        dialer=others.dialer,
    )


def recorder_of(serving: ServingContext, file: RecordFile | None) -> Recorder | None:
    """What writes answers to the file; None without one. Its metrics are there in either case."""
    metrics = RecordMetrics()
    metrics.show(serving.metrics.registry)
    if file is None:
        return None
    source = Source(
        model=serving.assets.name,
        directory=serving.assets.directory.resolve(),
        parts=serving.attention_workers.parts_of,
    )
    return Recorder(file, source, metrics)


def answer_readers(
    settings: RouterSettings, serving: ServingContext, membership: Membership, file: RecordFile | None
) -> tuple[Recorder | None, ShadowAnswers]:
    """What reads answers as they are given: to write them to the file, if there is one, and to compute some again."""
    recorder = serving.recorder = recorder_of(serving, file)
    shadow = serving.shadow = ShadowAnswers(serving.attention_workers, membership.quarantine, settings.shadow_answers)
    shadow.show(serving.metrics.registry)
    return recorder, shadow


def open_record(settings: RouterSettings) -> RecordFile | None:
    """Opens the file of the record; None without one. Raises InvalidSetting."""
    if not settings.record:
        return None
    try:
        return RecordFile(Path(settings.record), settings.record_mb * 10**6, settings.record_files)
    except OSError as error:
        raise settings.invalid("record", settings.record, error.strerror or str(error)) from None


def ready_probe(settings: RouterSettings, serving: ServingContext, shortages: ShortageReporter) -> ReadyProbe:
    return ReadyProbe(
        serving.attention_workers,
        lambda: serving.metrics.each_token.tokens,
        settings.ready_probe_s,
        lambda: bool(shortages.known and shortages.known.lost),
    )


def stored_responses(settings: RouterSettings, key: ClusterKey) -> ResponseStore:
    return ResponseStore(
        settings.redis,
        settings.cluster,
        ttl_s=settings.response_ttl_s,
        memory_mb=settings.response_memory_mb,
        key=key,
        next_url=settings.redis_next,
    )


def shape_of(settings: RouterSettings, config: ModelConfig) -> Shape:
    """The experts to place."""
    return Shape(
        layers=config.num_layers,
        experts=config.n_routed_experts,
        replicas=settings.replicas,
        extra=settings.redundant_experts,
    )


def console_of(settings: RouterSettings, membership: Membership) -> Console | None:
    """The web console; None when it is switched off."""
    if not settings.console:
        return None
    return Console.of(membership, settings.identity, settings.console_token, settings.console_scale_command)


def main() -> None:
    times = StartTimes()
    try:
        settings = RouterSettings.from_env()
        configure_logging("router", settings.identity, settings.log_level)
        tracing.configure("router", settings.identity)
        raise_open_files()
        access = Access(Path(settings.api_keys_file) if settings.api_keys_file else None)
        config, quantization = read_config(settings.model / "config.json")
        record_file = open_record(settings)
        assets = ModelAssets.load(
            settings.model, settings.served_name, sampling_defaults=settings.generation_config == "auto"
        )
    except (InvalidSetting, AssetError, CheckpointError, ValueError) as error:
        exit_with_error(str(error))
    generation = assets.generation
    log.info("generation_config.json", eos_token_id=sorted(assets.eos_ids), **generation.defaults.given())
    if generation.not_applied:
        log.warning("generation_config.json has fields that are not applied", fields=list(generation.not_applied))
    sys.setswitchinterval(GIL_SWITCH_S)
    keep_what_is_made()
    times.reached("assets")
    try:
        uvloop.run(serve(settings, assets, access, config, expert_bytes(config, quantization), record_file, times))
    finally:
        tracing.shutdown()


if __name__ == "__main__":
    main()
