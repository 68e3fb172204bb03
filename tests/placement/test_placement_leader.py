"""The placement leader over real gRPC and a real Redis; the workers are fakes without weights."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from caracal_proto.placement_pb2 import Endpoint, Table
from caracal_proto.placements import layer_of
from support.fake_experts import FakeWorker
from support.leader_harness import EXPERTS, LAYERS, LeaderHarness, run_scenario
from support.worker_processes import Store, redis_store

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with redis_store(tmp_path_factory.mktemp("redis")) as store:
        yield store


def placed_on_a_ghost(replicas: list[int], epoch: int) -> bytes:
    layers = [layer_of([replicas] * EXPERTS)] * LAYERS
    ghost = [Endpoint(worker_id="ghost", boot_id="g", address="127.0.0.1:1")]
    return Table(epoch=epoch, numerics_class="c", workers=ghost, layers=layers).SerializeToString()


def test_a_join_loads_first_then_pushes_to_attention_workers_before_it_commits(store: Store) -> None:
    async def scenario(harness: LeaderHarness) -> None:
        harness.lead()
        await harness.join("attention", 0)
        await harness.join("expert", 0)
        await harness.loaded(8)
        await harness.join("expert", 1)
        await harness.loaded(4, 4)
        await harness.until(
            lambda: ("expert-0", "commit", 2) in harness.calls and ("expert-1", "commit", 2) in harness.calls,
            "committed",
        )
        second = [(who, what) for who, what, epoch in harness.calls if epoch == 2]
        assert second[0] == ("expert-1", "prepare")
        assert second.index(("attention-0", "apply")) < second.index(("expert-0", "commit"))
        table = await harness.membership.read_table()
        assert table is not None
        assert table.epoch == 2
        assert [worker.worker_id for worker in table.workers] == ["expert-0", "expert-1"]

    run_scenario(store, scenario)


def test_a_join_with_another_golden_digest_changes_nothing(store: Store) -> None:
    async def scenario(harness: LeaderHarness) -> None:
        harness.lead()
        await harness.join("expert", 0)
        await harness.loaded(8)
        corrupt = FakeWorker("expert", 1, harness.calls)
        corrupt.salt = b"flipped bit"
        await harness.add(corrupt)
        await harness.until(lambda: ("expert-1", "prepare", 2) in harness.calls, "asked to prepare")
        await asyncio.sleep(0.5)
        table = await harness.membership.read_table()
        assert table is not None
        assert table.epoch == 1
        assert len(harness.workers[0].loaded) == 8
        await harness.join("expert", 2)
        await harness.until(lambda: len(harness.workers[2].loaded) == 4, "a correct worker may still join")
        table = await harness.membership.read_table()
        assert table is not None
        assert "expert-1" not in {worker.worker_id for worker in table.workers}
        warning = harness.shortages["router-0"].warning
        assert (
            "expert-1 could not take its experts: model-1.safetensors: up: its bytes have the CRC-32 0000000b"
            in warning
        )

    run_scenario(store, scenario)


def test_a_refused_attention_worker_is_a_warning_and_gets_no_table(store: Store) -> None:
    async def scenario(harness: LeaderHarness) -> None:
        harness.lead()
        await harness.join("expert", 0)
        await harness.join("attention", 0, numerics_class="c-1")
        await harness.join("attention", 1, numerics_class="c-2", refused="model-1.safetensors: head: CRC-32 1, not 2")
        warning = harness.shortages["router-0"]
        await harness.until(lambda: "attention-1 is refused: model-1.safetensors: head" in warning.warning, "warned")
        await harness.until(lambda: ("attention-0", "apply", 1) in harness.calls, "the other one has the table")
        await asyncio.sleep(0.3)
        assert ("attention-1", "apply", 1) not in harness.calls

    run_scenario(store, scenario)


def test_a_killed_worker_is_noticed_before_its_lease_expires(store: Store) -> None:
    async def scenario(harness: LeaderHarness) -> None:
        harness.lead()
        await harness.join("expert", 0)
        second = await harness.join("expert", 1)
        await harness.loaded(4, 4)
        await harness.membership.announce(second.record())
        await harness.kill(second)
        await harness.loaded(8)
        assert any(r.worker_id == "expert-1" for r in await harness.membership.workers("expert")), (
            "noticed only when its lease expired"
        )

    run_scenario(store, scenario)


def test_a_worker_that_dies_while_loading_does_not_block_the_others(store: Store) -> None:
    async def scenario(harness: LeaderHarness) -> None:
        harness.lead()
        await harness.join("expert", 0)
        await harness.loaded(8)
        slow = FakeWorker("expert", 1, harness.calls)
        slow.load_s = 600
        await harness.add(slow)
        await harness.until(lambda: ("expert-1", "prepare", 2) in harness.calls, "asked to prepare")
        await harness.kill(slow)
        await harness.join("expert", 2)
        await harness.loaded(4, 4)

    run_scenario(store, scenario)


def test_a_draining_worker_loses_its_experts(store: Store) -> None:
    async def scenario(harness: LeaderHarness) -> None:
        harness.lead()
        await harness.join("expert", 0)
        draining = await harness.join("expert", 1)
        await harness.loaded(4, 4)
        draining.draining = True
        await harness.membership.announce(draining.record())
        await harness.loaded(8, 0)

    run_scenario(store, scenario)


def test_replicas_are_on_distinct_workers(store: Store) -> None:
    async def scenario(harness: LeaderHarness) -> None:
        harness.lead(replicas=2)
        for number in range(3):
            await harness.join("expert", number)
        await harness.until(
            lambda: sorted(len(w.loaded) for w in harness.workers) == [5, 5, 6], "two replicas of eight experts"
        )

    run_scenario(store, scenario)


def test_workers_of_another_numerics_class_are_left_out(store: Store) -> None:
    async def scenario(harness: LeaderHarness) -> None:
        harness.lead()
        await harness.join("expert", 0)
        await harness.loaded(8)
        await harness.join("expert", 1, numerics_class="other")
        await asyncio.sleep(0.6)
        await harness.loaded(8, 0)

    run_scenario(store, scenario)


def test_no_table_while_capacity_is_short(store: Store) -> None:
    async def scenario(harness: LeaderHarness) -> None:
        harness.lead()
        await harness.join("expert", 0, capacity=5)
        await asyncio.sleep(0.6)
        assert await harness.membership.read_table() is None
        await harness.join("expert", 1, capacity=5)
        await harness.until(lambda: sum(len(w.loaded) for w in harness.workers) == 8, "all placed")
        assert all(len(w.loaded) <= 5 for w in harness.workers)

    run_scenario(store, scenario)


def test_a_second_router_takes_over_above_every_epoch(store: Store) -> None:
    async def scenario(harness: LeaderHarness) -> None:
        first = harness.lead("router-0")
        await harness.join("expert", 0)
        await harness.loaded(8)
        second = harness.lead("router-1")
        await asyncio.sleep(0.5)
        assert (first.leading, second.leading) == (True, False)
        await harness.end("router-0")
        await harness.join("expert", 1)
        await harness.loaded(4, 4)
        assert second.leading
        assert second.epoch >= 1000

    run_scenario(store, scenario)


def test_a_new_leader_with_an_empty_redis_keeps_what_workers_have_loaded(store: Store) -> None:
    async def scenario(harness: LeaderHarness) -> None:
        harness.lead("router-0")
        for number in range(2):
            await harness.join("expert", number)
        await harness.loaded(4, 4)
        before = [set(worker.loaded) for worker in harness.workers]
        highest = max(worker.epoch for worker in harness.workers)
        await harness.end("router-0")
        harness.store.client.flushall()
        for worker in harness.workers:
            await harness.membership.announce(worker.record())
        harness.calls.clear()
        leader = harness.lead("router-1")
        await harness.until(lambda: leader.epoch > highest, "a table above the epochs of the workers")
        await harness.until(lambda: all(worker.epoch > highest for worker in harness.workers), "pushed")
        assert [set(worker.loaded) for worker in harness.workers] == before
        assert not [what for _, what, _ in harness.calls if what == "prepare"]

    run_scenario(store, scenario)


@pytest.mark.parametrize(
    "bad",
    [
        b"\xff\xff",
        Table(epoch=1 << 63).SerializeToString(),
        Table(epoch=77, numerics_class="c").SerializeToString(),
        placed_on_a_ghost([0], epoch=3),  # which is not the epoch beside it
        placed_on_a_ghost([0, 0], epoch=10_000),
    ],
    ids=["bytes", "epoch", "layers", "older", "twice"],
)
def test_a_bad_table_in_redis_is_ignored(store: Store, bad: bytes) -> None:
    async def scenario(harness: LeaderHarness) -> None:
        harness.store.client.hset("caracal:placement", mapping={"epoch": 5, "table": bad})
        harness.store.client.set("caracal:worker:expert:bad", '{"worker_id": "bad", "role": "expert", "epoch": "many"}')
        harness.store.client.sadd("caracal:workers:expert", "bad")
        leader = harness.lead()
        await harness.join("expert", 0)
        await harness.loaded(8)
        await harness.until(lambda: leader.epoch > 0, "a table")
        assert leader.epoch < 1 << 62
        harness.store.client.hset("caracal:placement", mapping={"epoch": 9999, "table": bad})
        async with asyncio.timeout(10):
            while await harness.membership.table_epoch() != leader.epoch:  # noqa: ASYNC110 - it is in Redis
                await asyncio.sleep(0.01)
        table = await harness.membership.read_table()
        assert table is not None, "a bad one is written over"
        assert table.epoch == leader.epoch

    run_scenario(store, scenario)


def test_a_new_leader_does_not_begin_with_a_table_that_workers_reject(store: Store) -> None:
    async def scenario(harness: LeaderHarness) -> None:
        old = harness.lead("router-0")
        await harness.join("attention", 0)
        for number in range(2):
            await harness.join("expert", number)
        await harness.loaded(4, 4)
        await harness.until(lambda: all(worker.epoch == old.epoch for worker in harness.workers), "pushed")
        before = [set(worker.loaded) for worker in harness.workers]
        # It is pushed while it is written.
        await harness.until(lambda: bool(harness.store.client.hexists("caracal:placement", "table")), "written")
        stored = harness.store.client.hgetall("caracal:placement")
        third = await harness.join("expert", 2)
        await harness.until(lambda: all(worker.epoch == old.epoch for worker in harness.workers[:4]), "pushed")
        await harness.kill(third)
        await harness.loaded(4, 4)
        await harness.until(lambda: all(worker.epoch == old.epoch for worker in harness.workers), "pushed")
        highest = old.epoch
        await harness.end("router-0")
        harness.store.client.hset("caracal:placement", mapping=stored)  # as a replica has it that lags behind
        new = harness.lead("router-1")
        await harness.until(lambda: new.epoch > highest, "a table above the epochs of the workers")
        await harness.until(lambda: all(worker.epoch == new.epoch for worker in harness.workers), "pushed")
        assert set().union(*(worker.loaded for worker in harness.workers)) == set().union(*before)

    run_scenario(store, scenario)


def test_a_restarted_worker_gets_its_share_again(store: Store) -> None:
    async def scenario(harness: LeaderHarness) -> None:
        harness.lead()
        old = await harness.join("expert", 0)
        await harness.loaded(8)
        await harness.kill(old)
        await harness.join("expert", 0, boot="b")
        await harness.loaded(8)

    run_scenario(store, scenario)


def test_known_workers_fail_over_while_redis_is_down(tmp_path: Path) -> None:
    with redis_store(tmp_path) as store:

        async def scenario(harness: LeaderHarness) -> None:
            harness.lead()
            attention = await harness.join("attention", 0)
            await harness.join("expert", 0)
            second = await harness.join("expert", 1)
            await harness.loaded(4, 4)
            await harness.until(lambda: attention.epoch > 0, "the attention worker has a table")
            before = attention.epoch
            store.client.shutdown(nosave=True)
            await asyncio.sleep(0.5)
            await harness.kill(second)
            await harness.loaded(8)
            await harness.until(lambda: attention.epoch > before, "the attention worker has a newer table")

        run_scenario(store, scenario)


def test_a_leader_that_resigned_never_leads_again(store: Store) -> None:
    async def scenario(harness: LeaderHarness) -> None:
        leader = harness.lead()
        await harness.join("attention", 0)
        await harness.join("expert", 0)
        await harness.loaded(8)
        await leader.resign()
        for _ in range(20):
            await asyncio.sleep(0.1)
            assert await harness.membership.leader() is None
            assert not leader.leading
        harness.lead("router-1")
        await harness.join("expert", 1)
        await harness.loaded(4, 4)

    run_scenario(store, scenario)


def test_a_dead_worker_leaves_the_table_though_nothing_has_to_move(store: Store) -> None:
    async def scenario(harness: LeaderHarness) -> None:
        leader = harness.lead(replicas=2)
        workers = [await harness.join("expert", number) for number in range(2)]
        await harness.loaded(8, 8)
        epoch = leader.epoch
        await harness.kill(workers[1])
        await harness.until(lambda: workers[0].epoch > epoch, "a table without it")
        table = await harness.membership.read_table()
        assert table is not None
        assert [worker.worker_id for worker in table.workers] == ["expert-0"]
        assert [call[1] for call in harness.calls if call[2] > epoch] == ["commit"], "nothing is loaded for it"

    run_scenario(store, scenario)
