"""The plan of rows and assignments, on the device.

Legend: T tokens, K choices, F FFN experts, W workers, A assignments, S choices of a token, G choices of a chunk of
tokens, N those it is compared with.

Every program gives its token's choices their workers and counts them; the one that arrives last lays all choices out,
by worker, expert and token. Counts are integer atomics and places follow token order, so the plan does not depend on
which one is last.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

Plan = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
NARROW = tl.constexpr(32)  # choices a chunk is compared with at a time


@triton.jit
def replica_hash(layer, expert, position):
    """plan_rows.mix, in uint32."""
    h = (layer.to(tl.uint32) * 0x9E3779B1) ^ (expert.to(tl.uint32) * 0x85EBCA77) ^ (position.to(tl.uint32) * 0xC2B2AE3D)
    h = (h ^ (h >> 16)) * 0x85EBCA6B
    h = (h ^ (h >> 13)) * 0xC2B2AE35
    return h ^ (h >> 16)


@triton.jit
def assign_workers(
    token, ids_ptr, positions_ptr, offset_ptr, worker_ptr, reply_index_ptr, state_ptr, layer, F, W,
    K: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Leaves in reply_index 2 * worker + (is the token's first choice there), or -1, or -2.

    Counts the assignments of each (worker, expert) and the rows of each worker."""
    place_S = tl.arange(0, BLOCK_K)
    at_S = token.to(tl.int64) * K + place_S
    expert_S = tl.load(ids_ptr + at_S, place_S < K, -1)
    is_ffn_S = (expert_S >= 0) & (expert_S < F)
    begin_S = tl.load(offset_ptr + expert_S, is_ffn_S, 0)
    replicas_S = tl.load(offset_ptr + expert_S + 1, is_ffn_S, 0) - begin_S
    placed_S = is_ffn_S & (replicas_S > 0)
    hash_S = replica_hash(layer, expert_S, tl.load(positions_ptr + token))
    replica_S = (hash_S % tl.maximum(replicas_S, 1).to(tl.uint32)).to(tl.int32)
    worker_S = tl.load(worker_ptr + begin_S + replica_S, placed_S, -1)
    placed_S = placed_S & (worker_S >= 0) & (worker_S < W)
    worker_S = tl.where(placed_S, worker_S, tl.where(is_ffn_S, -2, -1))
    earlier_SS = (worker_S[:, None] == worker_S[None, :]) & (place_S[None, :] < place_S[:, None])
    first_S = placed_S & (tl.sum(earlier_SS.to(tl.int32), 1) == 0)
    tl.atomic_add(state_ptr + worker_S * F + expert_S, 1, placed_S, sem="relaxed")
    tl.atomic_add(state_ptr + W * F + worker_S, 1, first_S, sem="relaxed")
    tl.store(reply_index_ptr + at_S, tl.where(placed_S, 2 * worker_S + first_S.to(tl.int32), worker_S), place_S < K)


@triton.jit
def arrives_last(done_ptr):
    """Whether all other programs have arrived before; the last one sees what they wrote."""
    tl.debug_barrier()
    return tl.atomic_add(done_ptr, 1, sem="acq_rel") == tl.num_programs(0) - 1


@triton.jit
def _begin_places(state_ptr, row_count_ptr, assigned_count_ptr, F, W, BLOCK_F: tl.constexpr, BLOCK_W: tl.constexpr):
    """Turns counts into first places, of each (worker, expert)'s assignments and of each worker's rows."""
    f_F = tl.arange(0, BLOCK_F)
    assigned, rows = 0, 0
    for begin in range(0, W, BLOCK_W):
        w_W = begin + tl.arange(0, BLOCK_W)
        inside = (w_W < W)[:, None] & (f_F < F)[None, :]
        at = state_ptr + w_W[:, None] * F + f_F[None, :]
        count_WF = tl.load(at, inside, 0)
        count_W, row_W = tl.sum(count_WF, 1), tl.load(state_ptr + W * F + w_W, w_W < W, 0)
        first_W = assigned + tl.cumsum(count_W, 0) - count_W
        tl.store(at, first_W[:, None] + tl.cumsum(count_WF, 1) - count_WF, inside)
        tl.store(assigned_count_ptr + w_W, count_W, w_W < W)
        tl.store(row_count_ptr + w_W, row_W, w_W < W)
        tl.store(state_ptr + W * F + W + w_W, rows + tl.cumsum(row_W, 0) - row_W, w_W < W)
        tl.store(state_ptr + W * F + w_W, tl.zeros_like(row_W), w_W < W)
        assigned += tl.sum(count_W, 0)
        rows += tl.sum(row_W, 0)


