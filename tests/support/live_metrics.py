"""The metric names that processes of each role export, from their own collectors over a tiny model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from prometheus_client import CollectorRegistry
from support.engine_driver import Driver
from support.fake_model import FakeModel
from support.tiny_checkpoint import make_checkpoint

from services.attention_worker import metrics as attention
from services.attention_worker.golden_check import GoldenCheck
from services.attention_worker.migration.stats import MigrationStats
from services.checkpoint.reader import Checkpoint
from services.checkpoint.scrub import ScrubCounters
from services.expert_worker import metrics as expert
from services.expert_worker.batcher import Batcher
from services.expert_worker.experts import Experts
from services.expert_worker.placement_state import PlacementState
from services.expert_worker.service import ExpertService
from services.membership.bad_records import BadRecords
from services.membership.redis import Membership
from services.process.loop_lag import LoopLag
from services.process.telemetry import show_redis
from services.router.dispatch.native_link import NativeStats
from services.router.dispatch.nccl_link import P2PStats
from services.router.dispatch.shadow_calls import ShadowStats
from services.router.dispatch.stats import DispatchStats
from services.router.placement.metrics import PlacementMetrics
from services.router.placement.shortage_reporter import ShortageReporter
from services.router.recording.metrics import RecordMetrics
from services.router.requests.metrics import RequestMetrics
from services.router.requests.shadow_answers import result_counter
from services.security.guard import Guard
from services.security.tls import NO_TLS
from services.transport.handshakes import FailedHandshakes

_SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "info": ("_info",)}


def names(registry: CollectorRegistry) -> Iterator[str]:
    """Yields the names of samples as queries write them, also of counters that have no sample yet."""
    for family in registry.collect():
        for suffix in _SUFFIXES.get(family.type, ("",)):
            yield family.name + suffix


def _router(folder: Path) -> CollectorRegistry:
    registry = RequestMetrics("tiny", CollectorRegistry()).registry
    membership = Membership("redis://127.0.0.1:1")
    ShortageReporter(membership).show(registry)
    membership.bad.show(registry)
    LoopLag(registry)
    PlacementMetrics().show(registry)
    RecordMetrics().show(registry)
    registry.register(result_counter())
    NO_TLS.show(registry)
    return registry


def _attention(folder: Path) -> CollectorRegistry:
    registry = CollectorRegistry()
    LoopLag(registry)
    registry.register(
        attention.AttentionMetrics(
            Driver(FakeModel()).engine,
            DispatchStats.of(2),
            attention.LinkStats(P2PStats(), NativeStats()),
            lambda: 1,
            lambda: 0,
            MigrationStats(),
            lambda: 0,
            ShadowStats(),
            GoldenCheck(None, {}, 0),
            ScrubCounters(),
        )
    )
    return registry


def _expert(folder: Path) -> CollectorRegistry:
    experts = Experts(Checkpoint.open(make_checkpoint(folder)), torch.float32)
    state = PlacementState(experts, "expert-0", "boot", "class")
    batcher = Batcher(experts.compute, experts.num_layers, experts.num_ffn)
    registry = CollectorRegistry()
    registry.register(expert.ExpertMetrics(batcher, state, ExpertService(state, batcher), ScrubCounters()))
    return registry


_ROLES: dict[str, Callable[[Path], CollectorRegistry]] = {
    "router": _router,
    "attention": _attention,
    "expert": _expert,
}


def registries(folder: Path) -> dict[str, CollectorRegistry]:
    """Returns each role's registry, over a model that is made in `folder`."""
    made = {role: make(folder) for role, make in _ROLES.items()}
    for role in ("attention", "expert"):
        Guard().show(made[role])
        made[role].register(FailedHandshakes(lambda: {"http request": 0}))
        BadRecords().show(made[role])
    for registry in made.values():
        show_redis(registry, lambda: True)
    return made


def exported(folder: Path) -> dict[str, set[str]]:
    """Returns the exported names by role."""
    return {role: set(names(registry)) for role, registry in registries(folder).items()}
