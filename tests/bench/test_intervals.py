"""What the benchmarks say of repeated measurements."""

from __future__ import annotations

import random

from bench.intervals import interval, middle_mean, within


def test_one_wild_measurement_of_ten_counts_for_nothing() -> None:
    assert middle_mean([1.0] * 9 + [100.0]) == 1.0
    assert middle_mean([3.0]) == 3.0


def test_more_measurements_make_the_interval_narrower_around_what_is_there() -> None:
    chooser = random.Random(1)
    few, many = ([chooser.gauss(0.01, 0.03) for _ in range(count)] for count in (10, 200))
    (few_low, few_high), (low, high) = interval(few, 2000), interval(many, 2000)
    assert low < 0.01 < high
    assert high - low < (few_high - few_low) / 2
    assert interval(many, 2000) == (low, high)


def test_a_goal_is_met_or_missed_only_where_the_interval_says_so() -> None:
    assert within((0.001, 0.019), 0.02) is True
    assert within((0.021, 0.03), 0.02) is False
    assert within((0.01, 0.03), 0.02) is None