@triton.jit
def _choices(ids_ptr, reply_index_ptr, begin, T, F, choice, K: tl.constexpr, BLOCK_K: tl.constexpr):
    """For choices counted from token `begin`: token, place in [T, K], worker, is first there, (worker, expert) key."""
    token = begin + choice // BLOCK_K
    inside = (token < T) & (choice % BLOCK_K < K)
    at = token.to(tl.int64) * K + choice % BLOCK_K
    word = tl.load(reply_index_ptr + at, inside, -1)
    worker = word >> 1
    key = tl.where(word >= 0, worker * F + tl.load(ids_ptr + at, inside, 0), -1)
    return token, at, worker, (word >= 0) & ((word & 1) == 1), key


@triton.jit
def lay_out(
    ids_ptr, reply_index_ptr, state_ptr, row_ptr, row_count_ptr, assigned_row_ptr, assigned_expert_ptr,
    assigned_count_ptr, T, F, W,
    K: tl.constexpr, BLOCK_K: tl.constexpr, CHUNK: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """Every choice's place, CHUNK tokens at a time: what the chunks before left, and the chunk's own earlier tokens."""
    _begin_places(state_ptr, row_count_ptr, assigned_count_ptr, F, W, BLOCK_F, BLOCK_W)
    rows_ptr = state_ptr + W * F
    for begin in range(0, T, CHUNK):
        tl.debug_barrier()  # what the chunk before counted is written
        token_G, at_G, worker_G, first_G, key_G = _choices(
            ids_ptr, reply_index_ptr, begin, T, F, tl.arange(0, CHUNK * BLOCK_K), K, BLOCK_K
        )
        assigned_G = worker_G >= 0
        rank_G, row_rank_G = tl.zeros_like(key_G), tl.zeros_like(key_G)
        for start in range(0, CHUNK * BLOCK_K, NARROW):
            token_N, at_N, worker_N, first_N, key_N = _choices(
                ids_ptr, reply_index_ptr, begin, T, F, start + tl.arange(0, NARROW), K, BLOCK_K
            )
            assigned_GN = (at_N[None, :] < at_G[:, None]) & (key_N[None, :] == key_G[:, None])
            rows_GN = (
                (token_N[None, :] < token_G[:, None]) & (worker_N[None, :] == worker_G[:, None]) & first_N[None, :]
            )
            rank_G += tl.sum(assigned_GN.to(tl.int32), 1)
            row_rank_G += tl.sum(rows_GN.to(tl.int32), 1)
        place_G = tl.load(state_ptr + key_G, assigned_G, 0) + rank_G
        row_G = tl.load(rows_ptr + worker_G, assigned_G, 0) + row_rank_G
        row_place_G = tl.load(rows_ptr + W + worker_G, assigned_G, 0) + row_G
        tl.debug_barrier()  # all have read this chunk's workers and the counts before it
        tl.store(reply_index_ptr + at_G, place_G, assigned_G)
        tl.store(assigned_row_ptr + place_G, row_G, assigned_G)
        tl.store(assigned_expert_ptr + place_G, key_G - worker_G * F, assigned_G)
        tl.store(row_ptr + row_place_G, token_G, first_G)
        tl.atomic_add(state_ptr + key_G, 1, assigned_G, sem="relaxed")
        tl.atomic_add(rows_ptr + worker_G, 1, first_G, sem="relaxed")


@triton.jit(do_not_specialize=["layer", "T"])
def plan_kernel(
    ids_ptr, positions_ptr, offset_ptr, worker_ptr, reply_index_ptr, state_ptr,
    row_ptr, row_count_ptr, assigned_row_ptr, assigned_expert_ptr, assigned_count_ptr, layer, T, F, W,
    K: tl.constexpr, BLOCK_K: tl.constexpr, CHUNK: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    assign_workers(
        tl.program_id(0),
        ids_ptr,
        positions_ptr,
        offset_ptr,
        worker_ptr,
        reply_index_ptr,
        state_ptr,
        layer,
        F,
        W,
        K,
        BLOCK_K,
    )
    if arrives_last(state_ptr + W * F + 2 * W):
        lay_out(
            ids_ptr, reply_index_ptr, state_ptr, row_ptr, row_count_ptr, assigned_row_ptr, assigned_expert_ptr,
            assigned_count_ptr,
            T, F, W, K, BLOCK_K, CHUNK, BLOCK_F, BLOCK_W,
        )  # fmt: skip


def plan_blocks(top_k: int, num_ffn: int) -> dict[str, int]:
    """The constants of `assign_workers` and `lay_out`: 256 choices of a chunk, 4096 counts of a tile."""
    block_k, block_f = triton.next_power_of_2(top_k), triton.next_power_of_2(num_ffn)
    return {
        "K": top_k,
        "BLOCK_K": block_k,
        "CHUNK": max(1, 256 // block_k),
        "BLOCK_F": block_f,
        "BLOCK_W": max(1, 4096 // block_f),
    }


def empty_plan(ids_TK: Tensor, num_ffn: int, num_workers: int) -> tuple[Plan, Tensor]:
    """(a plan's tensors with room for every choice, `state`: counts of assignments per (worker, expert) and rows per
    worker, which become running places; each worker's first row; the number of programs that are done)."""
    tokens, choices = ids_TK.shape
    room = (tokens * min(choices, num_workers), num_workers, tokens * choices, tokens * choices, num_workers)
    row, row_count, row_A, expert_A, count_W = (ids_TK.new_empty(n, dtype=torch.int32) for n in room)
    reply_index_TK = torch.empty_like(ids_TK, dtype=torch.int32)
    state = ids_TK.new_zeros(num_workers * (num_ffn + 2) + 1, dtype=torch.int32)
    return (row, row_count, row_A, expert_A, count_W, reply_index_TK), state


def trimmed(plan: Plan) -> Plan:
    """Without the room nobody needed. Waits for the device: two counts must be known."""
    row, row_count_W, row_A, expert_A, count_W, reply_index_TK = plan
    if not len(reply_index_TK):
        return row, torch.zeros_like(row_count_W), row_A, expert_A, torch.zeros_like(count_W), reply_index_TK
    rows, assignments = torch.stack([row_count_W.sum(), count_W.sum()]).tolist()
    return row[:rows], row_count_W, row_A[:assignments], expert_A[:assignments], count_W, reply_index_TK


def plan_rows_triton(
    ids_TK: Tensor,
    positions_T: Tensor,
    layer: int,
    num_ffn: int,
    replica_offset_F: Tensor,
    replica_worker: Tensor,
    num_workers: int,
) -> Plan:
    """As plan_rows, with one wait for the device at the end. Tables are not checked: what points outside is -2."""
    plan, state = empty_plan(ids_TK, num_ffn, num_workers)
    row, row_count, row_A, expert_A, count_W, reply_index = plan
    if len(ids_TK):
        plan_kernel[(len(ids_TK),)](
            ids_TK, positions_T, replica_offset_F, replica_worker, reply_index, state,
            row, row_count, row_A, expert_A, count_W, layer, len(ids_TK), num_ffn, num_workers,
            num_warps=8, **plan_blocks(ids_TK.shape[1], num_ffn),
        )  # fmt: skip
    return trimmed(plan)
