"""When calls are overdue, how many are sent twice, and who is avoided for how long: the policies, case by case."""

from __future__ import annotations

import math

import pytest

from services.router.dispatch.call_latency import (
    AGAINST_OTHERS,
    FACTOR,
    FEWEST,
    FIRST_HEDGES,
    KEPT,
    NEVER,
    SIZES,
    HedgeBudget,
    HedgeOptions,
    Latencies,
    size_of,
)
from services.router.dispatch.heartbeats import FEWEST_BEATS, SILENT_BEATS, silent_beats
from services.router.dispatch.suspects import FIRST_PROBE_S, HEALTHY, LAST_PROBE_S, OVERDUE, Suspects

OPTIONS = HedgeOptions(quantile=0.9, budget=0.1, floor_s=0.001)


def limits(
    latencies: dict[str, list[float]], assignments: int = 4, options: HedgeOptions = OPTIONS
) -> dict[str, list[float]]:
    known: Latencies[str] = Latencies(options)
    for key, seconds in latencies.items():
        for one in seconds:
            known.add(key, assignments, one)
    return known.overdue_after()


def test_sizes_are_powers_of_two() -> None:
    assert [size_of(count) for count in (0, 1, 2, 3, 4, 255, 256, 1 << 30)] == [0, 1, 2, 2, 3, 8, 9, SIZES - 1]


def test_a_call_is_overdue_by_its_session_s_own_history() -> None:
    seconds = [0.010] * 90 + [0.030] * 10
    found = limits({"a": seconds, "b": [0.020] * FEWEST})
    assert found["a"][size_of(4)] == pytest.approx(FACTOR * 0.030)
    assert found["b"][size_of(4)] == pytest.approx(FACTOR * 0.020)


def test_few_latencies_say_nothing() -> None:
    assert limits({"a": [0.01] * (FEWEST - 1)})["a"] == [NEVER] * SIZES
    assert limits({"a": [0.01] * FEWEST}, options=HedgeOptions(quantile=0))["a"] == [NEVER] * SIZES


def test_only_the_last_latencies_count() -> None:
    assert limits({"a": [9.0] * 500 + [0.01] * KEPT})["a"][size_of(4)] == pytest.approx(FACTOR * 0.01)


def test_a_session_that_was_always_slow_is_measured_by_the_others() -> None:
    found = limits({"slow": [0.5] * FEWEST, "a": [0.01] * FEWEST})
    assert found["slow"][size_of(4)] == pytest.approx(AGAINST_OTHERS * FACTOR * 0.01)
    assert found["a"][size_of(4)] == pytest.approx(FACTOR * 0.01)


def test_a_new_session_is_measured_by_the_others() -> None:
    found = limits({"new": [0.01], "a": [0.01] * FEWEST})
    assert found["new"][size_of(4)] == pytest.approx(AGAINST_OTHERS * FACTOR * 0.01)


def test_larger_calls_may_take_longer_and_smaller_ones_no_longer() -> None:
    found = limits({"a": [0.01] * FEWEST}, assignments=4)["a"]
    assert found[size_of(1)] == found[size_of(4)] == pytest.approx(0.02)
    assert found[size_of(8)] == pytest.approx(0.04)
    assert found == sorted(found)


def test_nothing_is_overdue_below_the_floor() -> None:
    assert set(limits({"a": [1e-6] * FEWEST})["a"][: size_of(4) + 1]) == {OPTIONS.floor_s}


def test_sessions_that_are_gone_are_forgotten() -> None:
    known: Latencies[str] = Latencies(OPTIONS)
    for key in ("a", "b"):
        for _ in range(FEWEST):
            known.add(key, 4, 0.01)
    known.overdue_after()
    known.keep_only(["b"])
    assert set(known.overdue_after()) == {"b"}


def test_where_calls_take_longer_a_worker_may_be_silent_for_longer() -> None:
    assert [silent_beats(seconds) for seconds in (0.02, 0.1, 0.2, 1.0, NEVER)] == [3, 3, 6, 10, 10]
    assert (silent_beats(0.0), silent_beats(NEVER)) == (FEWEST_BEATS, SILENT_BEATS)


def test_hedges_are_a_share_of_calls_beside_the_first_ones() -> None:
    budget = HedgeBudget(0.1)
    assert [budget.take(0, 1) for _ in range(FIRST_HEDGES + 1)] == [True] * FIRST_HEDGES + [False]
    assert not budget.take(9, 1)
    assert budget.take(10, 1)
    assert not budget.take(10, 1)
    assert sum(budget.take(1000, 1) for _ in range(100)) == FIRST_HEDGES, "what is not used is not kept"


def test_a_worker_that_is_overdue_in_a_row_becomes_a_suspect() -> None:
    suspects: Suspects[str] = Suspects()
    assert [suspects.overdue("a", 7, 0.0) for _ in range(OVERDUE)] == [False] * (OVERDUE - 1) + [True]
    assert suspects.keys == {"a"}
    assert not suspects.answered("a", 0.1), "it is slow, not gone"
    assert not suspects.overdue("a", 7, 0.1), "it is one already"


def test_an_answer_in_between_ends_the_row() -> None:
    suspects: Suspects[str] = Suspects()
    assert not any(suspects.overdue("a", answered, 0.0) for answered in range(10))
    assert not suspects.keys


def test_a_worker_that_has_failed_is_a_suspect_until_it_answers() -> None:
    suspects: Suspects[str] = Suspects()
    assert suspects.failed("a", 0.0)
    assert not suspects.failed("a", 0.0)
    assert suspects.answered("a", 0.1)
    assert not suspects.keys


def test_healthy_probes_end_the_suspicion_and_others_are_made_ever_later() -> None:
    suspects: Suspects[str] = Suspects()
    suspects.failed("a", 0.0)
    assert suspects.due(FIRST_PROBE_S - 0.01) == []
    now, pauses = 0.0, []
    for _ in range(12):
        at = next(now + step / 100 for step in range(2000) if suspects.due(now + step / 100))
        pauses.append(round(at - now, 2))
        now = at
        assert suspects.due(now + 99) == [], "one probe at a time"
        assert not suspects.probed("a", False, now)
    assert pauses == sorted(pauses)
    assert pauses[-1] == LAST_PROBE_S
    assert [suspects.probed("a", True, now) for _ in range(HEALTHY)] == [False] * (HEALTHY - 1) + [True]
    assert not suspects.keys
    assert not suspects.probed("a", True, now), "it is none any more"


def test_who_is_a_suspect_again_soon_is_probed_later() -> None:
    suspects: Suspects[str] = Suspects()
    for times in range(3):
        suspects.failed("a", float(times))
        assert suspects.due(times + FIRST_PROBE_S * 2**times - 0.01) == []
        assert suspects.due(times + FIRST_PROBE_S * 2**times) == ["a"]
        suspects.answered("a", float(times))
    suspects.failed("a", 1000.0)
    assert suspects.due(1000 + FIRST_PROBE_S) == ["a"]


def test_workers_that_left_are_forgotten() -> None:
    suspects: Suspects[str] = Suspects()
    for key in ("a", "b"):
        suspects.failed(key, 0.0)
    suspects.keep_only(["b"])
    assert suspects.keys == {"b"}
    assert suspects.due(math.inf) == ["b"]
