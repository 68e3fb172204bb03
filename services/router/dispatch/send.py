"""Sends a layer's rows to the workers of their experts: one op plans, then one message goes to each worker.

Legend: T tokens, K choices, D hidden, F FFN experts, W workers, R rows sent to one worker,
A (row, expert) assignments of all workers.
"""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass

from caracal_kernels import plan_rows
from caracal_kernels.plan_rows import Plan
from torch import Tensor

from services.router.dispatch.expert_workers import ExpertWorkerPool
from services.router.dispatch.links import ExpertOutput, ExpertRequest
from services.router.dispatch.table import Key, LayerReplicas, RoutingTable
from services.transport.payload import payload_bytes


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


@dataclass(frozen=True, slots=True)
class InFlightCall:
    """One message that was sent. It covers the assignments `first` to `first + assignments` of its plan."""

    key: Key
    first: int
    assignments: int
    rows: int
    bytes: int  # of its payload
    future: Future[ExpertOutput]


@dataclass(frozen=True, slots=True)
class SentBatch:
    """What one plan sent. `reply_index_TK`: each choice's assignment; -1 zero expert, -2 an expert without replica."""

    epoch: int
    complete: bool  # every expert has a replica: there is no -2
    reply_index_TK: Tensor
    assignments: int
    calls: list[InFlightCall]


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
    row, row_count_W, row_A, expert_A, count_W, reply_index_TK = plan
    # Ids and counts travel in messages that the host writes; rows stay where they are.
    row_A, expert_A = row_A.cpu(), expert_A.cpu()
    calls: list[InFlightCall] = []
    row_end = end = 0
    for worker, (rows, count) in enumerate(zip(row_count_W.tolist(), count_W.tolist(), strict=True)):
        if not count:
            continue
        # All rows in ascending order are the input as it lies.
        everything = rows == len(batch.h_TD)
        x_RD = batch.h_TD if everything else batch.h_TD.index_select(0, row[row_end : row_end + rows])
        request = ExpertRequest(
            batch.step,
            batch.layer,
            table.epoch,
            timeout_s,
            x_RD,
            row_A[end : end + count],
            expert_A[end : end + count],
        )
        future = pool.dispatch(table.workers[worker], request)
        size = payload_bytes(rows, x_RD.shape[1], pool.dispatch_dtype or x_RD.dtype)
        calls.append(InFlightCall(table.keys[worker], end, count, rows, size, future))
        row_end += rows
        end += count
    return SentBatch(table.epoch, replicas.complete, reply_index_TK, end, calls)
