"""The pure parts of request handling: which tokens count, which worker is chosen, which seed a choice gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.router.gateway.sampling import choice_seed
from services.router.requests.progress import GenerationProgress
from services.router.requests.worker_choice import AttentionWorkerView, choose_worker


@dataclass(frozen=True)
class Tok:
    index: int
    id: int


def worker(name: str, **fields: Any) -> AttentionWorkerView:
    usual: dict[str, Any] = {"worker_id": name, "address": f"{name}:1", "epoch": 1, "numerics_class": "x"}
    return AttentionWorkerView(**usual | fields)


def test_only_the_next_index_of_the_current_attempt_counts() -> None:
    progress = GenerationProgress()
    first = progress.open_attempt()
    assert progress.accept(first, [Tok(0, 7), Tok(1, 8)]) == [Tok(0, 7), Tok(1, 8)]
    assert progress.accept(first, [Tok(1, 9)]) == [], "a duplicate"
    assert progress.accept(first, [Tok(3, 9)]) == [], "a gap"
    second = progress.open_attempt()
    assert progress.accept(first, [Tok(2, 9)]) == [], "a zombie"
    assert progress.accept(second, [Tok(1, 5), Tok(2, 6)]) == [Tok(2, 6)]
    assert progress.emitted_ids == [7, 8, 6]
    assert progress.dropped == 4


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6), st.booleans()), max_size=60))
def test_a_stream_is_always_a_prefix_of_the_answer(events: list[tuple[int, int, bool]]) -> None:
    """Every attempt has the same token at the same index, as in a replay; any mix of messages keeps the order."""
    progress = GenerationProgress()
    progress.open_attempt()
    for attempt, index, reopen in events:
        if reopen:
            progress.open_attempt()
        before = list(progress.emitted_ids)
        taken = progress.accept(attempt, [Tok(index, 100 + index)])
        assert taken == ([Tok(index, 100 + index)] if attempt == progress.attempt and index == len(before) else [])
    assert progress.emitted_ids == [100 + i for i in range(progress.next_index)]


@pytest.mark.parametrize("count", [1, 2])
def test_attempts_without_a_token_are_counted_until_one_comes(count: int) -> None:
    progress = GenerationProgress()
    for _ in range(3):
        assert [progress.attempt_failed() for _ in range(2)] == [1, 2]
        assert [progress.worker_died() for _ in range(2)] == [False, False]
        progress.accept(progress.open_attempt(), [Tok(progress.next_index + each, 1) for each in range(count)])


def test_least_open_here_then_least_reported_then_by_name() -> None:
    workers = [worker("b"), worker("a"), worker("c", load=5.0)]
    assert choose_worker(workers, {}) == workers[1]
    assert choose_worker(workers, {"a": 1}) == workers[0]
    assert choose_worker(workers, {"a": 1, "b": 1}) == workers[2]
    assert choose_worker([worker("a", load=2.0), worker("b", load=1.0)], {}) == worker("b", load=1.0)


def test_workers_that_are_never_chosen() -> None:
    assert choose_worker([], {}) is None
    assert choose_worker([worker("a", draining=True), worker("b", epoch=0)], {}) is None
    assert choose_worker([worker("a")], {}, numerics_class="y") is None
    mixed = [worker("a"), worker("b", numerics_class="y")]
    assert choose_worker(mixed, {"b": 9}, numerics_class="y") == mixed[1]


def test_a_worker_that_just_failed_is_the_last_resort() -> None:
    workers = [worker("a"), worker("b")]
    assert choose_worker(workers, {"b": 9}, avoid={"a"}) == workers[1]
    assert choose_worker(workers, {}, avoid={"a", "b"}) == workers[0]


@given(st.integers(-(2**63), 2**63 - 1))
def test_choices_of_one_seed_differ_and_repeat(seed: int) -> None:
    seeds = [choice_seed(seed, i) for i in range(8)]
    assert len(set(seeds)) == 8
    assert seeds == [choice_seed(seed, i) for i in range(8)]
    assert all(0 <= one < 2**63 for one in seeds)
