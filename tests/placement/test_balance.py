"""Properties of balancing by measured load.

Legend: E experts of all layers, layer by layer; L layers; W workers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from caracal_proto.placements import MAX_REPLICAS
from hypothesis import given, settings
from hypothesis import strategies as st
from support.placements import of_worker

from services.router.placement.limits import loads
from services.router.placement.load import Floats, Load
from services.router.placement.policy import WorkerView, place
from services.router.placement.table_view import TableView

EXPERTS, LAYERS = 32, 4
WINDOW_S = 60.0


def named(count: int, per_host: int = 0, capacity: int = 0) -> list[WorkerView]:
    hosts = [f"host-{n // per_host}" if per_host else "" for n in range(count)]
    return [WorkerView(f"expert-{n}", capacity=capacity, host=host) for n, host in enumerate(hosts)]


def zipf(rate: float, exponent: float, seed: int = 0, experts: int = EXPERTS, layers: int = LAYERS) -> Floats:
    """Rates of a Zipf law, in another order in each layer; `rate` assignments per second and layer."""
    rng = np.random.default_rng(seed)
    popularity = np.arange(1, experts + 1) ** -exponent
    return np.concatenate([rng.permutation(popularity / popularity.sum()) for _ in range(layers)]) * rate


def loaded(old: TableView, new: TableView) -> int:
    """How many experts workers have to load."""
    return int((new.placed_EW & ~old.columns(new.worker_ids)).sum())


def busy(table: TableView, rows_E: Floats, speed: Mapping[str, float] | None = None) -> Floats:
    """How long each worker takes for a second's rows, [L, W]."""
    speed_W = np.array([(speed or {}).get(worker_id, 1.0) for worker_id in table.worker_ids])
    shape = table.layers, table.experts
    return loads(table.placed_EW.reshape(*shape, -1), rows_E.reshape(shape), speed_W)


def balancedness(table: TableView, rows_E: Floats, speed: Mapping[str, float] | None = None) -> float:
    busy_LW = busy(table, rows_E, speed)
    speeds = sum((speed or {}).get(worker_id, 1.0) for worker_id in table.worker_ids)
    fair_L = rows_E.reshape(table.layers, -1).sum(axis=1) / speeds
    return float((fair_L / busy_LW.max(axis=1)).mean())


def run(
    workers: Sequence[WorkerView],
    rates: Sequence[Floats],
    *,
    replicas: int = 1,
    extra: int = 0,
    moves: int = 1000,
    speed: Mapping[str, float] | None = None,
    seed: int = 0,
) -> list[TableView]:
    """The table at the start, and after each interval, whose counts are drawn from a Poisson law."""
    rng = np.random.default_rng(seed)
    experts = len(rates[0]) // LAYERS
    tables = [place(experts, LAYERS, workers, replicas)]
    for rates_E in rates:
        load = Load(rng.poisson(rates_E * WINDOW_S) / WINDOW_S, WINDOW_S, speed or {})
        tables.append(place(experts, LAYERS, workers, replicas, tables[-1], load, extra, moves))
    return tables


def test_no_expert_gets_more_replicas_than_a_table_can_say() -> None:
    workers, rates_E = named(MAX_REPLICAS + 45), np.ones(LAYERS * 150)
    rates_E[0] = 1e6
    tables = run(workers, [rates_E] * 6, extra=4096)
    assert tables[-1].placed_EW[0].sum() == MAX_REPLICAS


def loads_by_interval(tables: Sequence[TableView]) -> list[int]:
    return [loaded(old, new) for old, new in pairwise(tables)]


@pytest.mark.parametrize(("replicas", "extra"), [(1, 0), (1, 8), (2, 0), (2, 8)])
def test_hot_experts_spread_over_the_workers(replicas: int, extra: int) -> None:
    rows_E = zipf(10000, 0.7)
    first, *_, last = run(named(8), [rows_E] * 10, replicas=replicas, extra=extra)
    assert balancedness(last, rows_E) > balancedness(first, rows_E) + 0.1
    if replicas * extra:
        assert balancedness(last, rows_E) > 0.95
    counts = last.counts.values()
    assert max(counts) <= 1.125 * (EXPERTS * replicas + extra) * LAYERS / 8 + 1
    assert (last.placed_EW.sum(axis=1) >= replicas).all()


