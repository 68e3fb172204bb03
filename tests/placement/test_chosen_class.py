"""Which numerics class the next table is of."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from caracal_proto.placement_pb2 import Table

from services.membership.record import WorkerRecord
from services.router.placement.tables import chosen_class


def workers(role: str, classes: Sequence[str]) -> list[WorkerRecord]:
    return [
        WorkerRecord(worker_id=f"{role}-{n}", role=role, address="h:1", boot_id=f"{n}", numerics_class=one)
        for n, one in enumerate(classes)
    ]


@pytest.mark.parametrize(
    ("table", "experts", "attention", "chosen"),
    [
        ("a", ["a", "b", "b"], ["b-1", "b-1"], "a"),
        ("a", ["b"], ["b-1"], "b"),
        ("a", ["b"], ["a-1"], "a"),  # a router that is new may see no more than who has just come
        ("a", ["b"], [], "a"),
        ("a", [], ["a-1"], ""),
        ("", ["a", "b", "b"], ["a-1"], "a"),
        (None, ["a", "b", "b"], [], "b"),
        (None, [], ["a-1"], ""),
    ],
)
def test_the_tables_class_stays_until_another_one_can_serve(
    table: str | None, experts: list[str], attention: list[str], chosen: str
) -> None:
    before = Table(epoch=1, numerics_class=table) if table is not None else None
    assert chosen_class(before, workers("expert", experts), workers("attention", attention)) == chosen
