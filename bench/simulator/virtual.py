"""The cluster of this machine in virtual time: one attention worker, expert workers that share a core."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bench.simulator.schedules import Schedule
from services.planner.device import Device, Link
from services.planner.one_machine import SERVING
from services.planner.shape import Shape
from services.planner.traffic import Slo
from services.simulator.deployment import Deployment, Timing
from services.simulator.faults import Fault
from services.simulator.generation import Generation
from services.simulator.outcomes import Summary
from services.simulator.simulation import Scenario, play

CACHED_TOKENS, PAGE_TOKENS = 32768, 64  # as an attention worker on a CPU has them by itself
EXPERT_BYTES_S = 1e9  # from the page cache, with their check against golden vectors
WARM_S = 0.5  # between requests one at a time
SLO = Slo(ttft_s=1.0, itl_s=0.1)
NEVER_S = 1e6  # nobody starts a killed worker again


def deployment(shape: Shape, device: Device, link: Link, experts: int, edge_s: float) -> Deployment:
    """`edge_s`: of a request, outside workers."""
    shared = replace(
        device,
        memory_bytes_s=device.memory_bytes_s / experts,
        flops={dtype: peak / experts for dtype, peak in device.flops.items()},
    )
    return Deployment(
        shape=shape,
        device=device,
        expert_device=shared,
        link=link,
        serving=SERVING,
        attention=1,
        experts=experts,
        pages=CACHED_TOKENS // PAGE_TOKENS,
        page_size=PAGE_TOKENS,
        max_batch_tokens=256,
        max_itl_s=0.2,
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
    if schedule.dies_at:
        faults.append(Fault(at=begin + schedule.dies_at, kind="expert pod dies", ordinal=shaped.experts - 1))
    seconds = begin + schedule.seconds
    played = play(Scenario(deployment=shaped, arrivals=lambda _: fresh, seconds=seconds, faults=faults), 0)
    return played.summary(SLO, begin)
