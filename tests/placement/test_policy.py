"""Properties of the placement policy."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from services.router.placement.policy import TableView, WorkerView, ordinal, place

sizes = st.tuples(st.integers(1, 9), st.integers(1, 4))
counts = st.integers(1, 7)


def named(*numbers: int, draining: tuple[int, ...] = (), capacity: int = 0) -> list[WorkerView]:
    return [WorkerView(f"expert-{n}", n in draining, capacity) for n in numbers]


def held(table: TableView, workers: list[WorkerView]) -> list[int]:
    return [len(table.of(worker.worker_id)) for worker in workers]


def moved(old: TableView, new: TableView) -> int:
    """Copies that have to be loaded."""
    before = dict(old.items())
    return sum(len(set(holders) - set(before[item])) for item, holders in new.items())


@given(sizes, counts, st.integers(1, 3))
def test_every_expert_is_placed_as_often_as_wanted_on_distinct_workers(size, workers, replicas):
    experts, layers = size
    table = place(experts, layers, named(*range(workers)), replicas)
    assert len(table.layers) == layers
    for _, holders in table.items():
        assert len(holders) == len(set(holders)) == min(replicas, workers)
        assert list(holders) == sorted(holders, key=ordinal)


@given(sizes, st.lists(counts, min_size=1, max_size=6), st.integers(1, 3))
def test_shares_stay_equal_through_any_scaling(size, steps, replicas):
    experts, layers = size
    table = None
    for count in steps:
        workers = named(*range(count))
        table = place(experts, layers, workers, replicas, table)
        shares = held(table, workers)
        assert max(shares) - min(shares) <= 1
        assert sum(shares) == experts * layers * min(replicas, count)


@given(sizes, st.integers(1, 6))
def test_a_join_loads_only_what_the_newcomer_gets(size, count):
    experts, layers = size
    old = place(experts, layers, named(*range(count)), 1)
    new = place(experts, layers, named(*range(count + 1)), 1, old)
    assert moved(old, new) == len(new.of(f"expert-{count}")) == experts * layers // (count + 1)


@given(sizes, st.integers(2, 7), st.data())
def test_a_leave_loads_only_what_the_leaver_held(size, count, data):
    experts, layers = size
    gone = data.draw(st.integers(0, count - 1))
    old = place(experts, layers, named(*range(count)), 1)
    new = place(experts, layers, named(*(n for n in range(count) if n != gone)), 1, old)
    assert moved(old, new) == len(old.of(f"expert-{gone}"))


@given(sizes, st.integers(1, 5), st.integers(1, 3))
def test_nothing_changed_means_that_nothing_moves(size, count, replicas):
    experts, layers = size
    old = place(experts, layers, named(*range(count)), replicas)
    assert place(experts, layers, named(*reversed(range(count))), replicas, old) == old


@given(sizes, st.integers(2, 6), st.integers(1, 2), st.data())
def test_draining_workers_get_nothing_while_others_have_room(size, count, replicas, data):
    experts, layers = size
    leavers = data.draw(st.sets(st.integers(0, count - 1), min_size=1, max_size=count - 1))
    old = place(experts, layers, named(*range(count)), replicas)
    new = place(experts, layers, named(*range(count), draining=tuple(leavers)), replicas, old)
    assert not any(new.of(f"expert-{n}") for n in leavers)
    assert new.missing == 0


def test_a_worker_that_cannot_be_replaced_keeps_its_experts_while_draining():
    old = place(4, 1, named(0, 1, capacity=2), 1)
    new = place(4, 1, named(0, 1, draining=(1,), capacity=2), 1, old)
    assert new == old


@given(sizes, st.integers(1, 5), st.integers(1, 12), st.integers(1, 3))
def test_capacity_holds_and_first_copies_come_first(size, count, capacity, replicas):
    experts, layers = size
    workers = named(*range(count), capacity=capacity)
    table = place(experts, layers, workers, replicas)
    assert all(share <= capacity for share in held(table, workers))
    assert table.missing == max(0, experts * layers - count * capacity)
    copies = [len(holders) for _, holders in table.items()]
    assert min(copies) > 0 or max(copies) == 1


def test_the_heaviest_experts_get_the_second_copy_when_room_is_short():
    table = place(4, 1, named(0, 1, capacity=3), 2, load={(0, 2): 9.0, (0, 1): 8.0})
    assert [len(holders) for _, holders in table.items()] == [1, 2, 2, 1]


def test_load_is_spread_when_it_is_known():
    load = {(0, 0): 10.0, (0, 1): 10.0, (0, 2): 1.0, (0, 3): 1.0}
    table = place(4, 1, named(0, 1), 1, load=load)
    assert sorted(sum(load[item] for item in table.of(f"expert-{n}")) for n in range(2)) == [11.0, 11.0]


def test_one_layer_spreads_over_all_workers():
    table = place(8, 4, named(0, 1, 2, 3), 1)
    assert all(sum("expert-0" in holders for holders in layer) == 2 for layer in table.layers)


def test_no_worker_means_that_nobody_holds_anything():
    assert place(3, 2, [], 1).missing == 6


@given(st.text(max_size=30))
def test_any_worker_id_has_an_ordinal_that_tells_it_back(worker_id):
    name, number = ordinal(worker_id)
    assert worker_id.startswith(name)
    assert int(worker_id[len(name) :] or 0) == number


def test_ordinals_count_as_numbers():
    assert sorted(["expert-10", "expert-9", "expert-1"], key=ordinal) == ["expert-1", "expert-9", "expert-10"]


def test_the_full_model_is_placed_quickly_enough_to_react():
    started = time.monotonic()
    table = place(512, 28, named(*range(32)), 1)
    place(512, 28, named(*range(33)), 1, table)
    assert table.missing == 0
    assert time.monotonic() - started < 60  # a guard against quadratic work, not a speed
