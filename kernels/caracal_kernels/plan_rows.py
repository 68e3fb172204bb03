"""Which rows go to which expert worker, and where each slot's answer comes home.

Legend: T tokens, K slots, F FFN experts, W workers, P (row, expert) pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from caracal_kernels.backend import compiled, on_triton

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
    offset, worker_of = replica_offset_F.tolist(), replica_worker.tolist()
    reply_index_TK = torch.full(ids_TK.shape, -1, dtype=torch.int32)
    wanted: list[list[tuple[int, int, int]]] = [[] for _ in range(num_workers)]  # (expert, token, slot)
    for token, (ids, position) in enumerate(zip(ids_TK.tolist(), positions_T.tolist(), strict=True)):
        for slot, expert in enumerate(ids):
            if expert >= num_ffn:
                continue
            replicas = offset[expert + 1] - offset[expert]
            if not replicas:
                reply_index_TK[token, slot] = NO_REPLICA
                continue
            worker = worker_of[offset[expert] + mix(layer, expert, position) % replicas]
            wanted[worker].append((expert, token, slot))
    lists: tuple[list[int], ...] = ([], [], [], [], [])
    rows, row_counts, pair_rows, pair_experts, pair_counts = lists
    for pairs in wanted:
        pairs.sort()
        tokens = sorted({token for _, token, _ in pairs})
        place = {token: row for row, token in enumerate(tokens)}
        for expert, token, slot in pairs:
            reply_index_TK[token, slot] = len(pair_rows)
            pair_rows.append(place[token])
            pair_experts.append(expert)
        rows += tokens
        row_counts.append(len(tokens))
        pair_counts.append(len(pairs))
    row, row_count_W, pair_row_P, pair_expert_P, pair_count_W = (torch.tensor(x, dtype=torch.int32) for x in lists)
    return row, row_count_W, pair_row_P, pair_expert_P, pair_count_W, reply_index_TK


def plan_rows(
    ids_TK: Tensor,
    positions_T: Tensor,
    layer: int,
    num_ffn: int,
    replica_offset_F: Tensor,
    replica_worker: Tensor,
    num_workers: int,
) -> Plan:
    """(row, row_count_W, pair_row, pair_expert, pair_count_W, reply_index_TK), int32, grouped by worker in their order.

    A token is one row per worker; rows ascend by token, assignments by (expert, row); `pair_row` indexes the worker's
    own rows. `reply_index_TK` is an assignment's place among all: -1 for a zero expert, -2 for an expert nobody holds.
    """
    if compiled(ids_TK):
        plan: Plan = torch.ops.caracal.plan_rows(
            ids_TK, positions_T, layer, num_ffn, replica_offset_F, replica_worker, num_workers
        )
        return plan
    if on_triton(ids_TK):
        from caracal_kernels.triton.plan_rows import plan_rows_triton

        return plan_rows_triton(ids_TK, positions_T, layer, num_ffn, replica_offset_F, replica_worker, num_workers)
    return plan_rows_reference(ids_TK, positions_T, layer, num_ffn, replica_offset_F, replica_worker, num_workers)