@pytest.mark.parametrize("rate", [0.1, 1, 10, 100, 1000, 100000])
@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_a_steady_load_comes_to_rest_whatever_its_noise(rate: float, exponent: float) -> None:
    rows_E = zipf(rate, exponent)
    tables = run(named(8, per_host=2), [rows_E] * 300, replicas=1, extra=6)
    assert not any(loads_by_interval(tables)[60:])
    changes = sum(old != new for old, new in pairwise(tables))
    assert changes <= 8
    assert balancedness(tables[-1], rows_E) >= balancedness(tables[0], rows_E)


def test_few_rows_move_nothing() -> None:
    rows_E = np.zeros(LAYERS * EXPERTS)
    rows_E[3] = 2 / WINDOW_S  # two rows in all: the slowest worker seems to have everything
    tables = run(named(4), [rows_E] * 20, extra=8)
    assert all(table == tables[0] for table in tables)


def test_a_drifting_load_is_followed_within_the_budget() -> None:
    """The hottest expert of a layer is another one every 20 intervals."""
    popular_E = zipf(10000, 0.8).reshape(LAYERS, EXPERTS)
    rates = [np.roll(popular_E, step // 20, axis=1).ravel() for step in range(300)]
    tables = run(named(8), rates, extra=6, moves=20)
    assert max(loads_by_interval(tables)) <= 20
    after = [balancedness(table, rate) for table, rate in zip(tables[1:], rates, strict=True)]
    still = [balancedness(tables[0], rate) for rate in rates]
    assert np.mean(after) > np.mean(still) + 0.2
    total_L = np.stack([(table.placed_EW.sum(axis=1) - 1).reshape(LAYERS, -1).sum(axis=1) for table in tables])
    assert (total_L <= 6).all()


def test_replicas_follow_a_flash_crowd_and_go_when_the_layer_is_as_fast_without() -> None:
    calm_E = zipf(8000, 0.2)
    crowd_E = calm_E.copy()
    crowd_E[5] += 8000
    tables = run(named(8), [calm_E] * 5 + [crowd_E] * 10 + [calm_E] * 10, extra=4)
    copies = [int(table.placed_EW[5].sum()) for table in tables]
    assert copies[5] == 1
    assert copies[15] == 5
    assert copies[-1] < copies[15]
    assert balancedness(tables[-1], calm_E) > 0.95


def test_replicas_of_experts_without_rows_go() -> None:
    crowd_E = zipf(8000, 0.2)
    crowd_E[[5, 40]] += 8000
    gone_E = crowd_E.copy()
    gone_E[[5, 40]] = 0.0
    tables = run(named(8), [crowd_E] * 5 + [gone_E] * 10, extra=4)
    assert tables[5].placed_EW.sum() == LAYERS * EXPERTS + 8
    assert tables[-1].placed_EW.sum() == LAYERS * EXPERTS


def test_a_worker_half_as_fast_gets_half_the_rows() -> None:
    rows_E = zipf(10000, 0.3)
    speed = {"expert-3": 0.5}
    last = run(named(8), [rows_E] * 20, speed=speed)[-1]
    rows_W = (busy(last, rows_E, speed).sum(axis=0) * [speed.get(name, 1.0) for name in last.worker_ids]).tolist()
    slow = rows_W.pop(last.worker_ids.index("expert-3"))
    assert slow == pytest.approx(np.mean(rows_W) / 2, rel=0.1)
    assert balancedness(last, rows_E, speed) > 0.9


def test_a_worker_that_is_fast_again_gets_its_share_back() -> None:
    rows_E = zipf(10000, 0.3)
    rng = np.random.default_rng(1)
    table = place(EXPERTS, LAYERS, named(8), 1)
    for step in range(40):
        load = Load(rng.poisson(rows_E * 60) / 60, 60, {"expert-3": 0.5 if step < 20 else 1.0})
        table = place(EXPERTS, LAYERS, named(8), 1, table, load, moves=30)
    assert balancedness(table, rows_E) > 0.9


def test_a_small_worker_keeps_its_capacity_and_a_frozen_one_gains_nothing() -> None:
    rows_E = zipf(10000, 0.8)
    workers = named(8)
    workers[0] = replace(workers[0], capacity=6)
    workers[1] = replace(workers[1], frozen=True)
    tables = run(workers, [rows_E] * 20, extra=6)
    assert all(table.counts["expert-0"] <= 6 for table in tables)
    assert of_worker(tables[-1], "expert-1") <= of_worker(tables[0], "expert-1")
    assert balancedness(tables[-1], rows_E) > balancedness(tables[0], rows_E)


@pytest.mark.parametrize("per_host", [0, 2])
def test_full_workers_exchange_a_few_experts_at_a_time(per_host: int) -> None:
    """What a worker gains is loaded before what it loses is let go: both need memory."""
    capacity, replicas = (EXPERTS * LAYERS // 8, 1) if not per_host else (EXPERTS * LAYERS // 4, 2)
    rows_E = zipf(10000, 0.8)
    apart = [place(EXPERTS, LAYERS, named(8, 0, capacity), replicas)]
    for _ in range(40):
        load = Load(rows_E, WINDOW_S)
        apart.append(place(EXPERTS, LAYERS, named(8, per_host, capacity), replicas, apart[-1], load, moves=1000))
    held = [(new.placed_EW | old.columns(new.worker_ids)).sum(axis=0).max() for old, new in pairwise(apart)]
    assert max(held) == capacity + 1, "one more, and no more"
    assert balancedness(apart[-1], rows_E) > balancedness(apart[0], rows_E)


def test_a_colder_replica_makes_room_for_a_hotter_one() -> None:
    first_E, then_E = (np.full(LAYERS * EXPERTS, 100.0) for _ in range(2))
    first_E[[0, 1]] = 1500.0
    then_E[[0, 1]] = 400.0  # not cold
    then_E[2] = 3000.0
    tables = run(named(8), [first_E] * 5 + [then_E] * 5, extra=2)
    assert tables[5].placed_EW[:3].sum(axis=1).tolist() == [2, 2, 1]
    assert tables[-1].placed_EW[2].sum() > 1
    assert tables[-1].placed_EW[:EXPERTS].sum() == EXPERTS + 2


def test_replicas_on_one_host_are_brought_apart_within_the_budget() -> None:
    unknown = place(EXPERTS, LAYERS, named(8), 2)
    workers = named(8, per_host=2)
    table, rows_E = unknown, zipf(1000, 0.3)
    for _ in range(40):
        before = table
        table = place(EXPERTS, LAYERS, workers, 2, table, Load(rows_E, WINDOW_S), moves=10)
        assert loaded(before, table) <= 10
    host_W = np.array([int(name.rpartition("-")[2]) // 2 for name in table.worker_ids])
    doubled = [sum(len(set(host_W[row])) < 2 for row in view.placed_EW) for view in (unknown, table)]
    assert doubled[0] > 0
    assert doubled[1] == 0


def test_a_balanced_table_stays_while_nothing_has_been_measured_yet() -> None:
    """What a new leader sees: it knows the table, and no rows."""
    balanced = run(named(8), [zipf(10000, 0.8)] * 10, extra=6)[-1]
    nothing = Load(np.zeros(EXPERTS * LAYERS), WINDOW_S)
    assert place(EXPERTS, LAYERS, named(8), 1, balanced, nothing, 6, 100) == balanced
    assert place(EXPERTS, LAYERS, named(8), 1, balanced) != balanced  # without a load all is undone


def test_when_a_layer_may_have_fewer_replicas_those_of_the_hottest_stay() -> None:
    rows_E = zipf(10000, 0.8)
    many = run(named(8), [rows_E] * 10, extra=6)[-1]
    few = place(EXPERTS, LAYERS, named(8), 1, many, Load(rows_E, WINDOW_S), 1)
    assert loaded(many, few) == 0
    more_LE = few.placed_EW.sum(axis=1).reshape(LAYERS, EXPERTS) - 1
    assert more_LE.sum(axis=1).tolist() == [1] * LAYERS
    assert (more_LE.argmax(axis=1) == rows_E.reshape(LAYERS, EXPERTS).argmax(axis=1)).any()


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, -5.0])
def test_rates_that_are_none_count_as_zero(wrong: float) -> None:
    rows_E = zipf(10000, 0.8)
    zeroed_E = rows_E.copy()
    rows_E[::7], zeroed_E[::7] = wrong, 0.0
    start = place(EXPERTS, LAYERS, named(8), 1)
    odd, clean = (
        place(EXPERTS, LAYERS, named(8), 1, start, Load(each_E, WINDOW_S, speed), 4, 100)
        for each_E, speed in ((rows_E, {"expert-1": wrong}), (zeroed_E, {}))
    )
    assert odd == clean
    assert odd != start


@pytest.mark.parametrize("window_s", [0.0, -1.0, np.nan, np.inf])
def test_a_window_that_is_none_moves_nothing(window_s: float) -> None:
    start = place(EXPERTS, LAYERS, named(8), 1)
    assert place(EXPERTS, LAYERS, named(8), 1, start, Load(zipf(1000, 0.8), window_s), 4, 100) == start


def test_a_load_of_another_model_is_rejected() -> None:
    with pytest.raises(ValueError, match="128 experts"):
        place(EXPERTS, LAYERS, named(2), 1, load=Load(np.ones(7), WINDOW_S))


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_leave_and_a_join_load_no_more_than_without_a_load_and_keep_the_balance(replicas: int) -> None:
    rows_E = zipf(10000, 0.5)
    balanced = run(named(9), [rows_E] * 10, replicas=replicas)[-1]
    left = named(9)[:4] + named(9)[5:]
    load = Load(rows_E, WINDOW_S)
    after = place(EXPERTS, LAYERS, left, replicas, balanced, load, moves=1000)
    assert loaded(balanced, after) == len(of_worker(balanced, "expert-4"))
    blind = place(EXPERTS, LAYERS, left, replicas, balanced)
    assert balancedness(after, rows_E) > balancedness(blind, rows_E)
    joined = place(EXPERTS, LAYERS, named(9), replicas, after, load, moves=1000)
    assert loaded(after, joined) == len(of_worker(joined, "expert-4"))
    assert joined.counts["expert-4"] == pytest.approx(EXPERTS * LAYERS * replicas / 9, abs=2)
    rows_W = busy(joined, rows_E).sum(axis=0)
    assert rows_W[joined.worker_ids.index("expert-4")] == pytest.approx(rows_W.mean(), rel=0.3)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_any_history_keeps_what_fault_tolerance_and_memory_need(data: st.DataObject) -> None:
    experts, layers = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 3))
    replicas, extra = data.draw(st.integers(1, 3)), data.draw(st.integers(0, 4))
    moves = data.draw(st.integers(0, 20))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    table: TableView | None = None
    for _ in range(data.draw(st.integers(1, 6))):
        workers = [
            WorkerView(
                f"expert-{n}",
                draining=bool(rng.random() < 0.1),
                capacity=int(rng.choice([0, 0, 0, 3, 9, 20])),
                host=str(rng.choice(["", "a", "b", "c"])),
                frozen=bool(rng.random() < 0.1),
            )
            for n in rng.choice(9, int(rng.integers(1, 9)), replace=False).tolist()
        ]
        rows_E = rng.gamma(0.3, 1000.0, layers * experts)
        load = Load(rows_E, WINDOW_S, {worker.worker_id: float(rng.choice([1.0, 0.5])) for worker in workers})
        equal = place(experts, layers, workers, replicas, table)
        new = place(experts, layers, workers, replicas, table, load, extra, moves)
        for _ in range(3):
            _check(new, equal, workers, replicas, extra)
            before = new
            new = place(experts, layers, workers, replicas, before, load, extra, moves)
            assert loaded(before, new) <= moves
        table = new


def _check(new: TableView, equal: TableView, workers: Sequence[WorkerView], replicas: int, extra: int) -> None:
    """`equal`: the same without a load."""
    assert new.missing == equal.missing
    counts = new.counts
    for worker in workers:
        assert not worker.capacity or counts.get(worker.worker_id, 0) <= worker.capacity
    draining = [worker.worker_id for worker in workers if worker.draining]
    assert new.columns(draining).sum() == equal.columns(draining).sum()
    copies_E, equal_E = new.placed_EW.sum(axis=1), equal.placed_EW.sum(axis=1)
    assert (copies_E >= equal_E).all()
    assert (np.maximum(copies_E - equal_E, 0).reshape(new.layers, -1).sum(axis=1) <= extra).all()
