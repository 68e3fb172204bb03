"""The message when the workers lack capacity for all experts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.membership.shortage import CapacityShortage
from services.router.placement.capacity import shortage
from services.router.placement.policy import WorkerView, place


def shortage_of(experts: int, layers: int, *workers: tuple[int, bool]) -> CapacityShortage | None:
    """Returns the shortage of a placement on workers given as (capacity, draining)."""
    views = [WorkerView(f"expert-{n}", draining, capacity) for n, (capacity, draining) in enumerate(workers)]
    before = place(experts, layers, [WorkerView(v.worker_id, False, v.capacity) for v in views], 1)
    return shortage(place(experts, layers, views, 1, before), views)


def test_pods_that_may_not_drain_are_named_with_their_experts_and_the_lacking_workers() -> None:
    found = shortage_of(384, 2, (256, False), (256, False), (256, True), (256, True))
    assert found is not None
    assert found.workers == {"expert-2": 128, "expert-3": 128}
    assert found.reason == (
        "experts need 768 places, the workers that stay have 512: "
        "bring at least 1 more expert worker of 256, or raise their capacity"
    )
    assert str(found).endswith("Until then these workers cannot drain: expert-2 (128 experts), expert-3 (128 experts)")


def test_the_number_of_lacking_workers_is_named() -> None:
    found = shortage_of(10, 10, (30, False), (30, True), (30, True), (30, True))
    assert found is not None
    assert "bring at least 3 more expert workers of 30" in found.reason
    assert sum(found.workers.values()) == 70


def test_every_worker_is_draining() -> None:
    found = shortage_of(4, 2, (0, True))
    assert found == CapacityShortage(
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
def test_too_few_workers_at_the_start(workers: tuple[tuple[int, bool], ...], reason: str) -> None:
    assert shortage_of(4, 2, *workers) == CapacityShortage(reason)


@given(
    st.integers(1, 9),
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(0, 12), st.booleans()), max_size=6),
)
def test_there_is_a_shortage_exactly_when_the_workers_that_stay_are_too_small(
    experts: int, layers: int, workers: list[tuple[int, bool]]
) -> None:
    need = experts * layers
    capacity_left = sum(min(capacity or need, need) for capacity, draining in workers if not draining)
    found = shortage_of(experts, layers, *workers)
    assert (found is None) == (capacity_left >= need)
    if found is not None:
        leaving = sum(min(capacity or need, need) for capacity, draining in workers if draining)
        assert sum(found.workers.values()) == min(leaving, need - capacity_left)
        assert set(found.workers) <= {f"expert-{n}" for n, (_, draining) in enumerate(workers) if draining}


@pytest.mark.parametrize(
    "text",
    ["", "[]", "7", '{"reason": 3}', '{"workers": {}}', '{"reason": "r", "workers": {"a": "b"}}', "\xff"],
)
def test_a_malformed_shortage_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - json's messages vary
        CapacityShortage.from_json(text)


def test_a_shortage_round_trips() -> None:
    found = CapacityShortage("no capacity", {"expert-1": 3})
    assert CapacityShortage.from_json(found.to_json()) == found
