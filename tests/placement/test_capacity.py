"""What is said when experts have no room. Pure."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.membership.shortage import CapacityShortage
from services.router.placement.capacity import shortage
from services.router.placement.policy import WorkerView, place


def asked(experts: int, layers: int, *workers: tuple[int, bool]) -> CapacityShortage | None:
    """Workers are given as (capacity, draining)."""
    views = [WorkerView(f"expert-{n}", draining, capacity) for n, (capacity, draining) in enumerate(workers)]
    before = place(experts, layers, [WorkerView(v.worker_id, False, v.capacity) for v in views], 1)
    return shortage(place(experts, layers, views, 1, before), views)


def test_pods_that_must_not_go_are_named_with_what_they_hold_and_what_is_lacking() -> None:
    said = asked(384, 2, (256, False), (256, False), (256, True), (256, True))
    assert said is not None
    assert said.workers == {"expert-2": 128, "expert-3": 128}
    assert said.reason == (
        "experts need 768 places, the workers that stay have 512: "
        "bring at least 1 more expert worker of 256, or raise their capacity"
    )
    assert str(said).endswith("Until then these must not go: expert-2 (128 experts), expert-3 (128 experts)")


def test_so_many_workers_are_asked_for_as_are_lacking() -> None:
    said = asked(10, 10, (30, False), (30, True), (30, True), (30, True))
    assert said is not None
    assert "bring at least 3 more expert workers of 30" in said.reason
    assert sum(said.workers.values()) == 70


def test_nobody_stays() -> None:
    said = asked(4, 2, (0, True))
    assert said == CapacityShortage(
        "experts need 8 places, the workers that stay have 0: bring at least 1 more expert worker", {"expert-0": 8}
    )


@pytest.mark.parametrize(
    ("workers", "reason"),
    [
        ((), "no expert worker: experts need 8 places"),
        (
            ((5, False),),
            "experts need 8 places, the workers that stay have 5: "
            "bring at least 1 more expert worker of 5, or raise their capacity",
        ),
    ],
)
def test_too_few_at_the_start(workers: tuple[tuple[int, bool], ...], reason: str) -> None:
    assert asked(4, 2, *workers) == CapacityShortage(reason)


@given(
    st.integers(1, 9),
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(0, 12), st.booleans()), max_size=6),
)
def test_it_is_refused_just_when_the_workers_that_stay_are_too_small(experts, layers, workers):
    need = experts * layers
    room = sum(min(capacity or need, need) for capacity, draining in workers if not draining)
    said = asked(experts, layers, *workers)
    assert (said is None) == (room >= need)
    if said is not None:
        leaving = sum(min(capacity or need, need) for capacity, draining in workers if draining)
        assert sum(said.workers.values()) == min(leaving, need - room)
        assert set(said.workers) <= {f"expert-{n}" for n, (_, draining) in enumerate(workers) if draining}


@pytest.mark.parametrize(
    "text",
    ["", "[]", "7", '{"reason": 3}', '{"workers": {}}', '{"reason": "r", "workers": {"a": "b"}}', "\xff"],
)
def test_a_malformed_hint_is_no_refusal(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - of json's many words
        CapacityShortage.from_json(text)


def test_a_hint_comes_back_as_it_was() -> None:
    said = CapacityShortage("no room", {"expert-1": 3})
    assert CapacityShortage.from_json(said.to_json()) == said
