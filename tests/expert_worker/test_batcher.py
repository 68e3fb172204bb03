"""Callers of one layer share a launch; each gets its own rows back, bit for bit, and its own errors.

Legend: R rows of a call, D hidden, A (row, expert) assignments, L layers, F FFN experts of a layer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor

from services.expert_worker.batcher import Batcher, DeadlinePassed, Job

HIDDEN, LAYERS, EXPERTS = 4, 2, 3


def job(layer: int, number: int, rows: int = 3, deadline: float = float("inf")) -> Job:
    """Returns a job that assigns every second row to experts 0 and 2, and the last row to expert 1."""
    x_RD = torch.full((rows, HIDDEN), float(number)) + torch.arange(rows)[:, None]
    assignments = sorted([(0, r) for r in range(0, rows, 2)] + [(2, r) for r in range(0, rows, 2)] + [(1, rows - 1)])
    expert_A, row_A = (torch.tensor(x, dtype=torch.int32) for x in zip(*assignments, strict=True))
    return Job(layer, x_RD, row_A, expert_A, deadline)


def answer(layer: int, x_RD: Tensor, row_A: Tensor, expert_A: Tensor) -> Tensor:
    rank_A = expert_A.long() * len(x_RD) + row_A
    assert (rank_A[1:] > rank_A[:-1]).all(), "assignments ascend by (expert, row), merged or not"
    return x_RD[row_A.long()] * 100 + expert_A[:, None] * 10 + layer


class BlockedCompute:
    """A computation that waits until `open` is set."""

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


def run_all(batcher: Batcher, compute: BlockedCompute, jobs: list[Job]) -> list[Tensor | Exception]:
    """The first job starts a launch; the others arrive while it runs."""
    results: list[Tensor | Exception] = [RuntimeError("not run")] * len(jobs)

    def one(index: int) -> None:
        try:
            results[index] = batcher.run(jobs[index])
        except Exception as error:  # noqa: BLE001 - the test checks it
            results[index] = error

    threads = [threading.Thread(target=one, args=(index,)) for index in range(len(jobs))]
    threads[0].start()
    assert compute.entered.wait(10)
    for thread in threads[1:]:
        thread.start()
        time.sleep(0.01)
    compute.open.set()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    return results


def assigned(jobs: list[Job]) -> list[list[int]]:
    """The jobs' assignments by layer and expert."""
    return [
        [sum(int((one.expert_A == expert).sum()) for one in jobs if one.layer == layer) for expert in range(EXPERTS)]
        for layer in range(LAYERS)
    ]


def test_calls_that_arrive_during_a_launch_share_the_next_one() -> None:
    compute = BlockedCompute()
    batcher = Batcher(compute, LAYERS, EXPERTS)
    jobs = [job(0, 0), job(1, 10), job(1, 20, rows=5), job(0, 30), job(1, 40, rows=1)]
    results = run_all(batcher, compute, jobs)
    for one, result in zip(jobs, results, strict=True):
        assert torch.equal(result, answer(one.layer, one.x_RD, one.row_A, one.expert_A))  # type: ignore[arg-type]
    assert compute.layers == [0, 1, 0], "oldest first, whole layers together"
    assert (batcher.counters.launches, batcher.counters.calls) == (3, 5)
    assert batcher.counters.rows == 3 + 3 + 5 + 3 + 1
    assert batcher.counters.assignments == sum(len(one.row_A) for one in jobs)
    assert batcher.assigned_LF.tolist() == assigned(jobs)


def test_a_launch_has_a_limit_of_rows() -> None:
    compute = BlockedCompute()
    batcher = Batcher(compute, LAYERS, EXPERTS, max_rows=8)
    run_all(batcher, compute, [job(0, 0)] + [job(1, i) for i in range(5)])
    assert compute.layers == [0, 1, 1, 1]


def test_a_single_job_does_not_wait() -> None:
    batcher = Batcher(answer, LAYERS, EXPERTS)
    assert len(batcher.run(job(0, 1))) == 5


def test_an_error_reaches_only_its_own_caller() -> None:
    def picky(layer: int, x_RD: Tensor, row_A: Tensor, expert_A: Tensor) -> Tensor:
        if (x_RD >= 1000).any():
            raise LookupError("not these rows")
        return answer(layer, x_RD, row_A, expert_A)

    compute = BlockedCompute(picky)
    batcher = Batcher(compute, LAYERS, EXPERTS)
    jobs = [job(0, 0), job(1, 1), job(1, 1000), job(1, 2)]
    results = run_all(batcher, compute, jobs)
    assert isinstance(results[2], LookupError)
    for index in (0, 1, 3):
        one = jobs[index]
        assert torch.equal(results[index], answer(one.layer, one.x_RD, one.row_A, one.expert_A))  # type: ignore[arg-type]
    assert batcher.counters.failed == 1
    assert batcher.assigned_LF.tolist() == assigned([jobs[0], jobs[1], jobs[3]])
    assert len(batcher.run(job(0, 3))) == 5, "the batcher goes on"


