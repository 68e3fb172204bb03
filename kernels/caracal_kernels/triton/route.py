"""The gate, and with it the plan of its rows. Legend: T tokens, D hidden, G gate outputs, K choices, S them,
padded to a power of two.

After the product one launch: a program per token, all of G in its registers; the last one to arrive lays out the rows.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from caracal_kernels.route import Route
from caracal_kernels.route_rows import RoutedRows
from caracal_kernels.triton.linear import linear_triton
from caracal_kernels.triton.plan_rows import (
    Plan,
    arrives_last,
    assign_workers,
    empty_plan,
    lay_out,
    plan_blocks,
    trimmed,
)


@triton.jit
def _choose(score_G, bias_ptr, G, K: tl.constexpr, BLOCK_G: tl.constexpr):
    """[G] which K have the highest biased score. Keys order as floats do, then lower ids first; no two are equal."""
    e_G = tl.arange(0, BLOCK_G)
    biased_G = score_G + tl.load(bias_ptr + e_G, e_G < G, 0.0)
    bits_G = tl.where(biased_G == 0.0, 0.0, biased_G).to(tl.int32, bitcast=True)
    bits_G = tl.where(bits_G < 0, bits_G ^ 0x7FFFFFFF, bits_G)
    key_G = (bits_G.to(tl.int64) << 32) | (BLOCK_G - 1 - e_G).to(tl.int64)
    key_G = tl.where(e_G < G, key_G, -0x7FFFFFFFFFFFFFFF)
    chosen_G = e_G < 0
    for _ in tl.static_range(K):
        hit_G = key_G == tl.max(key_G, 0)
        chosen_G = chosen_G | hit_G
        key_G = tl.where(hit_G, -0x7FFFFFFFFFFFFFFF, key_G)
    return chosen_G & (e_G < G)


@triton.jit
def _weigh(ids_ptr, weights_ptr, num_ffn, scale, K: tl.constexpr, BLOCK_K: tl.constexpr, NORM: tl.constexpr):
    """Scores in `weights_ptr` become weights; returns those of zero experts, summed by ascending id."""
    place_S = tl.arange(0, BLOCK_K)
    weight_S = tl.load(weights_ptr + place_S, place_S < K, 0.0)
    if NORM:
        total = 1e-20
        for place in tl.static_range(K):
            total += tl.load(weights_ptr + place)
        weight_S = weight_S / total
    tl.debug_barrier()  # all have read the scores
    tl.store(weights_ptr + place_S, weight_S * scale, place_S < K)
    tl.debug_barrier()
    zero = 0.0
    for place in tl.static_range(K):
        zero += tl.where(tl.load(ids_ptr + place) >= num_ffn, tl.load(weights_ptr + place), 0.0)
    return zero


@triton.jit(do_not_specialize=["layer", "T"])
def route_kernel(
    logits_ptr, bias_ptr, ids_ptr, weights_ptr, zero_ptr, positions_ptr, offset_ptr, worker_ptr, reply_index_ptr,
    state_ptr,
    row_ptr, row_count_ptr, assigned_row_ptr, assigned_expert_ptr, assigned_count_ptr, scale, layer, T, G, F, W,
    NORM: tl.constexpr, PLAN: tl.constexpr, BLOCK_G: tl.constexpr,
    K: tl.constexpr, BLOCK_K: tl.constexpr, CHUNK: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0)
    first = token.to(tl.int64) * K
    e_G = tl.arange(0, BLOCK_G)
    logit_G = tl.load(logits_ptr + token.to(tl.int64) * G + e_G, e_G < G, float("-inf"))
    exp_G = tl.exp(logit_G - tl.max(logit_G, 0))
    score_G = exp_G / tl.sum(exp_G, 0)
    chosen_G = _choose(score_G, bias_ptr, G, K, BLOCK_G)
    place_G = tl.cumsum(chosen_G.to(tl.int32), 0) - 1
    tl.store(ids_ptr + first + place_G, e_G, chosen_G)
    tl.store(weights_ptr + first + place_G, score_G, chosen_G)
    tl.debug_barrier()
    tl.store(zero_ptr + token, _weigh(ids_ptr + first, weights_ptr + first, F, scale, K, BLOCK_K, NORM))
    if PLAN:
        assign_workers(
            token, ids_ptr, positions_ptr, offset_ptr, worker_ptr, reply_index_ptr, state_ptr, layer, F, W, K, BLOCK_K
        )
        if arrives_last(state_ptr + W * F + 2 * W):
            lay_out(
                ids_ptr, reply_index_ptr, state_ptr, row_ptr, row_count_ptr, assigned_row_ptr, assigned_expert_ptr,
                assigned_count_ptr,
                T, F, W, K, BLOCK_K, CHUNK, BLOCK_F, BLOCK_W,
            )  # fmt: skip


def _launch(
    h_TD: Tensor, classifier_GD: Tensor, bias_G: Tensor, route: Route, num_ffn: int, scale: float, norm_topk: bool,
    plan: Plan | None, state: Tensor, table: tuple[Tensor, Tensor, Tensor], layer: int, num_workers: int,
) -> None:  # fmt: skip
    logits_TG = linear_triton(h_TD.float(), classifier_GD)
    ids_TK, weights_TK, zero_T = route
    row, row_count, row_A, expert_A, count_W, reply_index = plan or (state,) * 6
    route_kernel[(len(h_TD),)](
        logits_TG, bias_G, ids_TK, weights_TK, zero_T, *table, reply_index, state,
        row, row_count, row_A, expert_A, count_W, scale, layer, len(h_TD), len(bias_G), num_ffn, num_workers,
        NORM=norm_topk, PLAN=plan is not None, BLOCK_G=triton.next_power_of_2(len(bias_G)), num_warps=8,
        **plan_blocks(ids_TK.shape[1], num_ffn),
    )  # fmt: skip


def _empty_route(h_TD: Tensor, top_k: int) -> Route:
    ids_TK = h_TD.new_empty((len(h_TD), top_k), dtype=torch.int32)
    return ids_TK, torch.empty_like(ids_TK, dtype=torch.float32), h_TD.new_empty(len(h_TD), dtype=torch.float32)


def route_triton(
    h_TD: Tensor, classifier_GD: Tensor, bias_G: Tensor, top_k: int, num_ffn: int, scale: float, norm_topk: bool = False
) -> Route:
    route = _empty_route(h_TD, top_k)
    if len(h_TD):
        ids_TK = route[0]
        unused = (ids_TK, ids_TK, ids_TK)
        _launch(h_TD, classifier_GD, bias_G, route, num_ffn, scale, norm_topk, None, ids_TK, unused, 0, 0)
    return route


def route_rows_untrimmed(
    h_TD: Tensor, classifier_GD: Tensor, bias_G: Tensor, top_k: int, num_ffn: int, scale: float, norm_topk: bool,
    positions_T: Tensor, layer: int, replica_offset_F: Tensor, replica_worker: Tensor, num_workers: int,
) -> tuple[Route, Plan]:  # fmt: skip
    """As route_rows without a wait for the device: rows and assignments have room for all.

    What is past the counts is not written; with no tokens nothing is."""
    route = _empty_route(h_TD, top_k)
    plan, state = empty_plan(route[0], num_ffn, num_workers)
    if len(h_TD):
        table = (positions_T, replica_offset_F, replica_worker)
        _launch(h_TD, classifier_GD, bias_G, route, num_ffn, scale, norm_topk, plan, state, table, layer, num_workers)
    return route, plan


def route_rows_triton(
    h_TD: Tensor, classifier_GD: Tensor, bias_G: Tensor, top_k: int, num_ffn: int, scale: float, norm_topk: bool,
    positions_T: Tensor, layer: int, replica_offset_F: Tensor, replica_worker: Tensor, num_workers: int,
) -> RoutedRows:  # fmt: skip
    """As route_rows, with one wait for the device at the end."""
    route, plan = route_rows_untrimmed(
        h_TD, classifier_GD, bias_G, top_k, num_ffn, scale, norm_topk,
        positions_T, layer, replica_offset_F, replica_worker, num_workers,
    )  # fmt: skip
    return *route, *trimmed(plan)
