"""Which epochs a new leader gives, over real gRPC and a real Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import pytest
from caracal_proto.placement_pb2 import Table
from caracal_proto.placements import same_table
from support.fake_experts import FakeWorker
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


def test_a_router_that_finds_an_empty_redis_waits_for_who_had_a_table(store: Store) -> None:
    """Redis has lost everything, and only a worker that never had a table has a lease when the router looks."""

    async def scenario(harness: LeaderHarness) -> None:
        old = harness.lead("router-0")
        attention, expert = await harness.join("attention", 0), await harness.join("expert", 0)
        await harness.until(lambda: expert.epoch == attention.epoch == old.epoch > 0, "pushed")
        await harness.end("router-0")
        for worker in (attention, expert):
            await harness.end(worker.boot_id)
        harness.store.client.flushall()
        await harness.join("expert", 1, capacity=8)
        new = harness.lead("router-1")
        await harness.until(lambda: bool(harness.store.client.exists("caracal:leader")), "it has the lease")
        await asyncio.sleep(0.7)  # workers renew their leases within a second
        for worker in (attention, expert):
            await harness.membership.announce(worker.record())
        await harness.until(lambda: new.epoch > 0, "a table")
        assert new.epoch >= TERM, "no epoch is given twice"
        await harness.until(lambda: attention.epoch == expert.epoch == new.epoch, "all have its table")

    run_scenario(store, scenario)


def test_a_term_that_redis_has_lost_is_written_again(store: Store) -> None:
    async def scenario(harness: LeaderHarness) -> None:
        leader = harness.lead("router-0")
        expert = await harness.join("expert", 0)
        await harness.until(lambda: expert.epoch == leader.epoch > 0, "pushed")
        first = leader.epoch
        harness.store.client.flushall()
        stored = harness.store.client.hget
        await harness.until(lambda: stored("caracal:placement", "term") == b"1", "its term is there again")
        assert (leader.leading, leader.epoch) == (True, first), "it leads on with what it has"

    run_scenario(store, scenario)


def test_an_epoch_that_a_worker_has_another_table_of_is_given_up(store: Store) -> None:
    async def scenario(harness: LeaderHarness) -> None:
        attention = FakeWorker("attention", 0, harness.calls)
        attention.table = Table(epoch=1, numerics_class="c")  # of a leader that nobody here knows of
        await harness.add(attention)
        leader = harness.lead("router-0")
        expert = await harness.join("expert", 0)
        await harness.until(lambda: attention.epoch == expert.epoch == leader.epoch == 2, "the next epoch")
        assert attention.table is not None
        assert expert.table is not None
        assert same_table(attention.table, expert.table)
        stored = harness.store.client.hget
        await harness.until(lambda: stored("caracal:placement", "epoch") == b"2", "Redis has it")

    run_scenario(store, scenario)
