"""Schedules are functions of their seeds; faults last longer than leases, overlap, and hit the router that leads."""

from __future__ import annotations

from faults.kinds import KINDS, choices
from faults.schedule import LONG_S, LONG_SEEDS, SHORT_S, Lasting, hits_leader, overlapping, schedule

from services.membership.redis import LEASE_MS
from services.router.placement.leader import LEADER_LEASE_MS

NAMES = [f"{role}-{number}" for role in ("router", "attention", "expert") for number in range(2)]
KINDS_HERE = choices(NAMES, "router-0")
SEEDS = range(200)


def test_schedules_are_functions_of_their_seeds() -> None:
    assert schedule(3, KINDS_HERE, 2) == schedule(3, KINDS_HERE, 2)
    assert schedule(3, KINDS_HERE, 2) != schedule(4, KINDS_HERE, 2)
    assert len({planned.seed for seed in SEEDS for planned in schedule(seed, KINDS_HERE, 2)}) > len(SEEDS)


def test_so_many_faults_as_there_are_kinds_have_each_one() -> None:
    for faults in (1, 2):
        seeds = range(-(-len(KINDS) // faults))
        assert {planned.kind for seed in seeds for planned in schedule(seed, KINDS_HERE, faults)} == KINDS.keys()
    assert [planned.kind for planned in schedule(5, KINDS_HERE, 2, ("reset",))][2:] == ["reset"]


def test_targets_are_those_of_the_kind_and_never_the_routers_whose_clients_cannot_go_on() -> None:
    for kind, one in KINDS_HERE.items():
        assert one.targets, kind
        nodes = {node for target in one.targets for node in target.split("+")}
        assert nodes <= {*NAMES, "redis"}
        assert "router-0" not in nodes or kind == "overload"


def test_faults_last_longer_than_leases_where_that_matters() -> None:
    assert LONG_S[0] > max(LEASE_MS, LEADER_LEASE_MS) / 1000
    found = [(seed, planned) for seed in SEEDS for planned in schedule(seed, KINDS_HERE, 2)]
    for seed, planned in found:
        lasting = KINDS[planned.kind].lasting
        long = lasting is Lasting.LONG or (lasting is Lasting.SOMETIMES_LONG and seed % LONG_SEEDS == 0)
        shortest_s, longest_s = LONG_S if long else SHORT_S
        assert shortest_s <= planned.lasts_s <= longest_s
    for kind in ("redis full", "redis read-only", "redis cannot save", "redis stopped", "redis killed"):
        assert KINDS[kind].lasting is Lasting.LONG
    for kind in ("stopped", "blackhole", "unplugged"):
        lengths = [planned.lasts_s > LONG_S[0] for _, planned in found if planned.kind == kind]
        assert any(lengths)
        assert not all(lengths)


def test_faults_at_different_nodes_overlap_and_those_at_one_do_not() -> None:
    plans = [schedule(seed, KINDS_HERE, 3) for seed in SEEDS]
    assert sum(overlapping(planned) > 0 for planned in plans) > len(SEEDS) / 2
    for planned in plans:
        for one in planned:
            for other in planned:
                if one is not other and set(one.nodes) & set(other.nodes):
                    assert one.ends_s < other.at_s or other.ends_s < one.at_s


def test_the_router_that_may_be_hit_leads_for_half_of_the_seeds() -> None:
    assert sum(map(hits_leader, SEEDS)) == len(SEEDS) / 2
    first = {seed: schedule(seed, KINDS_HERE, 2) for seed in range(20)}
    led = {seed for seed, plan in first.items() if any("router-1" in one.nodes for one in plan) and hits_leader(seed)}
    assert len(led) >= 3