def test_rows_past_their_deadline_are_not_computed() -> None:
    compute = BlockedCompute()
    batcher = Batcher(compute, LAYERS, EXPERTS)
    jobs = [job(0, 0), job(1, 1, deadline=time.monotonic() + 0.005), job(1, 2)]
    results = run_all(batcher, compute, jobs)
    assert isinstance(results[1], DeadlinePassed)
    assert isinstance(results[2], Tensor)
    assert batcher.counters.calls == 2
    assert batcher.assigned_LF.tolist() == assigned([jobs[0], jobs[2]])


def test_progress_stands_still_only_while_a_launch_runs() -> None:
    compute = BlockedCompute()
    batcher = Batcher(compute, LAYERS, EXPERTS)
    batcher.tick()
    assert batcher.counters.progress == 1
    running = threading.Thread(target=batcher.run, args=(job(0, 0),))
    running.start()
    assert compute.entered.wait(10)
    ticking = threading.Thread(target=batcher.tick)
    ticking.start()
    ticking.join(0.1)
    assert ticking.is_alive()
    assert batcher.counters.progress == 1
    compute.open.set()
    ticking.join(10)
    running.join(10)
    assert batcher.counters.progress == 3


def test_counts_are_taken_in_and_read_while_a_launch_runs() -> None:
    compute = BlockedCompute()
    batcher = Batcher(compute, LAYERS, EXPERTS)
    one, direct_N = job(1, 0), np.arange(LAYERS * EXPERTS)
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(batcher.run, one)
        assert compute.entered.wait(10)
        batcher.add((2, 3, 5, int(direct_N.sum()), 0.5, [0.001] * 3, direct_N))
        batcher.count_late([0.002])
        assert batcher.assigned_LF.ravel().tolist() == direct_N.tolist()
        compute.open.set()
        running.result(10)
    counters = batcher.counters
    assert (counters.launches, counters.calls, counters.failed, counters.rows) == (3, 4, 1, 5 + len(one.x_RD))
    assert batcher.assigned_LF.tolist() == (direct_N.reshape(LAYERS, EXPERTS) + assigned([one])).tolist()
    assert counters.assignments == batcher.assigned_LF.sum()
    assert dict(batcher.queue_times.buckets())["+Inf"] == 5


def test_many_callers_at_random_always_get_their_own_rows() -> None:
    def slow(layer: int, x_RD: Tensor, row_A: Tensor, expert_A: Tensor) -> Tensor:
        time.sleep(0.001)
        return answer(layer, x_RD, row_A, expert_A)

    batcher = Batcher(slow, LAYERS, EXPERTS)
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
def test_a_merged_launch_equals_separate_ones(rows: int) -> None:
    compute = BlockedCompute()
    jobs = [job(0, 0), *(job(1, 10 * i, rows=rows) for i in range(4))]
    merged = run_all(Batcher(compute, LAYERS, EXPERTS), compute, jobs)
    for one, result in zip(jobs, merged, strict=True):
        assert torch.equal(result, Batcher(answer, LAYERS, EXPERTS).run(one))  # type: ignore[arg-type]


def test_queue_time_runs_from_arrival_to_the_launch() -> None:
    compute = BlockedCompute()
    batcher = Batcher(compute, LAYERS, EXPERTS)
    started = time.monotonic()
    run_all(batcher, compute, [job(0, 0), job(1, 1), job(1, 2)])
    took = time.monotonic() - started
    times, counts = batcher.queue_times, dict(batcher.queue_times.buckets())
    assert counts["+Inf"] == 3, "the two that queued and the one that did not"
    assert counts["0.005"] <= 2, "the second call waited for the third to arrive"
    assert 0.01 < times.sum_s < 2 * took
    assert times.recent_s(time.monotonic()) == pytest.approx(times.sum_s / 3)
    assert 0.02 < batcher.counters.busy_s < took


def test_late_and_failed_calls_are_counted_once() -> None:
    def broken(layer: int, x_RD: Tensor, row_A: Tensor, expert_A: Tensor) -> Tensor:
        raise LookupError("never")

    compute = BlockedCompute(broken)
    batcher = Batcher(compute, LAYERS, EXPERTS)
    run_all(batcher, compute, [job(0, 0), job(1, 1), job(1, 2), job(1, 3, deadline=time.monotonic() + 0.005)])
    assert batcher.counters.failed == dict(batcher.queue_times.buckets())["+Inf"] == 4
    assert batcher.counters.busy_s > 0
