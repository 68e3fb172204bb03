"""The leader's loop over real gRPC and a real Redis; the workers are fakes that hold lists."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from caracal_proto.placement_pb2 import Table
from support.fake_experts import FakeWorker
from support.leader_harness import Stage, play
from support.worker_processes import Store, redis_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with redis_store(tmp_path_factory.mktemp("redis")) as store:
        yield store


def test_growth_loads_before_it_publishes_and_tells_attention_before_experts(store: Store) -> None:
    async def scene(s: Stage) -> None:
        s.lead()
        await s.join("attention", 0)
        await s.join("expert", 0)
        await s.loaded(8)
        await s.join("expert", 1)
        await s.loaded(4, 4)
        await s.until(lambda: ("expert-0", "commit", 2) in s.said and ("expert-1", "commit", 2) in s.said, "committed")
        second = [(who, what) for who, what, epoch in s.said if epoch == 2]
        assert second[0] == ("expert-1", "prepare")
        assert second.index(("attention-0", "apply")) < second.index(("expert-0", "commit"))
        table = await s.membership.read_table()
        assert table is not None
        assert table.epoch == 2
        assert [worker.worker_id for worker in table.workers] == ["expert-0", "expert-1"]

    play(store, scene)


def test_a_join_with_another_golden_digest_changes_nothing(store: Store) -> None:
    async def scene(s: Stage) -> None:
        s.lead()
        await s.join("expert", 0)
        await s.loaded(8)
        liar = FakeWorker("expert", 1, s.said)
        liar.salt = b"flipped bit"
        await s.add(liar)
        await s.until(lambda: ("expert-1", "prepare", 2) in s.said, "asked to prepare")
        await asyncio.sleep(0.5)
        table = await s.membership.read_table()
        assert table is not None
        assert table.epoch == 1
        assert len(s.workers[0].loaded) == 8
        await s.join("expert", 2)
        await s.until(lambda: len(s.workers[2].loaded) == 4, "an honest worker may still join")
        table = await s.membership.read_table()
        assert table is not None
        assert "expert-1" not in {worker.worker_id for worker in table.workers}

    play(store, scene)


def test_a_killed_worker_is_noticed_before_its_lease_runs_out(store: Store) -> None:
    async def scene(s: Stage) -> None:
        s.lead()
        await s.join("expert", 0)
        second = await s.join("expert", 1)
        await s.loaded(4, 4)
        await s.membership.announce(second.record())
        await s.kill(second)
        await s.loaded(8)
        assert any(r.worker_id == "expert-1" for r in await s.membership.workers("expert")), "noticed by the lease only"

    play(store, scene)


def test_a_gainer_that_dies_while_loading_does_not_hold_the_others_up(store: Store) -> None:
    async def scene(s: Stage) -> None:
        s.lead()
        await s.join("expert", 0)
        await s.loaded(8)
        slow = FakeWorker("expert", 1, s.said)
        slow.load_s = 600
        await s.add(slow)
        await s.until(lambda: ("expert-1", "prepare", 2) in s.said, "asked to prepare")
        await s.kill(slow)
        await s.join("expert", 2)
        await s.loaded(4, 4)

    play(store, scene)


def test_a_draining_worker_is_emptied_then_told(store: Store) -> None:
    async def scene(s: Stage) -> None:
        s.lead()
        await s.join("expert", 0)
        leaver = await s.join("expert", 1)
        await s.loaded(4, 4)
        leaver.draining = True
        await s.membership.announce(leaver.record())
        await s.loaded(8, 0)

    play(store, scene)


def test_replicas_are_held_by_distinct_workers(store: Store) -> None:
    async def scene(s: Stage) -> None:
        s.lead(replicas=2)
        for number in range(3):
            await s.join("expert", number)
        await s.until(lambda: sorted(len(w.loaded) for w in s.workers) == [5, 5, 6], "two copies of eight")

    play(store, scene)


def test_workers_of_another_numerics_class_are_left_out(store: Store) -> None:
    async def scene(s: Stage) -> None:
        s.lead()
        await s.join("expert", 0)
        await s.loaded(8)
        await s.join("expert", 1, numerics_class="other")
        await asyncio.sleep(0.6)
        await s.loaded(8, 0)

    play(store, scene)


def test_no_table_while_experts_have_no_room(store: Store) -> None:
    async def scene(s: Stage) -> None:
        s.lead()
        await s.join("expert", 0, capacity=5)
        await asyncio.sleep(0.6)
        assert await s.membership.read_table() is None
        await s.join("expert", 1, capacity=5)
        await s.until(lambda: sum(len(w.loaded) for w in s.workers) == 8, "all placed")
        assert all(len(w.loaded) <= 5 for w in s.workers)

    play(store, scene)


def test_a_second_router_takes_over_above_every_epoch(store: Store) -> None:
    async def scene(s: Stage) -> None:
        first = s.lead("router-0")
        await s.join("expert", 0)
        await s.loaded(8)
        second = s.lead("router-1")
        await asyncio.sleep(0.5)
        assert (first.leading, second.leading) == (True, False)
        await s.end("router-0")
        await s.join("expert", 1)
        await s.loaded(4, 4)
        assert second.leading
        assert second.epoch >= 1000

    play(store, scene)


def test_a_new_leader_before_an_empty_redis_begins_with_what_workers_hold(store: Store) -> None:
    async def scene(s: Stage) -> None:
        s.lead("router-0")
        for number in range(2):
            await s.join("expert", number)
        await s.loaded(4, 4)
        before = [set(worker.loaded) for worker in s.workers]
        highest = max(worker.epoch for worker in s.workers)
        await s.end("router-0")
        s.store.client.flushall()
        for worker in s.workers:
            await s.membership.announce(worker.record())
        s.said.clear()
        leader = s.lead("router-1")
        await s.until(lambda: leader.epoch > highest, "a table above the epochs of the workers")
        await s.until(lambda: all(worker.epoch > highest for worker in s.workers), "pushed")
        assert [set(worker.loaded) for worker in s.workers] == before
        assert not [what for _, what, _ in s.said if what == "prepare"]

    play(store, scene)


@pytest.mark.parametrize(
    "poison",
    [b"\xff\xff", Table(epoch=1 << 63).SerializeToString(), Table(epoch=77, numerics_class="c").SerializeToString()],
)
def test_a_poisoned_table_in_redis_is_not_believed(store: Store, poison: bytes) -> None:
    async def scene(s: Stage) -> None:
        s.store.client.set("caracal:table", poison)
        s.store.client.set("caracal:worker:expert:evil", '{"worker_id": "evil", "role": "expert", "epoch": "many"}')
        leader = s.lead()
        await s.join("expert", 0)
        await s.loaded(8)
        await s.until(lambda: leader.epoch > 0, "a table")
        assert leader.epoch < 1 << 62

    play(store, scene)


def test_a_worker_that_comes_back_with_nothing_is_given_its_share_anew(store: Store) -> None:
    async def scene(s: Stage) -> None:
        s.lead()
        old = await s.join("expert", 0)
        await s.loaded(8)
        await s.kill(old)
        await s.join("expert", 0, boot="b")
        await s.loaded(8)

    play(store, scene)


def test_known_workers_fail_over_while_redis_is_away_and_nobody_joins(tmp_path: Path) -> None:
    with redis_store(tmp_path) as store:

        async def scene(s: Stage) -> None:
            s.lead()
            attention = await s.join("attention", 0)
            await s.join("expert", 0)
            second = await s.join("expert", 1)
            await s.loaded(4, 4)
            await s.until(lambda: attention.epoch > 0, "the attention worker has a table")
            before = attention.epoch
            store.client.shutdown(nosave=True)
            await asyncio.sleep(0.5)
            await s.kill(second)
            await s.loaded(8)
            await s.until(lambda: attention.epoch > before, "the attention worker is pushed")

        play(store, scene)


def test_who_resigned_never_leads_again(store: Store) -> None:
    async def scene(s: Stage) -> None:
        leader = s.lead()
        await s.join("attention", 0)
        await s.join("expert", 0)
        await s.loaded(8)
        await leader.resign()
        for _ in range(20):
            await asyncio.sleep(0.1)
            assert await s.membership.leader() is None
            assert not leader.leading
        s.lead("router-1")
        await s.join("expert", 1)
        await s.loaded(4, 4)

    play(store, scene)
