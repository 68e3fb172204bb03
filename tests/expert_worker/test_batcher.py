"""Callers of one layer share a launch, get their own rows back bit for bit, and their own errors."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from services.expert_worker.batcher import Batcher, DeadlinePassed, Job

HIDDEN = 4


def job(layer: int, number: int, rows: int = 3, deadline: float = float("inf")) -> Job:
    """P2PRegistry of every second row with experts 0 and 2, and of the last with 1."""
    x_RD = torch.full((rows, HIDDEN), float(number)) + torch.arange(rows)[:, None]
    pairs = sorted([(0, r) for r in range(0, rows, 2)] + [(2, r) for r in range(0, rows, 2)] + [(1, rows - 1)])
    expert_A, row_A = (torch.tensor(x, dtype=torch.int32) for x in zip(*pairs, strict=True))
    return Job(layer, x_RD, row_A, expert_A, deadline)


def answer(layer: int, x_RD: Tensor, row_A: Tensor, expert_A: Tensor) -> Tensor:
    rank_A = expert_A.long() * len(x_RD) + row_A
    assert (rank_A[1:] > rank_A[:-1]).all(), "pairs ascend by (expert, row), merged or not"
    return x_RD[row_A.long()] * 100 + expert_A[:, None] * 10 + layer


class RoutedBatch:
    """The computation, held shut until `open`."""

    def __init__(self, then: Callable[[int, Tensor, Tensor, Tensor], Tensor] = answer) -> None:
        self.open = threading.Event()
        self.entered = threading.Event()
        self.layers: list[int] = []
        self._then = then

    def __call__(self, layer: int, x_RD: Tensor, row_A: Tensor, expert_A: Tensor) -> Tensor:
        self.layers.append(layer)
        self.entered.set()
        assert self.open.wait(10)
        return self._then(layer, x_RD, row_A, expert_A)


def run_all(batcher: Batcher, gate: RoutedBatch, jobs: list[Job]) -> list[Tensor | Exception]:
    """The first job starts a launch; the others arrive while it runs."""
    results: list[Tensor | Exception] = [RuntimeError("not run")] * len(jobs)

    def one(index: int) -> None:
        try:
            results[index] = batcher.run(jobs[index])
        except Exception as error:  # noqa: BLE001 - handed to the test
            results[index] = error

    threads = [threading.Thread(target=one, args=(index,)) for index in range(len(jobs))]
    threads[0].start()
    assert gate.entered.wait(10)
    for thread in threads[1:]:
        thread.start()
        time.sleep(0.01)
    gate.open.set()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    return results


def test_what_arrives_during_a_launch_shares_the_next_one() -> None:
    gate = RoutedBatch()
    batcher = Batcher(gate)
    jobs = [job(0, 0), job(1, 10), job(1, 20, rows=5), job(0, 30), job(1, 40, rows=1)]
    results = run_all(batcher, gate, jobs)
    for one, result in zip(jobs, results, strict=True):
        assert torch.equal(result, answer(one.layer, one.x_RD, one.row_A, one.expert_A))  # type: ignore[arg-type]
    assert gate.layers == [0, 1, 0], "oldest first, whole layers together"
    assert (batcher.counters.launches, batcher.counters.calls) == (3, 5)
    assert batcher.counters.rows == 3 + 3 + 5 + 3 + 1
    assert batcher.counters.pairs == sum(len(one.row_A) for one in jobs)


def test_a_launch_has_a_limit_of_rows() -> None:
    gate = RoutedBatch()
    batcher = Batcher(gate, max_rows=8)
    run_all(batcher, gate, [job(0, 0)] + [job(1, i) for i in range(5)])
    assert gate.layers == [0, 1, 1, 1]


def test_a_lone_job_waits_for_nobody() -> None:
    batcher = Batcher(answer)
    assert len(batcher.run(job(0, 1))) == 5


def test_one_caller_s_failure_is_its_own() -> None:
    def picky(layer: int, x_RD: Tensor, row_A: Tensor, expert_A: Tensor) -> Tensor:
        if (x_RD >= 1000).any():
            raise LookupError("not these rows")
        return answer(layer, x_RD, row_A, expert_A)

    gate = RoutedBatch(picky)
    batcher = Batcher(gate)
    jobs = [job(0, 0), job(1, 1), job(1, 1000), job(1, 2)]
    results = run_all(batcher, gate, jobs)
    assert isinstance(results[2], LookupError)
    for index in (0, 1, 3):
        one = jobs[index]
        assert torch.equal(results[index], answer(one.layer, one.x_RD, one.row_A, one.expert_A))  # type: ignore[arg-type]
    assert batcher.counters.failed == 1
    assert len(batcher.run(job(0, 3))) == 5, "the batcher lives on"


def test_rows_past_their_deadline_are_not_computed() -> None:
    gate = RoutedBatch()
    batcher = Batcher(gate)
    jobs = [job(0, 0), job(1, 1, deadline=time.monotonic() + 0.005), job(1, 2)]
    results = run_all(batcher, gate, jobs)
    assert isinstance(results[1], DeadlinePassed)
    assert isinstance(results[2], Tensor)
    assert batcher.counters.calls == 2


def test_progress_stands_still_only_while_a_launch_runs() -> None:
    gate = RoutedBatch()
    batcher = Batcher(gate)
    batcher.tick()
    assert batcher.counters.progress == 1
    running = threading.Thread(target=batcher.run, args=(job(0, 0),))
    running.start()
    assert gate.entered.wait(10)
    ticking = threading.Thread(target=batcher.tick)
    ticking.start()
    ticking.join(0.1)
    assert ticking.is_alive()
    assert batcher.counters.progress == 1
    gate.open.set()
    ticking.join(10)
    running.join(10)
    assert batcher.counters.progress == 3


def test_many_callers_at_random_always_get_their_own_rows() -> None:
    def slow(layer: int, x_RD: Tensor, row_A: Tensor, expert_A: Tensor) -> Tensor:
        time.sleep(0.001)
        return answer(layer, x_RD, row_A, expert_A)

    batcher = Batcher(slow)
    wrong: list[int] = []

    def caller(number: int) -> None:
        for turn in range(60):
            one = job((number + turn) % 2, number * 100 + turn, rows=1 + (number + turn) % 5)
            if not torch.equal(batcher.run(one), answer(one.layer, one.x_RD, one.row_A, one.expert_A)):
                wrong.append(number)

    threads = [threading.Thread(target=caller, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert not wrong
    assert batcher.counters.calls == 480 > batcher.counters.launches


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_a_merged_launch_equals_lone_ones(rows: int) -> None:
    gate = RoutedBatch()
    jobs = [job(0, 0), *(job(1, 10 * i, rows=rows) for i in range(4))]
    merged = run_all(Batcher(gate), gate, jobs)
    for one, result in zip(jobs, merged, strict=True):
        assert torch.equal(result, Batcher(answer).run(one))  # type: ignore[arg-type]


def test_queue_time_runs_from_arrival_to_the_launch() -> None:
    gate = RoutedBatch()
    batcher = Batcher(gate)
    started = time.monotonic()
    run_all(batcher, gate, [job(0, 0), job(1, 1), job(1, 2)])
    took = time.monotonic() - started
    times, counts = batcher.queue_times, dict(batcher.queue_times.buckets())
    assert counts["+Inf"] == 3, "those in the queue and the one that found it empty"
    assert counts["0.005"] <= 2, "the second call waited for the third to arrive"
    assert 0.01 < times.sum_s < 2 * took
    assert times.recent_s(time.monotonic()) == pytest.approx(times.sum_s / 3)
    assert 0.02 < batcher.counters.busy_s < took


def test_calls_that_came_too_late_or_failed_have_waited_once() -> None:
    def broken(layer: int, x_RD: Tensor, row_A: Tensor, expert_A: Tensor) -> Tensor:
        raise LookupError("never")

    gate = RoutedBatch(broken)
    batcher = Batcher(gate)
    run_all(batcher, gate, [job(0, 0), job(1, 1), job(1, 2), job(1, 3, deadline=time.monotonic() + 0.005)])
    assert batcher.counters.failed == dict(batcher.queue_times.buckets())["+Inf"] == 4
    assert batcher.counters.busy_s > 0
