"""Plays traffic and faults on a simulated cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from services.planner.traffic import Slo
from services.simulator.autoscaler import Scaling
from services.simulator.cluster import SimulatedCluster
from services.simulator.deployment import Deployment
from services.simulator.faults import Fault
from services.simulator.generation import Generation
from services.simulator.outcomes import Outcomes, Summary
from services.simulator.routing import Routing
from services.simulator.virtual_time import VirtualLoop, run

DRAIN_S = 300.0  # after the last arrival, for answers that are not whole yet
LOOK_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """`seconds` of traffic. `scalings`: of roles that an autoscaler owns."""

    deployment: Deployment
    arrivals: Callable[[int], Iterable[Generation]]
    seconds: float
    routing: Routing = field(default_factory=Routing)
    faults: Sequence[Fault] = ()
    scalings: Mapping[str, Scaling] = field(default_factory=dict)
    skip: bool = True  # False: every step is an event of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What became of a scenario. Pod-seconds until the last arrival; `blocked_s`: while steps waited for experts;
    `prefix_queries`, `prefix_hits`: tokens of prompts that were looked up in caches, and that were there; `migrated`:
    sequences of draining workers whose pages all went along, `not_migrated`: those of which some were computed again;
    `upgraded`: pods that came back after an upgrade, within the traffic.
    """

    outcomes: Outcomes
    seconds: float
    steps: int
    preemptions: int
    tables: int
    experts_loaded: int
    rebalances: int
    blocked_s: float
    attention_pod_s: float
    expert_pod_s: float
    prefix_queries: int
    prefix_hits: int
    migrated: int
    not_migrated: int
    pages_moved: int
    upgraded: int

    def summary(self, slo: Slo, begin: float = 0.0) -> Summary:
        """What clients saw that came from `begin` on."""
        return self.outcomes.summary(begin, self.seconds, slo)


def play(scenario: Scenario, seed: int, progress: Callable[[float], None] = lambda _: None) -> Played:
    """Plays a scenario in virtual time; the same one with the same seed gives the same, to the last bit.

    `progress` gets the virtual time now and then.
    """

    async def main(loop: VirtualLoop) -> Played:
        return await _play(loop, scenario, seed, progress)

    return run(main)


async def _play(loop: VirtualLoop, scenario: Scenario, seed: int, progress: Callable[[float], None]) -> Played:
    cluster = SimulatedCluster(
        scenario.deployment, scenario.routing, loop, seed, skip=scenario.skip, until=scenario.seconds
    )
    cluster.autoscale(scenario.scalings)
    for fault in scenario.faults:
        cluster.strike(fault)
    shown = 0.0
    edge_s = scenario.deployment.timing.edge_s
    for generation in scenario.arrivals(seed):
        if (pause_s := generation.arrived + edge_s - loop.time()) > 0:
            await asyncio.sleep(pause_s)
        if cluster.error is not None:
            raise cluster.error
        if loop.time() >= shown:
            progress(loop.time())
            shown = loop.time() + LOOK_S
        cluster.serve(generation)
    if loop.time() < scenario.seconds:
        await asyncio.sleep(scenario.seconds - loop.time())
    cluster.count()
    upgraded = cluster.upgraded
    pods_s = cluster.attention.pods.pod_seconds, cluster.experts.pods.pod_seconds
    if served := cluster.served():
        await asyncio.wait(served, timeout=DRAIN_S)
    if cluster.error is not None:
        raise cluster.error
    leader, done = cluster.experts.leader, cluster.attention.done()
    return Played(
        outcomes=cluster.outcomes,
        seconds=scenario.seconds,
        steps=done.steps,
        preemptions=done.preemptions,
        tables=leader.tables,
        experts_loaded=leader.loaded,
        rebalances=leader.rebalances,
        blocked_s=cluster.experts.blocked_s,
        attention_pod_s=pods_s[0],
        expert_pod_s=pods_s[1],
        prefix_queries=done.queried,
        prefix_hits=done.hit,
        migrated=done.migrated,
        not_migrated=done.computed,
        pages_moved=done.pages,
        upgraded=upgraded,
    )
