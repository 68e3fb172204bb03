"""What processes of `bench.processes.cluster` make of their settings, for who predicts such a cluster."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.processes import best_link
from services.attention_worker.engine.engine import EngineLimits
from services.attention_worker.loading import open_model
from services.attention_worker.settings import AttentionSettings
from services.expert_worker.memory import experts_that_fit
from services.expert_worker.settings import ExpertSettings
from services.local.settings import LocalSettings
from services.membership.record import WorkerRecord
from services.process.cores import own_cores
from services.router.placement.room import default_replicas
from services.router.settings import RouterSettings

PREFIX_CACHE = "0"  # of attention workers: each prompt is computed


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSettings:
    """`limits`: of an attention worker; `fitting`: experts that fit the memory that is free now; `replicas`: of each
    expert, as the leader chooses them; `attention_cores`: for all attention workers together."""

    limits: EngineLimits
    attention: AttentionSettings
    expert: ExpertSettings
    router: RouterSettings
    fitting: int
    replicas: int
    attention_cores: int

    @classmethod
    def of(cls, model: Path, experts: int, attention: int = 1) -> ClusterSettings:
        """What a cluster with so many workers of a checkpoint has. Raises InvalidSetting or CheckpointError."""
        local = LocalSettings(model=model, attention=attention, expert=experts, link=best_link())
        environment = os.environ | local.worker_environment()
        settings = AttentionSettings.from_env(environment | {"CARACAL_PREFIX_CACHE": PREFIX_CACHE})
        router, expert = RouterSettings.from_env(environment), ExpertSettings.from_env(environment)
        opened = open_model(settings)
        fitting = experts_that_fit(opened.config, opened.dtype, torch.device("cpu"))
        records = [
            WorkerRecord(
                worker_id=f"expert-{number}",
                role="expert",
                address=f"{expert.reachable_host}:{50051 + number}",
                boot_id=str(number),
                capacity=expert.capacity,
                fitting=fitting,
            )
            for number in range(experts)
        ]
        items = opened.config.num_layers * opened.config.n_routed_experts
        return cls(
            limits=opened.limits(opened.pages),
            attention=settings,
            expert=expert,
            router=router,
            fitting=fitting,
            replicas=router.replicas or default_replicas(items, records),
            attention_cores=cores_for_attention(attention, experts, len(own_cores())),
        )


def cores_for_attention(attention: int, experts: int, cores: int) -> int:
    """With a core for each worker they have their own; else the model of one machine leaves one core to experts."""
    return attention if cores >= attention + experts else max(1, min(attention, cores - 1))
