"""Properties of the placement policy."""

from __future__ import annotations

import hashlib
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.placements import of_worker

from services.membership.worker_order import ordinal
from services.router.placement.policy import WorkerView, place
from services.router.placement.table_view import TableView

sizes = st.tuples(st.integers(1, 9), st.integers(1, 4))
counts = st.integers(1, 7)


def named(*numbers: int, draining: tuple[int, ...] = (), capacity: int = 0) -> list[WorkerView]:
    return [WorkerView(f"expert-{n}", n in draining, capacity) for n in numbers]


def items(table: TableView) -> list[tuple[int, tuple[str, ...]]]:
    """Every expert, counted over all layers, with the workers that have it."""
    rows = (np.flatnonzero(placed_W) for placed_W in table.placed_EW)
    return [(item, tuple(table.worker_ids[column] for column in columns)) for item, columns in enumerate(rows)]


def loads(table: TableView, workers: list[WorkerView]) -> list[int]:
    return [len(of_worker(table, worker.worker_id)) for worker in workers]


def moved(old: TableView, new: TableView) -> int:
    """Returns how many replicas must be loaded."""
    before = dict(items(old))
    return sum(len(set(worker_ids) - set(before[item])) for item, worker_ids in items(new))


@given(sizes, counts, st.integers(1, 3))
def test_every_expert_has_its_replicas_on_distinct_workers(size: tuple[int, int], workers: int, replicas: int) -> None:
    experts, layers = size
    table = place(experts, layers, named(*range(workers)), replicas)
    assert len(table.placed_EW) == layers * experts
    for _, worker_ids in items(table):
        assert len(worker_ids) == len(set(worker_ids)) == min(replicas, workers)
        assert list(worker_ids) == sorted(worker_ids, key=ordinal)


@given(sizes, st.lists(counts, min_size=1, max_size=6), st.integers(1, 3))
def test_shares_stay_equal_through_any_scaling(size: tuple[int, int], steps: list[int], replicas: int) -> None:
    experts, layers = size
    table = None
    for count in steps:
        workers = named(*range(count))
        table = place(experts, layers, workers, replicas, table)
        shares = loads(table, workers)
        assert max(shares) - min(shares) <= 1
        assert sum(shares) == experts * layers * min(replicas, count)


@given(sizes, st.integers(1, 6))
def test_a_join_loads_only_what_the_new_worker_gets(size: tuple[int, int], count: int) -> None:
    experts, layers = size
    old = place(experts, layers, named(*range(count)), 1)
    new = place(experts, layers, named(*range(count + 1)), 1, old)
    assert moved(old, new) == len(of_worker(new, f"expert-{count}")) == experts * layers // (count + 1)


@given(sizes, st.integers(2, 7), st.data())
def test_a_leave_loads_only_what_the_removed_worker_had(size: tuple[int, int], count: int, data: st.DataObject) -> None:
    experts, layers = size
    gone = data.draw(st.integers(0, count - 1))
    old = place(experts, layers, named(*range(count)), 1)
    new = place(experts, layers, named(*(n for n in range(count) if n != gone)), 1, old)
    assert moved(old, new) == len(of_worker(old, f"expert-{gone}"))


@given(sizes, st.integers(1, 5), st.integers(1, 3))
def test_the_same_workers_keep_the_same_table(size: tuple[int, int], count: int, replicas: int) -> None:
    experts, layers = size
    old = place(experts, layers, named(*range(count)), replicas)
    assert place(experts, layers, named(*reversed(range(count))), replicas, old) == old


@given(sizes, st.integers(2, 6), st.integers(1, 2), st.data())
def test_draining_workers_get_nothing_while_others_have_capacity(
    size: tuple[int, int], count: int, replicas: int, data: st.DataObject
) -> None:
    experts, layers = size
    draining = data.draw(st.sets(st.integers(0, count - 1), min_size=1, max_size=count - 1))
    old = place(experts, layers, named(*range(count)), replicas)
    new = place(experts, layers, named(*range(count), draining=tuple(draining)), replicas, old)
    assert not any(of_worker(new, f"expert-{n}") for n in draining)
    assert new.missing == 0


def test_a_worker_that_cannot_be_replaced_keeps_its_experts_while_draining() -> None:
    old = place(4, 1, named(0, 1, capacity=2), 1)
    new = place(4, 1, named(0, 1, draining=(1,), capacity=2), 1, old)
    assert new == old


@given(sizes, st.integers(1, 5), st.integers(1, 12), st.integers(1, 3))
def test_capacity_is_kept_and_first_replicas_come_first(
    size: tuple[int, int], count: int, capacity: int, replicas: int
) -> None:
    experts, layers = size
    workers = named(*range(count), capacity=capacity)
    table = place(experts, layers, workers, replicas)
    assert all(share <= capacity for share in loads(table, workers))
    assert table.missing == max(0, experts * layers - count * capacity)
    counts = [len(worker_ids) for _, worker_ids in items(table)]
    assert min(counts) > 0 or max(counts) == 1


