"""Workers, pages, limits and targets of a deployment, as the chart and a cluster's status name them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from services.planner.deployment import Candidate, Machine
from services.planner.shape import BYTES
from services.planner.traffic import Slo, Traffic

ROUTER_TOKENS_S = (
    20_000  # that one router core streams, with room: 25 us of CPU a token (bench/results/gateway.json) is twice that
)
ROUTER_STREAMS = 500
KV_TARGET = 80  # % of pages in use at which attention pods are added
REDUNDANT = 16  # more replicas in each layer, of its hottest experts (docs/performance.md, placement by measured load)


@dataclass(frozen=True, slots=True)
class Sizing:
    """Counts of processes; `pages` of one attention worker; `max_running` sequences of one."""

    routers: int
    attention_workers: int
    expert_workers: int
    experts_per_worker: int
    redundant_experts: int
    pages: int
    max_running: int
    waiting: int  # requests, all together, whose wait still leaves the first token in time
    attention_gb: float
    expert_gb: float
    launch_ms: float  # of one expert launch: the target at which expert pods are added

    def rows(self) -> list[tuple[str, str]]:
        return [
            (
                "routers, attention workers, expert workers",
                f"{self.routers}, {self.attention_workers}, {self.expert_workers}",
            ),
            (
                "experts on an expert worker, more replicas of hot ones in a layer",
                f"{self.experts_per_worker:,}, {self.redundant_experts}",
            ),
            (
                "weights of an attention device, of an expert device",
                f"{self.attention_gb:.4g} GB, {self.expert_gb:.4g} GB",
            ),
            ("pages of 64 tokens on an attention worker", f"{self.pages:,}"),
            ("sequences that an attention worker runs at most", str(self.max_running)),
            ("requests that may wait before others are rejected", str(self.waiting)),
            (
                "targets of autoscaling",
                f"attention: {KV_TARGET} % of pages; experts: {self.launch_ms:.3g} ms in the queue",
            ),
        ]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def sizing(m: Machine, one: Candidate, traffic: Traffic, slo: Slo) -> Sizing:
    """Sizes of one deployment. Where experts are not apart, each device has an expert worker of its own."""
    tp, shape = one.serving.tp, m.shape
    workers = one.attention // tp
    expert_workers = one.experts or one.attention
    total = shape.layers * shape.experts * (m.replicas if one.way == "separate" else 1)
    redundant = REDUNDANT if expert_workers >= 16 and shape.experts >= 64 else 0
    per_worker = math.ceil((total + redundant * shape.layers) / expert_workers)
    tokens, slack = one.tokens_s(traffic), slo.ttft_s - one.ttft_s
    streams = one.sequences * one.attention
    return Sizing(
        routers=max(
            2 if workers > 1 else 1, math.ceil(tokens / ROUTER_TOKENS_S), math.ceil(streams / ROUTER_STREAMS / 8)
        ),
        attention_workers=workers,
        expert_workers=expert_workers,
        experts_per_worker=per_worker,
        redundant_experts=redundant,
        pages=one.memory.pages,
        max_running=one.sequences * tp,
        waiting=max(workers, int(one.rate * (slack if math.isfinite(slack) else one.ttft_s))),
        attention_gb=one.memory.dense_bytes / 1e9,
        expert_gb=per_worker * shape.expert_params * BYTES[m.serving.expert_dtype] / 1e9,
        launch_ms=max(0.1, 1e3 * one.step.layer.experts),
    )
