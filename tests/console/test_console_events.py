"""What two looks at a cluster make of events, states and placements; what layers did of late."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pytest
from caracal_proto.placement_pb2 import Table
from support.announced_cluster import attention, even_table, expert, router

from services.attention_worker.recent_layers import RecentLayers
from services.membership.overview import Overview
from services.membership.record import WorkerRecord
from services.router.console.events import Event, events_between
from services.router.console.placement_view import PlacementView
from services.router.console.state_view import COUNTS, FIELDS, layer_means, state_of
from services.router.dispatch.stats import DispatchStats

BASE = Overview(epoch=1, leader="router-0", workers=(router(), attention(0, 2), expert(0, 4), expert(1, 4)))
UNLEASED = {("expert", change) for change in ("expert-0", "expert-1")}


def after(*changes: WorkerRecord | str, **fields: Any) -> list[tuple[str, str]]:
    """The events when these records are new or replaced, and those of these names are gone without a withdrawal."""
    records = {record.worker_id: record for record in BASE.workers}
    for change in changes:
        if isinstance(change, str):
            del records[change]
        else:
            records[change.worker_id] = change
    changed = replace(BASE, workers=tuple(records.values()), **fields)
    return [(event.kind, event.text) for event in events_between(BASE, changed, UNLEASED)]


def test_nothing_happens_between_equal_overviews() -> None:
    assert after() == []
    assert after(epoch=2) == []  # the table's own event comes with the table


def test_workers_come_and_go() -> None:
    assert after(expert(2, 0, epoch=0)) == [("joined", "expert-2 joined")]
    assert after(replace(expert(1, 4), boot_id="another")) == [("restarted", "expert-1 started again")]
    assert after(expert(1, 4, draining=True)) == [("draining", "expert-1 draining")]
    assert after("expert-1") == [("lost", "expert-1 lost, its lease has expired")]
    assert events_between(BASE, replace(BASE, workers=BASE.workers[:3])) == [Event("left", "expert-1 left")]
    joining = replace(BASE, workers=(*BASE.workers[:3], expert(1, 0, epoch=0)))
    assert events_between(joining, BASE) == [Event("serving", "expert-1 serving")]


def test_many_of_one_kind_are_one_event() -> None:
    many = [expert(number, 4) for number in range(2, 102)]
    assert after(*many) == [("joined", "100 expert workers: expert-2 … expert-101 joined")]


def test_leaders_counts_and_capacity() -> None:
    assert after(leader="router-1") == [("leader", "router-1 leads, before it router-0")]
    assert after(leader="") == [("leader", "no router leads, before it router-0")]
    assert after(desired={"expert": 2}) == []  # the first counts are no change
    before = replace(BASE, desired={"expert": 2}, warning="short")
    changed = replace(BASE, desired={"expert": 5}, warning="")
    assert [event.text for event in events_between(before, changed)] == [
        "expert=5 asked for, before it 2",
        "the capacity shortage is over",
    ]
    assert after(warning="no room") == [("capacity", "capacity shortage: no room")]


def test_a_state_has_a_row_for_each_worker() -> None:
    state = orjson.loads(orjson.dumps(state_of(BASE)))
    for row in state["workers"]:
        assert len(row) == len(FIELDS) + len(COUNTS[row[1]])
    assert [row[0] for row in state["workers"]] == ["attention-0", "expert-0", "expert-1", "router-0"]
    assert state["not_ready"] == ""


def test_layers_are_the_mean_of_the_workers_that_ran() -> None:
    idle = replace(attention(1, 2), layers={})
    other = replace(
        attention(2, 2), layers={"exposed_us": [0, 10], "round_trip_us": [10, 20], "zero_share": [0.4, 0.5]}
    )
    means = layer_means([attention(0, 2), idle, other])
    assert means == {"exposed_us": [40.0, 48.0], "round_trip_us": [405.0, 412.0], "zero_share": [0.3, 0.412]}
    assert layer_means([idle]) == {"exposed_us": [], "round_trip_us": [], "zero_share": []}


def test_moved_experts_are_counted_by_worker_name() -> None:
    before, same = (PlacementView.of(even_table(3, 16, 4, epoch)) for epoch in (1, 2))
    assert same.moved_from(before) == 0
    fewer = PlacementView.of(even_table(3, 16, 3))
    held = set(triples(even_table(3, 16, 4)))
    assert fewer.moved_from(before) == len(set(triples(even_table(3, 16, 3))) - held)
    renamed = even_table(3, 16, 4)
    for worker, name in zip(renamed.workers, ("expert-1", "expert-0", "expert-2", "expert-3"), strict=True):
        worker.worker_id = name
    assert PlacementView.of(renamed).moved_from(before) == 24
    assert PlacementView.of(even_table(3, 8, 4)).moved_from(before) == 24
    assert PlacementView.of(Table(epoch=1)).moved_from(before) == 0


def triples(table: Table) -> list[tuple[int, int, str]]:
    return [
        (layer, item, table.workers[worker].worker_id)
        for layer, placement in enumerate(table.layers)
        for item, worker in enumerate(np.frombuffer(placement.workers, "<u2"))
    ]


def test_recent_layers_are_those_of_the_last_ten_seconds_with_steps() -> None:
    stats = DispatchStats.of(2)
    recent = RecentLayers(stats, now=0.0)
    assert recent.read(1.0) == {}

    def step(exposed_s: float, ffn: int) -> None:
        for layer in stats.counted:
            layer.layer_calls, layer.choices = layer.layer_calls + 1, layer.choices + 10
            layer.exposed_s, layer.round_trip_s = layer.exposed_s + exposed_s, layer.round_trip_s + 2 * exposed_s
            layer.ffn_choices += ffn

    step(100e-6, 10)
    assert recent.read(2.0) == {"exposed_us": [100, 100], "round_trip_us": [200, 200], "zero_share": [0.0, 0.0]}
    step(300e-6, 5)
    assert recent.read(3.0)["exposed_us"] == [200, 200]
    assert recent.read(60.0)["exposed_us"] == [200, 200]  # nothing ran: the last ones
    step(400e-6, 5)
    assert recent.read(61.0) == {"exposed_us": [400, 400], "round_trip_us": [800, 800], "zero_share": [0.5, 0.5]}


@pytest.mark.parametrize(
    "layers", [{"zero_share": "1"}, {"other": []}, {"zero_share": [True]}, {"zero_share": [0] * 2000}]
)
def test_layers_of_a_lease_are_checked(layers: object) -> None:
    with pytest.raises(ValueError, match="layers"):
        attention(0, 2).with_counts(orjson.dumps({"progress": 1, "layers": layers}))
