"""The gate, and with it the plan of its rows. Legend: T tokens, D hidden, E gate outputs, K slots, S slots of a token.

After the product one launch: a program per token, all of E in its registers; the last one to arrive lays out the rows.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from caracal_kernels.triton.linear import linear_triton
from caracal_kernels.triton.plan_rows import Plan, arrives_last, empty_plan, lay_out, plan_blocks, settle, trimmed

Route = tuple[Tensor, Tensor, Tensor]


@triton.jit
def _choose(score_E, bias_ptr, E, K: tl.constexpr, BLOCK_E: tl.constexpr):
    """[E] which K have the highest biased score. Keys order as floats do, then lower ids first; no two are equal."""
    e_E = tl.arange(0, BLOCK_E)
    biased_E = score_E + tl.load(bias_ptr + e_E, e_E < E, 0.0)
    bits_E = tl.where(biased_E == 0.0, 0.0, biased_E).to(tl.int32, bitcast=True)
    bits_E = tl.where(bits_E < 0, bits_E ^ 0x7FFFFFFF, bits_E)
    key_E = (bits_E.to(tl.int64) << 32) | (BLOCK_E - 1 - e_E).to(tl.int64)
    key_E = tl.where(e_E < E, key_E, -0x7FFFFFFFFFFFFFFF)
    chosen_E = e_E < 0
    for _ in tl.static_range(K):
        hit_E = key_E == tl.max(key_E, 0)
        chosen_E = chosen_E | hit_E
        key_E = tl.where(hit_E, -0x7FFFFFFFFFFFFFFF, key_E)
    return chosen_E & (e_E < E)


@triton.jit
def _weigh(ids_ptr, weights_ptr, num_ffn, scale, K: tl.constexpr, BLOCK_K: tl.constexpr, NORM: tl.constexpr):
    """Scores in `weights_ptr` become weights; returns those of zero experts, summed in slot order."""
    slot_S = tl.arange(0, BLOCK_K)
    weight_S = tl.load(weights_ptr + slot_S, slot_S < K, 0.0)
    if NORM:
        total = 1e-20
        for slot in tl.static_range(K):
            total += tl.load(weights_ptr + slot)
        weight_S = weight_S / total
    tl.debug_barrier()  # all have read the scores
    tl.store(weights_ptr + slot_S, weight_S * scale, slot_S < K)
    tl.debug_barrier()
    zero = 0.0
    for slot in tl.static_range(K):
        zero += tl.where(tl.load(ids_ptr + slot) >= num_ffn, tl.load(weights_ptr + slot), 0.0)
    return zero


@triton.jit(do_not_specialize=["layer", "T"])
def route_kernel(
    logits_ptr, bias_ptr, ids_ptr, weights_ptr, zero_ptr, positions_ptr, offset_ptr, worker_ptr, home_ptr, state_ptr,
    row_ptr, row_count_ptr, pair_row_ptr, pair_expert_ptr, pair_count_ptr, scale, layer, T, E, F, W,
    NORM: tl.constexpr, PLAN: tl.constexpr, BLOCK_E: tl.constexpr,
    K: tl.constexpr, BLOCK_K: tl.constexpr, CHUNK: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0)
    first = token.to(tl.int64) * K
    e_E = tl.arange(0, BLOCK_E)
    logit_E = tl.load(logits_ptr + token.to(tl.int64) * E + e_E, e_E < E, float("-inf"))
    exp_E = tl.exp(logit_E - tl.max(logit_E, 0))
    score_E = exp_E / tl.sum(exp_E, 0)
    chosen_E = _choose(score_E, bias_ptr, E, K, BLOCK_E)
    place_E = tl.cumsum(chosen_E.to(tl.int32), 0) - 1
    tl.store(ids_ptr + first + place_E, e_E, chosen_E)
    tl.store(weights_ptr + first + place_E, score_E, chosen_E)
    tl.debug_barrier()
    tl.store(zero_ptr + token, _weigh(ids_ptr + first, weights_ptr + first, F, scale, K, BLOCK_K, NORM))
    if PLAN:
        settle(token, ids_ptr, positions_ptr, offset_ptr, worker_ptr, home_ptr, state_ptr, layer, F, W, K, BLOCK_K)
        if arrives_last(state_ptr + W * F + 2 * W):
            lay_out(
                ids_ptr, home_ptr, state_ptr, row_ptr, row_count_ptr, pair_row_ptr, pair_expert_ptr, pair_count_ptr,
                T, F, W, K, BLOCK_K, CHUNK, BLOCK_F, BLOCK_W,
            )  # fmt: skip


def _launch(
    h_TD: Tensor, classifier_ED: Tensor, bias_E: Tensor, route: Route, num_ffn: int, scale: float, norm_topk: bool,
    plan: Plan | None, state: Tensor, table: tuple[Tensor, Tensor, Tensor], layer: int, num_workers: int,
) -> None:  # fmt: skip
    logits_TE = linear_triton(h_TD.float(), classifier_ED)
    ids_TK, weights_TK, zero_T = route
    row, row_count, pair_row, pair_expert, pair_count, home = plan or (state,) * 6
    route_kernel[(len(h_TD),)](
        logits_TE, bias_E, ids_TK, weights_TK, zero_T, *table, home, state,
        row, row_count, pair_row, pair_expert, pair_count, scale, layer, len(h_TD), len(bias_E), num_ffn, num_workers,
        NORM=norm_topk, PLAN=plan is not None, BLOCK_E=triton.next_power_of_2(len(bias_E)), num_warps=8,
        **plan_blocks(ids_TK.shape[1], num_ffn),
    )  # fmt: skip


def _empty_route(h_TD: Tensor, top_k: int) -> Route:
    ids_TK = h_TD.new_empty((len(h_TD), top_k), dtype=torch.int32)
    return ids_TK, torch.empty_like(ids_TK, dtype=torch.float32), h_TD.new_empty(len(h_TD), dtype=torch.float32)


def route_triton(
    h_TD: Tensor, classifier_ED: Tensor, bias_E: Tensor, top_k: int, num_ffn: int, scale: float, norm_topk: bool = False
) -> Route:
    route = _empty_route(h_TD, top_k)
    if len(h_TD):
        ids_TK = route[0]
        unused = (ids_TK, ids_TK, ids_TK)
        _launch(h_TD, classifier_ED, bias_E, route, num_ffn, scale, norm_topk, None, ids_TK, unused, 0, 0)
    return route


def route_rows_untrimmed(
    h_TD: Tensor, classifier_ED: Tensor, bias_E: Tensor, top_k: int, num_ffn: int, scale: float, norm_topk: bool,
    positions_T: Tensor, layer: int, replica_offset_F: Tensor, replica_worker: Tensor, num_workers: int,
) -> tuple[Route, Plan]:  # fmt: skip
    """As route_rows without a wait for the device: rows and pairs have room for all, what is past the counts is not
    written. With no tokens nothing is."""
    route = _empty_route(h_TD, top_k)
    plan, state = empty_plan(route[0], num_ffn, num_workers)
    if len(h_TD):
        table = (positions_T, replica_offset_F, replica_worker)
        _launch(h_TD, classifier_ED, bias_E, route, num_ffn, scale, norm_topk, plan, state, table, layer, num_workers)
    return route, plan


def route_rows_triton(
    h_TD: Tensor, classifier_ED: Tensor, bias_E: Tensor, top_k: int, num_ffn: int, scale: float, norm_topk: bool,
    positions_T: Tensor, layer: int, replica_offset_F: Tensor, replica_worker: Tensor, num_workers: int,
) -> tuple[Route, Plan]:  # fmt: skip
    route, plan = route_rows_untrimmed(
        h_TD, classifier_ED, bias_E, top_k, num_ffn, scale, norm_topk,
        positions_T, layer, replica_offset_F, replica_worker, num_workers,
    )  # fmt: skip
    return route, trimmed(plan)
