"""What the policy makes of the workers that are alive, and what that lacks. Pure.

Legend: E experts of all layers; L layers, F FFN experts of a layer; W workers.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from caracal_proto.placement_pb2 import Table

from services.membership.record import WorkerRecord
from services.membership.shortage import CapacityShortage
from services.router.placement.capacity import shortage
from services.router.placement.load import Load
from services.router.placement.policy import WorkerView, place
from services.router.placement.room import default_replicas
from services.router.placement.table_view import TableView
from services.router.placement.tables import still_there

# Of each worker: ids, leaves, capacity, what fits, address, host, zone, backs off.
Inputs = tuple[tuple[str, str, bool, int, int, str, str, str, bool], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What is placed: FFN experts of each layer, `replicas` of each (0 = two where all workers have room for them), and
    `extra` more of hot ones in each layer."""

    layers: int
    experts: int
    replicas: int = 1
    extra: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A placement to change to, made from `table`, `inputs`, and the `load` where it is known.

    `before` is the part of the table that is still there. `unplaced`: how many experts have no replica in it.
    """

    table: Table | None
    inputs: Inputs
    load: Load | None
    before: TableView
    after: TableView
    balancedness: float  # of `before`, by the load; NaN without one
    differs: bool
    balances: bool  # it differs for the load alone: whatever else comes up goes first
    complete: bool  # `after` has every expert
    unplaced: int
    lacking: CapacityShortage | None


def inputs_of(usable: Sequence[WorkerRecord], waiting: Collection[str]) -> Inputs:
    """What a plan depends on, of these workers. `waiting`: boot ids of workers that back off."""
    return tuple(
        (r.worker_id, r.boot_id, r.leaves, r.capacity, r.fitting, r.address, r.host, r.zone, r.boot_id in waiting)
        for r in usable
    )


def make_plan(
    shape: Shape,
    table: Table | None,
    usable: Sequence[WorkerRecord],
    waiting: Collection[str],
    inputs: Inputs,
    load: Load | None = None,
    moves: int = 0,
) -> Plan:
    """Asks the policy. `waiting`: boot ids of workers that back off. `moves`: experts loaded for balance at most."""
    layers, experts = shape.layers, shape.experts
    records = {record.worker_id: record for record in usable}
    before = still_there(table, records) if table else TableView.of_loaded({}, layers, experts)
    counts = before.counts
    views = [_as_view(record, counts.get(record.worker_id, 0), record.boot_id in waiting) for record in usable]
    replicas = shape.replicas or default_replicas(layers * experts, usable)
    after = place(experts, layers, views, replicas, before, load, shape.extra)
    balances = moves > 0 and after == before
    if balances:
        after = place(experts, layers, views, replicas, before, load, shape.extra, moves)
    # `_as_view` marks a worker whose join failed as draining: it did not ask to drain and is not to be named.
    joined = [view for view, record in zip(views, usable, strict=True) if record.leaves or not view.draining]
    return Plan(
        table=table,
        inputs=inputs,
        load=load,
        before=before,
        after=after,
        balancedness=balancedness(before, load),
        differs=after != before or _has_gone(table, before),
        balances=balances,
        complete=not after.missing,
        unplaced=before.missing,
        lacking=shortage(after, joined),
    )


def _has_gone(table: Table | None, before: TableView) -> bool:
    """Whether the table names a worker that is gone, whose experts others have all the same."""
    return table is not None and len(table.workers) > len(before.worker_ids)


def balancedness(view: TableView, load: Load | None) -> float:
    """Returns mean / greatest load of the workers in a layer, averaged over layers with rows; NaN without any."""
    if load is None or not view.worker_ids:
        return math.nan
    rows_LF = load.rows(len(view.placed_EW)).reshape(view.layers, -1)
    placed_LFW = view.placed_EW.reshape(view.layers, view.experts, -1)
    share_LF = rows_LF / np.maximum(placed_LFW.sum(axis=2), 1)
    load_LW = np.matmul(share_LF[:, None], placed_LFW)[:, 0] / load.speeds(view.worker_ids)
    busy_LW = load_LW[load_LW.any(axis=1)]
    return float((busy_LW.mean(axis=1) / busy_LW.max(axis=1)).mean()) if len(busy_LW) else math.nan


def _as_view(record: WorkerRecord, loaded: int, waits: bool) -> WorkerView:
    """Returns the policy's view of a worker: during the backoff of a failed join it keeps what it has, no more."""
    if waits:
        leaves = not loaded or record.leaves
        return WorkerView(record.worker_id, leaves, max(1, loaded), record.host, record.zone, frozen=True)
    return WorkerView(record.worker_id, record.leaves, record.capacity, record.host, record.zone)
