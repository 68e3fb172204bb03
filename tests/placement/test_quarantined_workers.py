"""An expert worker that computes wrongly loses its experts, but not what no other worker has. Real gRPC and Redis."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.fake_experts import FakeWorker
from support.leader_harness import LeaderHarness, run_scenario
from support.worker_processes import Store, redis_store

pytestmark = pytest.mark.processes

REASON = "it gave other bits than its replicas"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with redis_store(tmp_path_factory.mktemp("redis")) as store:
        yield store


def test_its_experts_go_elsewhere_and_a_new_run_of_it_gets_experts_again(store: Store) -> None:
    async def scenario(harness: LeaderHarness) -> None:
        leader = harness.lead()
        await harness.join("attention", 0)
        wrong = await harness.join("expert", 0)
        await harness.join("expert", 1)
        await harness.loaded(4, 4)
        await harness.membership.quarantine.add(wrong.boot_id, REASON)
        await harness.loaded(0, 8)
        await harness.until(
            lambda: f"expert-0 is quarantined: {REASON}" in harness.shortages["router-0"].warning, "no warning"
        )
        assert leader.metrics.quarantined == 1
        await harness.kill(wrong)
        await harness.add(FakeWorker("expert", 0, harness.calls, boot="b"))
        await harness.loaded(4, 4)
        await harness.until(lambda: not harness.shortages["router-0"].warning, "the warning stays")

    run_scenario(store, scenario)


def test_the_last_holder_keeps_its_experts(store: Store) -> None:
    async def scenario(harness: LeaderHarness) -> None:
        harness.lead()
        await harness.join("attention", 0)
        wrong = await harness.join("expert", 0)
        await harness.loaded(8)
        await harness.membership.quarantine.add(wrong.boot_id, REASON)
        await harness.until(lambda: "is quarantined" in harness.shortages["router-0"].warning, "no warning")
        assert len(wrong.loaded) == 8
        await harness.join("expert", 1, capacity=6)
        await harness.loaded(2, 6)

    run_scenario(store, scenario)
