"""Sends a layer's rows to the workers of their experts: one op plans, then one message goes to each worker.

Legend: T tokens, K choices, D hidden, F FFN experts, W workers, R rows sent to one worker,
A (row, expert) assignments of all workers.
"""

from __future__ import annotations

import time
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple, Protocol

from caracal_kernels import plan_rows
from caracal_kernels.plan_rows import Plan
from torch import Tensor

from services.router.dispatch.dispatch_span import DispatchSpan
from services.router.dispatch.expert_workers import ExpertWorkerPool
from services.router.dispatch.links import ExpertOutput, ExpertRequest, Scatter, ScatterRequest
from services.router.dispatch.table import Key, LayerReplicas, RoutingTable
from services.transport.payload import payload_bytes


class StepLike(Protocol):
    """What the dispatch needs of a step: its number, and each token's absolute position (int32)."""

    @property
    def number(self) -> int: ...

    @property
    def positions_T(self) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class RoutedBatch:
    """One layer's input and the gate's choices for it: everything that a retry needs."""

    layer: int
    step: int
    num_ffn: int
    positions_T: Tensor
    h_TD: Tensor
    ids_TK: Tensor
    weights_TK: Tensor
    zero_T: Tensor
    span: DispatchSpan | None = None


class PlannedCall(NamedTuple):
    """One worker's part of a plan: the assignments `first` to `first + assignments`."""

    key: Key
    first: int
    assignments: int


class InFlightCall(NamedTuple):
    """A part that was sent as one message of its own."""

    part: PlannedCall
    future: Future[ExpertOutput]


@dataclass(frozen=True, slots=True)
class SentBatch:
    """What one plan sent. `reply_index_TK`: each choice's assignment; -1 zero expert, -2 an expert without replica."""

    epoch: int
    complete: bool  # every expert has a replica: there is no -2
    reply_index_TK: Tensor
    assignments: int
    keys: tuple[Key, ...]  # of the table's workers
    counts: list[int]  # assignments of each worker
    messages: int
    rows: int  # of all messages
    bytes: int  # of all payloads
    scatter: Scatter | None  # what was sent together
    calls: list[InFlightCall]  # what was sent one by one
    sent_s: float  # when the last message had left, of time.perf_counter
    plan: Plan

    def part(self, worker: int) -> PlannedCall:
        """Returns one worker's part of the plan."""
        return PlannedCall(self.keys[worker], sum(self.counts[:worker]), self.counts[worker])


def plan_and_send(
    pool: ExpertWorkerPool,
    table: RoutingTable,
    replicas: LayerReplicas,
    batch: RoutedBatch,
    ids_TK: Tensor,
    timeout_s: float,
) -> SentBatch:
    """Plans and sends the rows of the FFN choices in `ids_TK`. Zero experts, ids from `num_ffn` on, send nothing."""
    workers = len(table.workers)
    plan = plan_rows(ids_TK, batch.positions_T, batch.layer, batch.num_ffn, replicas.offset_F, replicas.worker, workers)
    return send(pool, table, replicas, batch, plan, timeout_s)


def send(
    pool: ExpertWorkerPool,
    table: RoutingTable,
    replicas: LayerReplicas,
    batch: RoutedBatch,
    plan: Plan,
    timeout_s: float,
) -> SentBatch:
    """Sends one message to each worker that the plan names; returns before any has arrived."""
    row, row_count_W, row_A, expert_A, count_W, _ = plan
    row_counts, counts = row_count_W.tolist(), count_W.tolist()
    scatter = None
    if len(row):
        scatter = pool.scatter(
            table, ScatterRequest(batch.step, batch.layer, table.epoch, timeout_s, batch.h_TD, plan, counts)
        )
    sent = sent_together(pool, table, replicas, batch, plan, scatter, counts)
    if scatter is None or scatter.without:
        # Ids and counts travel in messages that the host writes; rows stay where they are.
        ids = row, row_A.cpu(), expert_A.cpu()
        sent.calls.extend(_send_each(pool, table, batch, ids, row_counts, counts, scatter, timeout_s))
    return sent


def sent_together(
    pool: ExpertWorkerPool,
    table: RoutingTable,
    replicas: LayerReplicas,
    batch: RoutedBatch,
    plan: Plan,
    scatter: Scatter | None,
    counts: list[int] | None = None,
    sent_s: float = 0.0,
) -> SentBatch:
    """A plan whose calls are those of `scatter`. `counts`: the plan's count_W, if it was read already; `sent_s`: 0 =
    now."""
    row, _, row_A, _, count_W, reply_index_TK = plan
    counts = count_W.tolist() if counts is None else counts
    return SentBatch(
        table.epoch,
        replicas.complete,
        reply_index_TK,
        len(row_A),
        table.keys,
        counts,
        len(counts) - counts.count(0),
        len(row),
        payload_bytes(len(row), batch.h_TD.shape[1], pool.dispatch_dtype or batch.h_TD.dtype),
        scatter,
        [],
        sent_s or time.perf_counter(),
        plan,
    )


def _send_each(
    pool: ExpertWorkerPool,
    table: RoutingTable,
    batch: RoutedBatch,
    ids: tuple[Tensor, Tensor, Tensor],
    row_counts: list[int],
    counts: list[int],
    scatter: Scatter | None,
    timeout_s: float,
) -> list[InFlightCall]:
    """Sends, one by one, the messages that are not in `scatter`. `ids`: row, row_A and expert_A of the plan."""
    row, row_A, expert_A = ids
    chosen = range(len(counts)) if scatter is None else scatter.without
    calls: list[InFlightCall] = []
    row_ends, ends = [0, *accumulate(row_counts)], [0, *accumulate(counts)]
    for worker in chosen:
        rows, count, first = row_counts[worker], counts[worker], ends[worker]
        if not count:
            continue
        # All rows in ascending order are the input as it lies.
        everything = rows == len(batch.h_TD)
        mine = row[row_ends[worker] : row_ends[worker + 1]]
        request = ExpertRequest(
            batch.step,
            batch.layer,
            table.epoch,
            timeout_s,
            batch.h_TD if everything else batch.h_TD.index_select(0, mine),
            row_A[first : first + count],
            expert_A[first : first + count],
            batch.span.traceparent if batch.span is not None else "",
        )
        future = pool.dispatch(table.workers[worker], request)
        calls.append(InFlightCall(PlannedCall(table.keys[worker], first, count), future))
    return calls
