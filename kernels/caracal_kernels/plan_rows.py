"""Plans which rows go to which expert worker, and where each choice's reply will lie.

Legend: T tokens, K choices, F FFN experts, W workers, A (row, expert) assignments.
"""

from __future__ import annotations

import torch
from torch import Tensor

from caracal_kernels.registry import define_op

Plan = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
NO_REPLICA = -2
_MASK = 0xFFFFFFFF


def mix(layer: int, expert: int, position: int) -> int:
    """murmur3's finaliser over (layer, expert, position): which replica serves a row, the same on every caller."""
    h = (layer * 0x9E3779B1 ^ expert * 0x85EBCA77 ^ position * 0xC2B2AE3D) & _MASK
    h = (h ^ h >> 16) * 0x85EBCA6B & _MASK
    h = (h ^ h >> 13) * 0xC2B2AE35 & _MASK
    return h ^ h >> 16


def plan_rows_reference(
    ids_TK: Tensor,
    positions_T: Tensor,
    layer: int,
    num_ffn: int,
    replica_offset_F: Tensor,
    replica_worker: Tensor,
    num_workers: int,
) -> Plan:
    """(row, row_count_W, row_A, expert_A, count_W, reply_index_TK), int32, grouped by worker in the workers' order.

    `row` are the tokens sent: one row per worker and token, ascending; `row_count_W` and `count_W` count the rows and
    the assignments of each worker. Assignments ascend by (expert, row); `row_A` indexes the worker's own rows.
    `reply_index_TK` is an assignment's place among all: -1 for a zero expert, -2 for an expert without a replica.
    """
    offset, worker_of = replica_offset_F.tolist(), replica_worker.tolist()
    reply_index_TK = torch.full(ids_TK.shape, -1, dtype=torch.int32)
    wanted: list[list[tuple[int, int, int]]] = [[] for _ in range(num_workers)]  # (expert, token, choice)
    for token, (ids, position) in enumerate(zip(ids_TK.tolist(), positions_T.tolist(), strict=True)):
        for choice, expert in enumerate(ids):
            if expert >= num_ffn:
                continue
            replicas = offset[expert + 1] - offset[expert]
            if not replicas:
                reply_index_TK[token, choice] = NO_REPLICA
                continue
            worker = worker_of[offset[expert] + mix(layer, expert, position) % replicas]
            wanted[worker].append((expert, token, choice))
    lists: tuple[list[int], ...] = ([], [], [], [], [])
    rows, row_counts, assigned_rows, assigned_experts, counts = lists
    for assignments in wanted:
        assignments.sort()
        tokens = sorted({token for _, token, _ in assignments})
        row_of = {token: row for row, token in enumerate(tokens)}
        for expert, token, choice in assignments:
            reply_index_TK[token, choice] = len(assigned_rows)
            assigned_rows.append(row_of[token])
            assigned_experts.append(expert)
        rows += tokens
        row_counts.append(len(tokens))
        counts.append(len(assignments))
    row, row_count_W, row_A, expert_A, count_W = (torch.tensor(x, dtype=torch.int32) for x in lists)
    return row, row_count_W, row_A, expert_A, count_W, reply_index_TK


def fake_plan(ids_TK: Tensor, num_workers: int) -> Plan:
    """A plan's shapes: how many rows and assignments there are depends on the ids' values."""
    context = torch.library.get_ctx()
    rows, assignments = context.new_dynamic_size(), context.new_dynamic_size()
    row, row_count_W, row_A, expert_A, count_W = (
        ids_TK.new_empty((size,), dtype=torch.int32)
        for size in (rows, num_workers, assignments, assignments, num_workers)
    )
    return row, row_count_W, row_A, expert_A, count_W, torch.empty_like(ids_TK)


def _fake(ids_TK: Tensor, *rest: int) -> Plan:
    return fake_plan(ids_TK, num_workers=rest[-1])


plan_rows = define_op(plan_rows_reference, fake=_fake, triton="plan_rows")
