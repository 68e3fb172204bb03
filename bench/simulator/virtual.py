"""The cluster of this machine in virtual time: attention workers on their cores, expert workers that share one.

Whatever the real processes read from their settings is read from the same settings here.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.cluster_settings import ClusterSettings
from bench.simulator.schedules import Schedule
from services.planner.device import Device, Link
from services.planner.one_machine import SERVING, shared_core
from services.planner.shape import Shape
from services.planner.traffic import Slo
from services.simulator.deployment import Deployment, Timing
from services.simulator.faults import Fault
from services.simulator.generation import Generation
from services.simulator.outcomes import Summary
from services.simulator.simulation import Scenario, play

EXPERT_BYTES_S = 1e9  # from the page cache, with their check against golden vectors
WARM_S = 0.5  # between requests one at a time
SLO = Slo(ttft_s=1.0, itl_s=0.1)
NEVER_S = 1e6  # nobody starts a killed worker again


def deployment(
    shape: Shape, device: Device, link: Link, real: ClusterSettings, workers: tuple[int, int], edge_s: float
) -> Deployment:
    """`workers`: of attention and of experts; `edge_s`: of a request, outside workers."""
    attention, experts = workers
    limits = real.limits
    return Deployment(
        shape=shape,
        device=device,
        expert_device=shared_core(device, experts),
        link=link,
        serving=SERVING,
        attention=attention,
        attention_cores=real.attention_cores,
        experts=experts,
        pages=limits.num_pages,
        page_size=limits.page_size,
        max_running=limits.max_running,
        max_batch_tokens=limits.max_batch_tokens,
        max_itl_s=limits.max_itl_s,
        slowdown=limits.slowdown,
        prefix_cache=limits.prefix_cache,
        kv_migration=real.attention.kv_migration,
        expert_wait_s=real.attention.expert_wait_s,
        queue_timeout_s=real.router.queue_timeout_s,
        replicas=real.router.replicas,
        extra=real.router.redundant_experts,
        balance_gb_per_minute=real.router.rebalance_gb_per_minute,
        capacity=real.expert.capacity,
        fitting=real.fitting,
        one_machine=True,
        timing=Timing(pod_s=NEVER_S, expert_bytes_s=EXPERT_BYTES_S, edge_s=edge_s),
    )


def simulate(shaped: Deployment, schedule: Schedule, requests: Sequence[Generation], first: Sequence[int]) -> Summary:
    """Plays the same requests, after some of these lengths one at a time, as the real cluster has had them: what its
    scheduler knows of a step's cost comes from them."""
    begin = WARM_S * len(first)
    fresh = [Generation(n, WARM_S * n, prompt, 2, "before") for n, prompt in enumerate(first)]
    fresh += [
        Generation(len(first) + one.number, begin + one.arrived, one.prompt, one.answer, one.caller) for one in requests
    ]
    faults = []
    if schedule.dies == "expert":
        faults.append(Fault(at=begin + schedule.dies_at, kind="expert pod dies", ordinal=shaped.experts - 1))
    elif schedule.dies == "attention":
        faults.append(Fault(at=begin + schedule.dies_at, kind="attention pod dies", ordinal=shaped.attention - 1))
    seconds = begin + schedule.seconds
    played = play(Scenario(deployment=shaped, arrivals=lambda _: fresh, seconds=seconds, faults=faults), 0)
    return played.summary(SLO, begin)