@given(st.integers(5, 20), st.integers(1, 4), st.integers(2, 5), st.integers(1, 3), st.integers(2, 3))
def test_replicas_are_on_distinct_hosts(experts: int, layers: int, hosts: int, each: int, replicas: int) -> None:
    workers = [WorkerView(f"expert-{n}", host=f"host-{n // each}") for n in range(hosts * each)]
    table = place(experts, layers, workers, replicas)
    host_W = np.array([ordinal(worker_id)[1] // each for worker_id in table.worker_ids])
    assert all(len(set(host_W[row].tolist())) == min(replicas, hosts) for row in table.placed_EW)


def _apart(table: TableView, label_of: dict[str, str]) -> list[int]:
    """In how many distinct places each expert's replicas are."""
    label_W = np.array([label_of[worker_id] for worker_id in table.worker_ids])
    return [len(set(label_W[row].tolist())) for row in table.placed_EW]


@given(st.integers(5, 20), st.integers(1, 4), st.integers(2, 4), st.integers(1, 2), st.integers(2, 3))
def test_replicas_are_in_distinct_zones_where_zones_are_as_large(
    experts: int, layers: int, zones: int, each: int, replicas: int
) -> None:
    """With two workers on each host of a zone: distinct zones are distinct hosts."""
    workers = [
        WorkerView(f"expert-{n}", zone=f"zone-{n % zones}", host=f"host-{n % (zones * each)}")
        for n in range(zones * each * 2)
    ]
    table = place(experts, layers, workers, replicas)
    hosts = {worker.worker_id: worker.host for worker in workers}
    in_zones = {worker.worker_id: worker.zone for worker in workers}
    if replicas <= zones:
        assert set(_apart(table, in_zones)) == {replicas}
    assert set(_apart(table, hosts)) == {min(replicas, zones * each)}


@pytest.mark.parametrize("zones", ["aaab", "aab?"])
def test_where_zones_cannot_keep_all_apart_hosts_do(zones: str) -> None:
    """One zone has most of the workers, or a worker's zone is unknown."""
    workers = [WorkerView(f"expert-{n}", zone=zone.strip("?"), host=f"host-{n}") for n, zone in enumerate(zones)]
    table = place(24, 2, workers, 2)
    assert set(_apart(table, {worker.worker_id: worker.host for worker in workers})) == {2}


def test_the_loss_of_a_zone_leaves_a_replica_of_every_expert() -> None:
    workers = [WorkerView(f"expert-{n}", zone="ab"[n % 2], host=f"host-{n}") for n in range(6)]
    table = place(16, 3, workers, 2)
    left = [worker for worker in workers if worker.zone == "a"]
    assert table.columns([worker.worker_id for worker in left]).any(axis=1).all()
    again = place(16, 3, left, 2, table)
    assert set(again.placed_EW.sum(axis=1).tolist()) == {2}, "in one zone there are two replicas again, on two hosts"


def test_without_a_load_and_hosts_tables_stay_what_they_were() -> None:
    """Bit for bit: a router that is upgraded moves nothing."""
    found = hashlib.sha256("".join(digest_of_history(seed) for seed in range(60)).encode())
    assert found.hexdigest()[:16] == "2e2500d2a3a019d0"


def digest_of_history(seed: int) -> str:
    rng = np.random.default_rng(seed)
    experts, layers = int(rng.integers(1, 40)), int(rng.integers(1, 6))
    found, table = hashlib.sha256(), None
    for _ in range(12):
        numbers = rng.choice(12, int(rng.integers(0, 12)), replace=False).tolist()
        workers = [
            WorkerView(f"expert-{n}", bool(rng.random() < 0.2), int(rng.choice([0, 0, 5, 17, 60]))) for n in numbers
        ]
        table = place(experts, layers, workers, int(rng.integers(1, 4)), table)
        found.update(repr(table.worker_ids).encode() + table.placed_EW.tobytes())
    return found.hexdigest()[:16]


def test_one_layer_spreads_over_all_workers() -> None:
    table = place(8, 4, named(0, 1, 2, 3), 1)
    assert table.placed_EW.reshape(4, 8, 4).sum(axis=1).tolist() == [[2] * 4] * 4


def test_without_workers_every_expert_is_missing() -> None:
    assert place(3, 2, [], 1).missing == 6


@given(st.text(max_size=30))
def test_any_worker_id_has_an_ordinal(worker_id: str) -> None:
    name, number = ordinal(worker_id)
    assert worker_id.startswith(name)
    assert int(worker_id[len(name) :] or 0) == number


def test_ordinals_sort_as_numbers() -> None:
    assert sorted(["expert-10", "expert-9", "expert-1"], key=ordinal) == ["expert-1", "expert-9", "expert-10"]


def test_the_full_model_is_placed_within_seconds() -> None:
    started = time.monotonic()
    table = place(512, 28, named(*range(32)), 1)
    place(512, 28, named(*range(33)), 1, table)
    assert table.missing == 0
    assert time.monotonic() - started < 60  # a guard against quadratic work, not a speed
