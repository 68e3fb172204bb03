"""Requests while there is no attention worker: they wait for as long as the real router lets them."""

from __future__ import annotations

import pytest
from support.small_simulation import scenario

from services.router.requests.attention_workers import HOLD_S, REFRESH_S
from services.simulator.deployment import Timing
from services.simulator.faults import Fault
from services.simulator.simulation import play

DIES_S = 4.0


def test_requests_wait_for_a_worker_that_comes_back_in_time() -> None:
    gone = [Fault(at=DIES_S, kind="attention pod dies", ordinal=0)]
    played = play(scenario(2.0, 20.0, faults=gone, deployment={"attention": 1}), 1)
    assert {g.end for g in played.outcomes.generations} == {"finished"}


def test_once_nobody_has_served_for_so_long_requests_are_rejected_as_they_come() -> None:
    gone = [Fault(at=DIES_S, kind="attention node lost", ordinal=0)]
    seconds = DIES_S + HOLD_S + 20.0
    slow = Timing(pod_s=5.0, attention_load_s=2.0, node_back_s=200.0)
    shaped = {"attention": 1, "queue_timeout_s": 600.0, "timing": slow}
    struck = scenario(2.0, seconds, faults=gone, deployment=shaped)
    lease_s = struck.deployment.timing.lease_s
    by_end = {g: g.end for g in play(struck, 1).outcomes.generations if g.arrived > DIES_S + lease_s + 1.0}
    ends_at = DIES_S + lease_s + HOLD_S
    waited = [g for g in by_end if g.arrived < ends_at - 2 * REFRESH_S]
    late = [g for g in by_end if g.arrived > ends_at + 2 * REFRESH_S and g.arrived < seconds]
    assert late
    assert {g.end for g in late} == {"rejected"}
    assert all(g.ended == pytest.approx(g.arrived) for g in late)
    assert waited
    assert {g.end for g in waited} <= {"failed", "finished"}
    assert all(g.ended >= ends_at - 2 * REFRESH_S for g in waited if g.end == "failed")
