"""From the gate's choice to messages: one op plans, one message leaves per worker.

Legend: T tokens, K slots, D hidden, F FFN experts, R rows sent to one worker, P (row, expert) pairs over all workers.
"""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass

from caracal_kernels import plan_rows
from caracal_kernels.plan_rows import Plan
from torch import Tensor

from services.router.dispatch.expert_workers import ExpertWorkerPool
from services.router.dispatch.links import Answer, ExpertRequest
from services.router.dispatch.table import Key, LayerReplicas, RoutingTable
from services.transport.payload import payload_bytes


@dataclass(frozen=True, slots=True)
class RoutedBatch:
    """One layer's input and what the gate made of it; everything a retry needs."""

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
    """One message that is out. Its answers are pairs `first` to `first + pairs` of its plan."""

    key: Key
    first: int
    pairs: int
    rows: int
    bytes: int  # of its payload
    future: Future[Answer]


@dataclass(frozen=True, slots=True)
class SentBatch:
    """What one plan sent. reply_index_TK is each slot's pair; -1 zero expert, -2 an expert that nobody holds."""

    epoch: int
    complete: bool  # nobody is missing: there is no -2
    reply_index_TK: Tensor
    pairs: int
    calls: list[InFlightCall]


def plan_and_send(
    pool: ExpertWorkerPool,
    table: RoutingTable,
    replicas: LayerReplicas,
    batch: RoutedBatch,
    ids_TK: Tensor,
    timeout_s: float,
) -> SentBatch:
    """Plans and sends the rows of `ids_TK`'s FFN slots. Slots past `num_ffn` send nothing."""
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
    """One message for each worker that the plan names; returns before any has arrived."""
    row, row_count_W, pair_row, pair_expert, pair_count_W, reply_index_TK = plan
    # Ids and counts travel in messages that the host writes; rows stay where they are.
    pair_row, pair_expert = pair_row.cpu(), pair_expert.cpu()
    calls: list[InFlightCall] = []
    row_end = pair_end = 0
    for worker, (rows, pairs) in enumerate(zip(row_count_W.tolist(), pair_count_W.tolist(), strict=True)):
        if not pairs:
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
            pair_row[pair_end : pair_end + pairs],
            pair_expert[pair_end : pair_end + pairs],
        )
        future = pool.dispatch(table.workers[worker], request)
        size = payload_bytes(rows, x_RD.shape[1], pool.wire or x_RD.dtype)
        calls.append(InFlightCall(table.keys[worker], pair_end, pairs, rows, size, future))
        row_end += rows
        pair_end += pairs
    return SentBatch(table.epoch, replicas.complete, reply_index_TK, pair_end, calls)
