"""Which epochs a new leader gives, over real gRPC and a real Redis."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from support.leader_harness import LeaderHarness, run_scenario
from support.worker_processes import Store, redis_store

from services.router.placement.tables import TERM

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with redis_store(tmp_path_factory.mktemp("redis")) as store:
        yield store


def test_a_new_leader_goes_by_what_workers_say_of_their_epochs(store: Store) -> None:
    """Redis has lost everything, and the leases are as old as they may be."""

    async def scenario(harness: LeaderHarness) -> None:
        old = harness.lead("router-0")
        attention, expert = await harness.join("attention", 0), await harness.join("expert", 0)
        await harness.until(lambda: expert.epoch == attention.epoch == old.epoch > 0, "pushed")
        await harness.end("router-0")
        for worker in harness.workers:
            await harness.end(worker.boot_id)
        harness.store.client.flushall()
        for worker in harness.workers:
            await harness.membership.announce(replace(worker.record(), epoch=0))
        new = harness.lead("router-1")
        await harness.until(lambda: new.leading, "it leads")
        await harness.join("expert", 1)
        await harness.until(lambda: new.epoch > 0, "a table")
        assert new.epoch >= TERM, "no epoch is given twice"

    run_scenario(store, scenario)
