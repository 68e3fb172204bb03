"""Each fault has its effect, and the protocol's answer to it."""

from __future__ import annotations

import numpy as np
from support.small_simulation import KIND, scenario

from services.planner.traffic import Slo
from services.router.placement.policy import WorkerView, place
from services.simulator.autoscaler import Scaling
from services.simulator.expert_retry import asked_again
from services.simulator.faults import Fault, Kind
from services.simulator.outcomes import Summary
from services.simulator.routing import Routing
from services.simulator.simulation import Played, play
from services.simulator.traffic import Arrivals, Phase

SLO = Slo(ttft_s=5.0, itl_s=0.5)
RATE = 60.0
QUIET = play(scenario(RATE), 1)


def struck(kind: Kind, *, replicas: int = 2, ordinal: int = 1, times: float = 1.0) -> Played:
    fault = Fault(at=5.0, kind=kind, ordinal=ordinal, times=times, seconds=10.0)
    return play(scenario(RATE, faults=[fault], deployment={"replicas": replicas}), 1)


def summary(played: Played) -> Summary:
    return played.summary(SLO)


def test_a_dead_attention_pods_requests_go_on_elsewhere_and_its_silence_costs_a_probe() -> None:
    dead, lost = struck("attention pod dies"), struck("attention node lost", ordinal=0)
    for played in (dead, lost):
        assert summary(played).ends == {"finished": summary(QUIET).requests}
        assert summary(played).attempts_most == 2
    assert summary(QUIET).longest_stall < summary(dead).longest_stall < 1.0
    assert 0.16 < summary(lost).longest_stall < 1.5  # silent for 0.06 s, then a probe that is late after 0.1 s


def test_a_dead_expert_pod_with_replicas_costs_a_call_and_without_them_a_table() -> None:
    with_replicas, without = struck("expert pod dies"), struck("expert pod dies", replicas=1)
    assert with_replicas.blocked_s == 0.0
    assert summary(with_replicas).longest_stall < summary(QUIET).longest_stall + 0.1
    assert 0.2 < without.blocked_s < 2.0
    assert summary(without).longest_stall > without.blocked_s
    for played in (with_replicas, without):
        assert summary(played).ends == {"finished": summary(QUIET).requests}
        assert played.tables >= 2  # without the pod, and with it again
        assert played.experts_loaded > 0


def test_a_lost_expert_node_blocks_until_its_lease_is_over() -> None:
    played = struck("expert node lost", ordinal=0, replicas=1)
    assert played.blocked_s > 3.0


def test_slow_experts_and_links_slow_all_steps_for_as_long_as_they_last() -> None:
    kinds: list[Kind] = ["slow expert", "slow link"]
    for kind in kinds:
        slow = struck(kind, times=8.0)
        usual, during, after = (
            float(np.mean([g.tpot_s for g in played.outcomes.generations if begin < g.arrived < end]))
            for played, begin, end in ((QUIET, 0.0, 20.0), (slow, 6.0, 14.0), (slow, 18.0, 20.0))
        )
        assert during > 1.2 * usual
        assert after < (usual + during) / 2


def test_upgrades_replace_every_pod_and_lose_no_request() -> None:
    upgrades: list[tuple[Kind, int]] = [("attention upgrade", 3), ("expert upgrade", 4)]
    for kind, pods in upgrades:
        played = play(scenario(10.0, 50.0, faults=[Fault(at=5.0, kind=kind)]), 1)
        assert set(summary(played).ends) == {"finished"}
        if kind == "attention upgrade":
            assert max(g.attempts for g in played.outcomes.generations) > 1
        else:
            assert played.tables >= 2 * pods
            assert played.blocked_s == 0.0


def test_a_dead_router_loses_its_own_requests_only() -> None:
    ends = summary(struck("router dies")).ends
    assert ends["lost"] > 0
    lost = {g.router for g in struck("router dies").outcomes.generations if g.end == "lost"}
    assert lost == {1}


def test_autoscalers_follow_a_crowd_and_let_pods_go_slowly() -> None:
    crowd = Arrivals(
        phases=[Phase(0.0, 3.0), Phase(30.0, 50.0), Phase(90.0, 1.0)],
        seconds=400.0,
        kind=KIND,
    )
    scaling = Scaling(least=1, most=6, target=20.0, stabilization_s=60.0)
    scaled = play(
        scenario(seconds=400.0, arrivals=crowd.generate, scalings={"attention": scaling}, deployment={"attention": 1}),
        1,
    )
    assert 400.0 < scaled.attention_pod_s < 5 * 400.0
    assert summary(scaled).ends["finished"] > 0.9 * summary(scaled).requests


def test_requests_that_wait_for_a_place_bring_attention_pods_too() -> None:
    by_queue = Scaling(least=1, most=4, target=1e9, queue_target=2.0)
    still = Scaling(least=1, most=4, target=1e9)
    shaped = {"attention": 1, "max_running": 4}
    queued, alone = (
        play(scenario(30.0, 40.0, scalings={"attention": one}, deployment=shaped), 1) for one in (by_queue, still)
    )
    assert alone.attention_pod_s == 40.0 < queued.attention_pod_s
    assert summary(queued).ttft_p99 < summary(alone).ttft_p99


def test_attention_workers_that_share_a_core_slow_each_other() -> None:
    apart, shared = (play(scenario(RATE, deployment={"attention_cores": cores}), 1) for cores in (0, 1))
    assert summary(shared).itl_p50 > 1.3 * summary(apart).itl_p50


def test_two_expert_workers_of_one_machine_hold_each_expert_twice_where_memory_lets_them() -> None:
    shaped = {"replicas": 0, "experts": 2, "one_machine": True}
    enough, little = (
        play(scenario(deployment=shaped | {"fitting": fitting}, faults=[Fault(at=5.0, kind="expert pod dies")]), 1)
        for fitting in (64, 63)  # 32 experts twice, of each worker's half
    )
    assert enough.blocked_s == 0.0 < little.blocked_s


def test_balancing_loads_experts_for_skewed_choices_and_speeds_steps_up() -> None:
    skewed = Routing(exponent=1.2)
    still = play(scenario(30.0, 60.0, routing=skewed, deployment={"replicas": 1}), 1)
    moved = play(
        scenario(30.0, 60.0, routing=skewed, deployment={"replicas": 1, "balance_gb_per_minute": 10.0, "extra": 4}), 1
    )
    assert still.rebalances == 0 < moved.rebalances
    last = [np.mean([g.tpot_s for g in played.outcomes.generations if g.arrived > 45.0]) for played in (still, moved)]
    assert last[1] < last[0]


def test_who_is_asked_again_is_the_dispatchers_choice() -> None:
    workers = [WorkerView(f"expert-{number}") for number in range(4)]
    twice, once = place(16, 2, workers, 2), place(16, 2, workers, 1)
    assert asked_again(twice, {"expert-0"}, 1) == 1
    assert asked_again(once, {"expert-0"}, 1) is None
    assert asked_again(twice, set(), 1) == 0
    assert asked_again(twice, {f"expert-{number}" for number in range(4)}, 1) is None
