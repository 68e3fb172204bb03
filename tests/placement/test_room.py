"""Two replicas of every expert without being asked: only where each worker has room for its share of them."""

from __future__ import annotations

from typing import Any

import pytest

from services.membership.record import WorkerRecord
from services.router.placement.plan import Shape, inputs_of, make_plan
from services.router.placement.room import default_replicas

ITEMS = 100


def worker(number: int, address: str = "", **more: Any) -> WorkerRecord:
    return WorkerRecord(
        worker_id=f"expert-{number}",
        role="expert",
        address=address or f"10.0.0.{number}:50051",
        boot_id=f"b{number}",
        numerics_class="c",
        **more,
    )


@pytest.mark.parametrize(
    ("workers", "replicas"),
    [
        ([], 1),
        ([worker(0)], 1),
        ([worker(0), worker(1)], 2),
        ([worker(0, capacity=100), worker(1, capacity=100)], 2),
        ([worker(0, capacity=99), worker(1, capacity=100)], 1),
        ([worker(0, capacity=67), worker(1, capacity=67), worker(2, capacity=67)], 2),
        ([worker(0, fitting=100), worker(1, fitting=100)], 2),
        ([worker(0, fitting=99), worker(1)], 1),
        ([worker(0), worker(1, draining=True)], 1),
        ([worker(0, "127.0.0.1:1", fitting=199), worker(1, "127.0.0.1:2", fitting=199)], 1),
        ([worker(0, "127.0.0.1:1", fitting=200), worker(1, "127.0.0.1:2", fitting=200)], 2),
        ([worker(0, "127.0.0.1:1", fitting=1, capacity=100), worker(1, "127.0.0.1:2", capacity=100)], 2),
    ],
)
def test_two_where_there_is_room(workers: list[WorkerRecord], replicas: int) -> None:
    assert default_replicas(ITEMS, workers) == replicas


def test_a_plan_follows_the_room_unless_a_number_was_given() -> None:
    def placed(shape: Shape, *workers: WorkerRecord) -> int:
        plan = make_plan(shape, None, workers, (), inputs_of(workers, ()))
        return sum(plan.after.counts.values())

    roomy, tight = (worker(0), worker(1)), (worker(0, capacity=5), worker(1, capacity=5))
    assert placed(Shape(layers=2, experts=4, replicas=0), *roomy) == 16
    assert placed(Shape(layers=2, experts=4, replicas=0), *tight) == 8
    assert placed(Shape(layers=2, experts=4, replicas=1), *roomy) == 8
    assert placed(Shape(layers=2, experts=4, replicas=2), *tight) == 10, "as many as fit, for who asks for them"
