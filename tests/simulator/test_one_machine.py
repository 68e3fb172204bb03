"""A simulated cluster of this machine is set as the processes of the real one are."""

from __future__ import annotations

from functools import cache

import pytest
from support.small_simulation import DEVICE, LINK, SHAPE

from bench.cluster_settings import ClusterSettings, cores_for_attention
from bench.simulator import virtual
from bench.simulator.schedules import schedules
from services.attention_worker.settings import CPU_BATCH_TOKENS, CPU_ITL_MS
from services.local.settings import DEFAULT_MODEL
from services.router.settings import RouterSettings


@cache
def settings_of(experts: int, attention: int) -> ClusterSettings:
    return ClusterSettings.of(DEFAULT_MODEL, experts, attention)


def test_two_expert_workers_have_each_expert_twice_and_one_has_it_once() -> None:
    assert settings_of(2, 1).replicas == 2
    assert settings_of(1, 1).replicas == 1


def test_what_the_processes_read_is_what_the_simulator_gets() -> None:
    real = settings_of(2, 1)
    found = virtual.deployment(SHAPE, DEVICE, LINK, real, (1, 2), 0.01)
    limits = real.limits
    assert limits.max_batch_tokens == CPU_BATCH_TOKENS == found.max_batch_tokens
    assert limits.max_itl_s == CPU_ITL_MS / 1000 == found.max_itl_s
    assert (found.pages, found.page_size, found.max_running) == (limits.num_pages, limits.page_size, limits.max_running)
    assert (found.slowdown, found.prefix_cache) == (limits.slowdown, False)
    assert found.balance_gb_per_minute == RouterSettings.rebalance_gb_per_minute > 0
    assert (found.replicas, found.one_machine) == (RouterSettings.replicas, True)
    assert found.fitting == real.fitting > 0
    assert found.timing.edge_s == 0.01


@pytest.mark.parametrize(
    ("attention", "experts", "cores", "left"), [(1, 2, 2, 1), (2, 2, 2, 1), (2, 2, 4, 2), (2, 2, 3, 2)]
)
def test_attention_workers_share_the_cores_that_expert_workers_leave(
    attention: int, experts: int, cores: int, left: int
) -> None:
    assert cores_for_attention(attention, experts, cores) == left


def test_a_dead_expert_worker_costs_a_call_and_a_dead_attention_worker_another_attempt() -> None:
    by_name = {one.name: one for one in schedules(40.0, 10.0)}
    assert list(by_name) == ["steady", "flash crowd", "expert death", "attention death"]
    quiet, expert, attention = (
        virtual.simulate(
            virtual.deployment(SHAPE, DEVICE, LINK, settings_of(2, one.attention), (one.attention, 2), 0.0),
            one,
            one.requests(1),
            [40] * 4,
        )
        for one in (by_name["steady"], by_name["expert death"], by_name["attention death"])
    )
    assert {*quiet.ends} == {*expert.ends} == {*attention.ends} == {"finished"}
    assert expert.longest_stall < quiet.longest_stall + 0.1
    assert expert.attempts_most == quiet.attempts_most == 1
    assert attention.attempts_most == 2
