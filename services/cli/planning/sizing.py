"""Workers, pages, limits and targets of a deployment, as the chart and a cluster's status name them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from services.planner.deployment import Candidate, Machine
from services.planner.memory import GPU_PERCENT, table_bytes
from services.planner.shape import BYTES
from services.planner.traffic import Traffic

# That one router core streams at half of its time: bench/results/gateway.json, 500 streams of 20 tokens a second.
ROUTER_TOKENS_S = 10_000
KV_TARGET = 80  # % of pages in use at which attention pods are added


@dataclass(frozen=True, slots=True)
class Sizing:
    """Counts of processes; `pages` and `max_running` sequences of one attention worker.

    `experts_fit`: experts of any layers that an expert worker has memory for. `prompt_devices`: of prompts alone.
    """

    routers: int
    attention_workers: int
    expert_workers: int
    prompt_devices: int
    replicas: int
    model_experts: int  # of all layers, each once
    experts_per_worker: int
    experts_fit: int
    pages: int
    max_running: int
    attention_gb: float
    expert_gb: float
    tables_gb: float  # in memory of each attention pod, or once for those of a machine
    launch_ms: float  # of one expert launch: the target at which expert pods are added

    def rows(self) -> list[tuple[str, str]]:
        found = [
            (
                "routers, attention workers, expert workers",
                f"{self.routers}, {self.attention_workers}, {self.expert_workers}",
            ),
            ("replicas of each expert", str(self.replicas)),
            ("experts on an expert worker", self._experts()),
            (
                "weights of an attention device, of an expert device",
                f"{self.attention_gb:.4g} GB, {self.expert_gb:.4g} GB",
            ),
            ("pages of 64 tokens on an attention worker", f"{self.pages:,}"),
            ("sequences that an attention worker runs at most", str(self.max_running)),
            (
                "targets of autoscaling",
                f"attention: {KV_TARGET} % of pages; experts: {self.launch_ms:.3g} ms in the queue",
            ),
        ]
        if self.prompt_devices:
            found.insert(1, ("devices of prompts alone, each with its share of the experts", str(self.prompt_devices)))
        if self.tables_gb:
            found.append(("n-gram tables, in memory of each attention pod", f"{self.tables_gb:.4g} GB"))
        return found

    def _experts(self) -> str:
        spare = self.experts_fit - self.experts_per_worker
        return f"{self.experts_per_worker:,}" + (f", with memory for {spare:,} more" if spare else "")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def sizing(m: Machine, one: Candidate, traffic: Traffic) -> Sizing:
    """Sizes of one deployment. Where experts are not apart, each device has an expert worker of its own."""
    shape, apart = m.shape, one.way == "separate"
    expert_workers = one.experts or one.attention
    replicas = m.replicas if apart else 1
    experts = shape.layers * shape.experts
    per_worker = math.ceil(experts * replicas / expert_workers)
    expert_bytes = shape.expert_params * BYTES[m.serving.expert_dtype]
    free = m.device.memory_bytes * GPU_PERCENT / 100 if apart else per_worker * expert_bytes
    return Sizing(
        routers=max(2 if one.workers > 1 else 1, math.ceil(one.tokens_s(traffic) / ROUTER_TOKENS_S)),
        attention_workers=one.workers,
        expert_workers=expert_workers,
        prompt_devices=one.prefill,
        replicas=replicas,
        model_experts=experts,
        experts_per_worker=per_worker,
        experts_fit=max(per_worker, int(free // expert_bytes)),
        pages=one.memory.pages,
        max_running=one.sequences,
        attention_gb=one.memory.dense_bytes / 1e9,
        expert_gb=per_worker * expert_bytes / 1e9,
        tables_gb=table_bytes(shape, one.serving) / 1e9,
        launch_ms=1e3 * one.step.layer.experts,
    )
