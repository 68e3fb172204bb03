"""How soon a death, a stop or lateness is noticed is what the real detectors make of it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

import numpy as np
import pytest
from support.small_simulation import scenario

from services.membership.record import WorkerRecord
from services.planner.traffic import Slo
from services.router.dispatch.call_latency import FACTOR, NEVER
from services.router.dispatch.suspects import OVERDUE, Suspects
from services.router.placement.leader import READ_S, TICK_S
from services.router.placement.worker_client import PROBE_S
from services.router.placement.worker_registry import DISCONNECTED_S
from services.router.requests.attention_workers import LOOK_S
from services.router.requests.probe_times import FLOOR_S
from services.router.requests.silent_workers import StallTimeouts
from services.simulator.expert_lateness import OPTIONS, overdue_after, until_avoided
from services.simulator.expert_registry import ExpertRegistry
from services.simulator.faults import Fault, Kind
from services.simulator.outcomes import Summary
from services.simulator.simulation import Played, play
from services.simulator.virtual_time import VirtualLoop, run

RATE = 40.0
QUIET_S = StallTimeouts().probe_after_s
LEASE_S = scenario().deployment.timing.lease_s


def struck(kind: Kind, seconds: float, *, late_s: float = 0.0, times: float = 1.0, **deployment: object) -> Played:
    fault = Fault(at=5.0, kind=kind, ordinal=1, seconds=seconds, late_s=late_s, times=times)
    return play(scenario(RATE, faults=[fault], deployment=deployment), 1)


def summary(played: Played) -> Summary:
    return played.summary(Slo(ttft_s=5.0, itl_s=0.5))


QUIET = summary(play(scenario(RATE), 1)).longest_stall


def test_a_stopped_attention_worker_is_left_when_its_probe_is_late_and_not_before() -> None:
    short, long = struck("attention pod stops", 0.05), struck("attention pod stops", 2.0)
    assert summary(short).attempts_most == 1
    assert summary(short).longest_stall < 0.05 + QUIET + LOOK_S
    assert summary(long).attempts_most == 2
    assert FLOOR_S < summary(long).longest_stall < QUIET_S + FLOOR_S + 0.2  # and a prompt
    for played in (short, long):
        assert summary(played).ends == {"finished": summary(played).requests}
        assert all(g.tokens == g.answer for g in played.outcomes.generations)


def test_where_no_other_worker_answers_nobody_is_late() -> None:
    fault = Fault(at=5.0, kind="attention pod stops", ordinal=0, seconds=1.5)
    played = play(scenario(20.0, faults=[fault], deployment={"attention": 1}), 1)
    assert summary(played).attempts_most == 1
    assert 1.5 <= summary(played).longest_stall < 1.5 + QUIET + LOOK_S


def test_a_link_that_is_a_little_late_is_borne_and_one_that_is_later_is_left() -> None:
    little, much = (struck("slow attention link", 8.0, late_s=late_s) for late_s in (0.05, 0.8))
    assert summary(little).attempts_most == 1
    assert summary(much).attempts_most == 2
    assert summary(much).longest_stall < 0.8
    on_it = [g for g in much.outcomes.generations if 6.0 < g.arrived < 12.0]
    assert max(g.attempts for g in on_it) == 1  # nothing new goes there while it is a suspect
    assert summary(much).ends == {"finished": summary(much).requests}


def test_a_stopped_expert_worker_costs_a_few_overdue_calls_where_others_have_its_experts() -> None:
    played = struck("expert pod stops", 2.0)
    assert played.blocked_s == 0.0
    assert played.tables == 0  # its lease has not ended
    least = OVERDUE * OPTIONS.floor_s
    assert least < summary(played).longest_stall < least + QUIET + 0.1
    assert summary(played).ends == {"finished": summary(played).requests}


def test_without_replicas_steps_wait_until_it_goes_on_or_others_have_loaded_its_experts() -> None:
    short, long = (struck("expert pod stops", seconds, replicas=1) for seconds in (1.0, 12.0))
    assert short.blocked_s == pytest.approx(1.0)
    assert short.tables == 0
    assert LEASE_S < long.blocked_s < LEASE_S + READ_S + PROBE_S + 2.0
    assert long.tables >= 1
    for played in (short, long):
        assert summary(played).ends == {"finished": summary(played).requests}


def test_an_expert_worker_that_is_far_too_slow_is_avoided_where_others_have_its_experts() -> None:
    def during(played: Played) -> float:
        return float(np.median([g.tpot_s for g in played.outcomes.generations if 7.0 < g.arrived < 12.0]))

    avoided, borne = (struck("slow expert", 8.0, times=30_000.0, replicas=replicas) for replicas in (2, 1))
    usual = during(play(scenario(RATE), 1))
    assert during(avoided) < 2 * usual
    assert OVERDUE * OPTIONS.floor_s < summary(avoided).longest_stall < summary(borne).longest_stall / 2


def test_calls_are_overdue_by_what_they_have_taken() -> None:
    usual = overdue_after({"a": 0.03, "b": 0.03, "c": 0.001})
    assert usual == {"a": FACTOR * 0.03, "b": FACTOR * 0.03, "c": OPTIONS.floor_s}
    assert overdue_after({}) == {}


def test_layers_wait_for_overdue_calls_or_for_the_end_of_the_session() -> None:
    def waited(overdue_s: float, silent_s: float = 0.5) -> float:
        return until_avoided(Suspects[str](), "a", 7.0, overdue_s=overdue_s, silent_s=silent_s, again_s=0.001)

    assert waited(0.02) == pytest.approx(OVERDUE * 0.021)
    assert waited(NEVER) == pytest.approx(0.501)
    assert waited(0.3) == pytest.approx(0.501)
    assert waited(0.3, math.inf) == pytest.approx(OVERDUE * 0.301)
    suspects = Suspects[str]()
    assert until_avoided(suspects, "a", 0.0, overdue_s=0.02, silent_s=0.5, again_s=0.0) > 0
    assert until_avoided(suspects, "a", 1.0, overdue_s=0.02, silent_s=0.5, again_s=0.0) == 0.0


def record(name: str, boot: int = 1) -> WorkerRecord:
    return WorkerRecord(worker_id=name, role="expert", address=name, boot_id=f"{name}/{boot}")


def test_the_leader_notices_an_end_by_the_connection_and_silence_by_the_lease() -> None:
    there = [record("a"), record("b"), record("c")]

    async def main(loop: VirtualLoop) -> None:
        registry = ExpertRegistry(lambda: there, LEASE_S, loop)

        def ids(records: Sequence[WorkerRecord]) -> list[str]:
            return [one.worker_id for one in records]

        assert ids(registry.living()) == ids(await registry.alive()) == ["a", "b", "c"]
        for gone in (there[0], there[1]):
            registry.fell_silent(gone)
        registry.disconnected("a/1")
        del there[:2]
        noticed: dict[str, float] = {}
        while len(noticed) < 2:
            alive = ids(await registry.alive())
            for name in ("a", "b"):
                if name not in alive:
                    noticed.setdefault(name, loop.time())
            await asyncio.sleep(TICK_S)
        assert DISCONNECTED_S <= noticed["a"] < DISCONNECTED_S + 0.1
        assert LEASE_S + PROBE_S <= noticed["b"] < LEASE_S + READ_S + PROBE_S + 0.1
        there.insert(0, record("a", 2))
        registry.changed()
        assert ids(await registry.alive()) == ["a", "c"]

    run(main)


def test_a_worker_that_goes_on_before_its_lease_ends_was_never_gone() -> None:
    there = [record("a"), record("b")]

    async def main(loop: VirtualLoop) -> None:
        registry = ExpertRegistry(lambda: there, LEASE_S, loop)
        await registry.alive()
        registry.fell_silent(there[0])
        await asyncio.sleep(LEASE_S - 0.5)
        registry.goes_on("a/1")
        await asyncio.sleep(10.0)
        assert [one.worker_id for one in await registry.alive()] == ["a", "b"]
        registry.fell_silent(there[0])
        await asyncio.sleep(LEASE_S + READ_S)
        assert [one.worker_id for one in await registry.alive()] == ["b"]
        registry.goes_on("a/1")
        assert [one.worker_id for one in await registry.alive()] == ["a", "b"]

    run(main)
