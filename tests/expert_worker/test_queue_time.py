"""The queue times of a batcher: a cumulative histogram, and a mean over a sliding window."""

from __future__ import annotations

import pytest

from services.expert_worker.queue_time import BOUNDS_S, WINDOW_S, QueueTimes


def test_a_wait_is_in_the_bucket_of_its_bound_and_in_all_above() -> None:
    times = QueueTimes()
    for waited in (0.0, BOUNDS_S[3], 0.003, 7.0):
        times.count(waited, 0.0)
    counts = dict(times.buckets())
    assert list(counts) == [*map(str, BOUNDS_S), "+Inf"]
    assert [counts[str(bound)] for bound in BOUNDS_S[:5]] == [1, 1, 1, 2, 2]
    assert (counts["0.005"], counts["1.0"], counts["+Inf"]) == (3, 3, 4)
    assert times.sum_s == pytest.approx(BOUNDS_S[3] + 7.003)


def test_the_recent_mean_is_over_the_calls_of_the_window() -> None:
    times = QueueTimes()
    assert times.recent_s(5.0) == 0
    times.count(0.010, 5.0)
    times.count(0.020, 5.9)
    times.count(0.060, 5.0 + WINDOW_S / 2)
    assert times.recent_s(6.0 + WINDOW_S / 2) == pytest.approx(0.030)
    assert times.recent_s(5.5 + WINDOW_S) == pytest.approx(0.060), "the first two have left the window"
    assert times.recent_s(6.0 + 2 * WINDOW_S) == 0, "an idle worker has no queue"


def test_times_older_than_the_window_are_dropped() -> None:
    times = QueueTimes()
    times.count(9.0, 3.0)
    times.count(0.002, 3.0 + WINDOW_S)
    assert times.recent_s(4.0 + WINDOW_S) == pytest.approx(0.002)
    assert dict(times.buckets())["+Inf"] == 2
