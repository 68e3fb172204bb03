"""Runs schedules on a cluster under traffic. Each fault begins at its own time, whatever the others do."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from threading import Lock

from faults.asking import Question
from faults.cluster import FaultyCluster, wait_for
from faults.kinds import KINDS, choices
from faults.network import REDIS, role_of
from faults.outcome import Happened, Outcome
from faults.schedule import Planned, hits_leader, overlapping, schedule
from faults.traffic import Traffic

BEFORE, AFTER = 40, 80  # tokens of all streams, before the first fault and behind the last one
CALM_S = 12.0  # of traffic without a fault
LEADER_S = 10.0  # in which some router leads


class Unmendable(Exception):
    """The cluster does not become whole again, even without any fault."""


@dataclass(frozen=True, slots=True)
class Mix:
    """Of what schedules are made: so many faults each, of these kinds, and one of each kind of `also`, which are among
    them, besides."""

    faults: int = 2
    kinds: Sequence[str] = tuple(KINDS)
    also: Sequence[str] = ()


class Performance:
    """One schedule's faults at one cluster. `without_effect`, `stuck`: what was found of them."""

    def __init__(self, cluster: FaultyCluster, planned: Sequence[Planned]) -> None:
        self._cluster, self._planned = cluster, planned
        self._locks = {node: Lock() for one in planned for node in one.nodes}
        self.happened: list[Happened] = []
        self.without_effect: list[str] = []
        self.stuck: list[str] = []

    def perform(self) -> None:
        """Returns when all faults are over."""
        if not self._planned:
            return
        begin = time.monotonic()
        with ThreadPoolExecutor(len(self._planned)) as pool:
            running: list[tuple[Planned, Future[None]]] = [
                (one, pool.submit(self._perform, one, begin)) for one in self._planned
            ]
        for planned, future in running:
            if (error := future.exception()) is not None:
                self.stuck.append(f"{planned.kind} at {planned.target}: {said(error)}")

    def _perform(self, planned: Planned, begin: float) -> None:
        time.sleep(max(0.0, begin + planned.at_s - time.monotonic()))
        with ExitStack() as held:
            for node in sorted(planned.nodes):  # another fault may have lasted longer there than was planned
                held.enter_context(self._locks[node])
            for node in planned.nodes:
                if node != REDIS:
                    self._cluster.wait_until_there(node)
            self._inject(planned)

    def _inject(self, planned: Planned) -> None:
        leads = self._cluster.leader() in planned.nodes
        injector, began = KINDS[planned.kind](self._cluster, planned.target, planned.seed), time.monotonic()
        try:
            injector.inject()
            if not injector.verify():
                self.without_effect.append(f"{planned.kind} at {planned.target}")
            time.sleep(max(0.0, began + planned.lasts_s - time.monotonic()))
        finally:
            injector.heal()
        self.happened.append(Happened(planned, began, time.monotonic(), leads))


def cast(cluster: FaultyCluster, seed: int) -> str:
    """The router that clients over gRPC ask; the other one, which may be hit, leads if the seed says so. Raises
    AssertionError."""
    assert wait_for(cluster.leader, LEADER_S), "no router leads"
    leader = cluster.leader()
    (other,) = (name for name in cluster.names if role_of(name) == "router" and name != leader)
    return other if hits_leader(seed) else leader


def run_schedule(cluster: FaultyCluster, questions: Sequence[Question], seed: int, outcome: Outcome, mix: Mix) -> None:
    """Runs one schedule under traffic, and waits until the cluster is whole again. What goes wrong, except with an
    answer, is a verdict, too: the schedule is `stuck`. Raises Unmendable."""
    before = outcome.count("stuck")
    try:
        own = cast(cluster, seed)
        planned = schedule(seed, choices(cluster.names, own, mix.kinds), mix.faults, mix.also)
        _perform(cluster, Traffic(cluster.door(own), questions), Performance(cluster, planned), seed, outcome)
        cluster.wait_until_whole()
    except Exception as error:  # noqa: BLE001  one schedule, of many
        outcome.verdicts[f"stuck: {said(error)} (seed {seed})"] += 1
    outcome.schedules += 1
    outcome.variants[cluster.variant.name] += 1
    try:
        if outcome.count("stuck") > before:
            cluster.mend()
    except Exception as error:
        raise Unmendable(said(error)) from error
    finally:
        outcome.ended_alone += [f"{name} (seed {seed})" for name in cluster.ended_alone]
        cluster.ended_alone.clear()


def _perform(cluster: FaultyCluster, traffic: Traffic, performance: Performance, seed: int, outcome: Outcome) -> None:
    try:
        traffic.wait_for_tokens(BEFORE)
        performance.perform()
        outcome.without_effect += [f"{one} (seed {seed})" for one in performance.without_effect]
        outcome.verdicts.update(f"stuck: {one} (seed {seed})" for one in performance.stuck)
        traffic.wait_for_tokens(AFTER)
    finally:
        outcome.note(seed, traffic, performance.happened, overlapping([one.planned for one in performance.happened]))


def run(
    cluster: FaultyCluster,
    questions: Sequence[Question],
    seeds: Sequence[int],
    done: Callable[[int], None] = lambda seed: None,
    mix: Mix = Mix(),
) -> Outcome:
    outcome = Outcome()
    for seed in seeds:
        run_schedule(cluster, questions, seed, outcome, mix)
        done(seed)
    return outcome


def calm_traffic(cluster: FaultyCluster, questions: Sequence[Question], outcome: Outcome) -> None:
    """CALM_S without a fault."""
    traffic = Traffic(cluster.door("router-0"), questions)
    try:
        time.sleep(CALM_S)
        traffic.wait_for_tokens(AFTER)
    finally:
        outcome.note_calm(traffic.finish())


def said(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}".rstrip(": ")
