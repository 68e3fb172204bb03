"""Two numerics classes at once, while one replaces the other: each has its table, and the old experts leave last."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from support.fake_experts import FakeWorker
from support.leader_harness import LeaderHarness, run_scenario
from support.worker_processes import Store, redis_store

from services.membership.class_hint import ClassHint, parse
from services.membership.record import WorkerRecord
from services.router.placement.generations import ClassState, can_lose_one, ends, hints_of, is_released, waits_for

pytestmark = pytest.mark.processes

OLD, NEW = "c", "d"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with redis_store(tmp_path_factory.mktemp("redis")) as store:
        yield store


def workers(role: str, numerics_class: str, count: int, capacity: int = 0) -> tuple[WorkerRecord, ...]:
    return tuple(
        WorkerRecord(
            worker_id=f"{role}-{number}",
            role=role,
            address=f"127.0.0.1:{number + 1}",
            boot_id=f"{role}{number}{numerics_class}",
            numerics_class=numerics_class,
            capacity=capacity,
        )
        for number in range(count)
    )


def state(name: str, experts: int, attention: int, *, table: bool = True, possible: bool = True) -> ClassState:
    return ClassState(
        numerics_class=name,
        experts=workers("expert", name, experts),
        attention=workers("attention", name, attention),
        has_table=table,
        complete=table and experts > 0,
        possible=possible and experts > 0,
    )


def test_what_is_left_without_any_one_worker() -> None:
    assert not can_lose_one([], 8)
    assert not can_lose_one([0], 8)
    assert can_lose_one([0, 0], 8)
    assert not can_lose_one([0, 7], 8), "the one without a limit may be it"
    assert can_lose_one([0, 8], 8)
    assert can_lose_one([4, 4, 4], 8)
    assert not can_lose_one([4, 4, 3], 8)


def test_a_class_ends_when_its_experts_are_gone_and_another_class_comes() -> None:
    old, new = state(OLD, 2, 2), state(NEW, 1, 0, table=False)
    assert not ends(old, [new])
    assert ends(state(OLD, 0, 2), [new])
    assert not ends(state(OLD, 0, 2), []), "alone, it waits for its workers"
    assert not ends(state(OLD, 0, 2), [state(NEW, 0, 1)])
    assert ends(state(OLD, 1, 2, table=False, possible=False), [new]), "what is left cannot hold all experts"


def test_experts_are_released_when_no_attention_worker_needs_them() -> None:
    assert is_released(state(OLD, 1, 0), [state(NEW, 1, 1)])
    assert not is_released(state(OLD, 1, 1), [state(NEW, 1, 1)])
    assert not is_released(state(OLD, 1, 0), [state(NEW, 1, 1, table=False)])
    assert not is_released(state(OLD, 1, 0), [])


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (state(OLD, 2, 2), state(NEW, 1, 1), ""),
        (state(OLD, 1, 1), state(NEW, 1, 1), "attention-0 of numerics class c still need their last experts"),
        (state(OLD, 1, 0), state(NEW, 1, 1), ""),
        (state(OLD, 1, 1), state(NEW, 1, 0, table=False), "no attention worker of its numerics class d"),
        (state(OLD, 1, 1), state(NEW, 1, 1, table=False), "its numerics class has no placement yet"),
        (state(OLD, 1, 1), state(NEW, 1, 1, table=False, possible=False), ""),
        (state(OLD, 1, 1, table=False), state(NEW, 1, 1), ""),
    ],
)
def test_when_a_new_expert_worker_is_ready(old: ClassState, new: ClassState, why: str) -> None:
    found = waits_for(new, [old], 8)
    assert found.startswith(why)
    assert bool(found) == bool(why)


def test_hints_are_read_as_they_were_written(store: Store) -> None:
    async def scenario(harness: LeaderHarness) -> None:
        hints = (ClassHint(OLD, True), ClassHint(NEW, False, "why"))
        await harness.membership.generations.write(hints)
        assert await harness.membership.generations.read() == hints
        store.client.set("caracal:generations", b'[{"numerics_class": 1}]')
        assert await harness.membership.generations.read() == ()
        await harness.membership.generations.withdraw()
        assert await harness.membership.generations.read() == ()

    run_scenario(store, scenario)


@pytest.mark.parametrize("wrong", [b"{}", b"[1]", b'[{"numerics_class": "c", "ended": 1, "hold": ""}]', b"["])
def test_hints_of_another_form_are_refused(wrong: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse(wrong)


def test_classes_without_a_placement_are_named_too() -> None:
    served = [state(OLD, 1, 1)]
    experts = [*served[0].experts, *workers("expert", NEW, 1)]
    found = hints_of(served, experts, served[0].attention, 8)
    assert [one.numerics_class for one in found] == [OLD, NEW]
    assert found[1].hold.startswith("no attention worker")
    assert hints_of(served, served[0].experts, served[0].attention, 8) == ()


async def leave(harness: LeaderHarness, worker: FakeWorker) -> None:
    """The worker ends in order."""
    await harness.kill(worker)
    await harness.membership.withdraw(worker.record())


def test_a_new_class_gets_a_table_beside_the_old_one(store: Store) -> None:
    async def scenario(harness: LeaderHarness) -> None:
        leader = harness.lead()
        old, attention = await harness.join("expert", 0), await harness.join("attention", 0)
        await harness.until(lambda: attention.epoch > 0 and len(old.loaded) == 8, "the old class serves")
        before = leader.epoch
        new = await harness.join("expert", 1, numerics_class=NEW)
        await asyncio.sleep(0.6)
        assert not new.loaded, "without an attention worker nobody needs it"
        later = await harness.join("attention", 1, numerics_class=NEW)
        await harness.until(lambda: later.epoch > 0 and len(new.loaded) == 8, "the new class serves")
        assert leader.epoch == before, "nothing has changed for the old class"
        assert len(old.loaded) == 8
        await asyncio.sleep(1.2)  # the hint is renewed every half second
        hints = {one.numerics_class: one for one in await harness.membership.generations.read()}
        assert list(hints) == [OLD, NEW]
        assert not hints[OLD].ended
        assert "attention-0 of numerics class c still need" in hints[NEW].hold

    run_scenario(store, scenario)


def test_the_last_old_experts_leave_when_the_old_attention_workers_are_gone(store: Store) -> None:
    async def scenario(harness: LeaderHarness) -> None:
        leader = harness.lead()
        old, attention = await harness.join("expert", 0), await harness.join("attention", 0)
        new, later = [await harness.join(role, 1, numerics_class=NEW) for role in ("expert", "attention")]
        await harness.until(lambda: later.epoch > 0 and attention.epoch > 0, "both classes serve")
        old.draining = True
        await harness.membership.announce(old.record())
        await asyncio.sleep(0.5)
        assert len(old.loaded) == 8, "an old attention worker may need them"
        await leave(harness, attention)
        await harness.until(lambda: not old.loaded, "they go at once")
        await leave(harness, old)
        await harness.until(lambda: leader.epoch >= new.epoch > 0, "the new class has the main table")
        await harness.until(lambda: later.epoch == leader.epoch, "its attention worker has it, too")
        assert len(new.loaded) == 8
        await asyncio.sleep(0.6)
        table = await harness.membership.read_table()
        assert table is not None
        assert (table.numerics_class, table.epoch) == (NEW, leader.epoch)

    run_scenario(store, scenario)


def test_the_next_leader_keeps_both_classes(store: Store) -> None:
    async def scenario(harness: LeaderHarness) -> None:
        harness.lead("router-0")
        old, attention = await harness.join("expert", 0), await harness.join("attention", 0)
        new, later = [await harness.join(role, 1, numerics_class=NEW) for role in ("expert", "attention")]
        await harness.until(lambda: later.epoch > 0 and attention.epoch > 0, "both classes serve")
        await harness.end("router-0")
        epochs, harness.calls[:] = (attention.epoch, later.epoch), []
        second = harness.lead("router-1")
        await harness.until(lambda: second.leading and later.epoch > epochs[1], "the second knows both classes")
        assert len(old.loaded) == len(new.loaded) == 8
        assert attention.epoch >= epochs[0]
        assert not [call for call in harness.calls if call[1] == "prepare"], "nothing is loaded again"

    run_scenario(store, scenario)
