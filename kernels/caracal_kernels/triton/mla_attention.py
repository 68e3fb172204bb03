"""Attention over the paged latent cache: one program per (row, heads, split of the keys), then a fold.

Legend: T rows, H heads, C latent, R rope, L = C + R, P pages of I positions, X pages in the table, S splits, N keys.

Splits begin at absolute multiples of SPLIT and blocks of keys at absolute multiples of N, so that a row's operations
follow from its own position: prefill, chunks and decode run the same ones. Heads fill the matrix units' rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from caracal_kernels.mla_attention import SPARSE_BLOCK
from caracal_kernels.triton.dot import dot
from caracal_kernels.triton.latent_cache import parts_of
from caracal_kernels.triton.rounding import round_to
from caracal_kernels.triton.tiles import FP8_BLOCK

SPLIT = 1024
SCRATCH_BYTES = 1 << 30  # of partial sums; more rows than fit are launched one group after the other
_LOG2_E = 1.4426950408889634


@dataclass(frozen=True)
class Tile:
    """At most `heads` heads by `keys` keys: part of the numerics, and one for each dtype."""

    heads: int
    keys: int
    stages: int


# For sm_90, of 227 KiB: bf16 holds 72 KiB of queries and two key buffers of 72 KiB; fp32 has no matrix units to feed.
TILES = {torch.bfloat16: Tile(64, 64, stages=3), torch.float32: Tile(16, 32, stages=1)}


@triton.jit
def _keep(top_at_H, sum_at_H, part_at_H, top_H, sum_H, acc_HC, is_head_H, is_c_C):
    """Stores what a split came to, for the fold."""
    tl.store(top_at_H, top_H, is_head_H)
    tl.store(sum_at_H, sum_H, is_head_H)
    tl.store(part_at_H[:, None] + tl.arange(0, acc_HC.shape[1]), acc_HC, is_head_H[:, None] & is_c_C)


@triton.jit
def _scaled(code_NC, scale_N, known_N, C: tl.constexpr, dtype: tl.constexpr, FP8_BLOCK: tl.constexpr):
    """What codes stand for. `scale_N`: pointers to each key's first scale."""
    SCALES: tl.constexpr = code_NC.shape[1] // FP8_BLOCK
    s_S = tl.arange(0, SCALES)
    scale_NS = tl.load(scale_N[:, None] + s_S, known_N[:, None] & (s_S * FP8_BLOCK < C), 0.0)
    code_NSB = tl.reshape(code_NC.to(tl.float32), [code_NC.shape[0], SCALES, FP8_BLOCK])
    return round_to(tl.reshape(code_NSB * scale_NS[:, :, None], code_NC.shape), dtype)


@triton.jit
def _keys(
    latent_ptr, scale_ptr, rope_ptr, key_N, known_N, c_C, r_R, C: tl.constexpr, R: tl.constexpr, dtype: tl.constexpr,
    FP8: tl.constexpr, FP8_BLOCK: tl.constexpr,
    LATENT_STRIDE: tl.constexpr, SCALE_STRIDE: tl.constexpr, ROPE_STRIDE: tl.constexpr,
):  # fmt: skip
    """Latents and rope parts of keys, by their places in the cache; zeros for what is not known."""
    is_c_NC, is_r_NR = known_N[:, None] & (c_C < C), known_N[:, None] & (r_R < R)
    if FP8:
        k_NC = tl.load(latent_ptr + key_N[:, None] * LATENT_STRIDE + c_C, is_c_NC, 0.0)
        k_NC = _scaled(k_NC, scale_ptr + key_N * SCALE_STRIDE, known_N, C, dtype, FP8_BLOCK)
        k_NR = tl.load(rope_ptr + key_N[:, None] * ROPE_STRIDE + r_R, is_r_NR, 0.0)
    else:
        key_N *= C + R
        k_NC = tl.load(latent_ptr + key_N[:, None] + c_C, is_c_NC, 0.0)
        k_NR = tl.load(latent_ptr + key_N[:, None] + C + r_R, is_r_NR, 0.0)
    return k_NC, k_NR


@triton.jit
def attend_splits(
    q_ptr, latent_ptr, scale_ptr, rope_ptr, table_ptr, seq_ptr, position_ptr, out_ptr, part_ptr, top_ptr, sum_ptr,
    scale_log2, num_seqs, table_stride, capacity, num_pages, page_size, sink_blocks, recent_blocks,
    H: tl.constexpr, C: tl.constexpr, R: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_R: tl.constexpr, SPLIT: tl.constexpr, KEYS: tl.constexpr,
    SPARSE: tl.constexpr, SPARSE_BLOCK: tl.constexpr, FP8: tl.constexpr, FP8_BLOCK: tl.constexpr,
    LATENT_STRIDE: tl.constexpr, SCALE_STRIDE: tl.constexpr, ROPE_STRIDE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    split = tl.program_id(2)
    position = tl.minimum(tl.load(position_ptr + row), capacity - 1)
    sink, gap = 0, 0
    if SPARSE:  # splits and blocks count the keys that are left, so that their number does not grow with the context
        sink = sink_blocks * SPARSE_BLOCK
        gap = tl.maximum(position // SPARSE_BLOCK + 1 - recent_blocks - sink_blocks, 0) * SPARSE_BLOCK
        position -= gap
    seq = tl.load(seq_ptr + row).to(tl.int64)
    begin = split * SPLIT
    if begin <= position:
        head_H = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
        c_C, r_R = tl.arange(0, BLOCK_C), tl.arange(0, BLOCK_R)
        q_row_H = (row * H + head_H) * (C + R)
        is_head_H = head_H < H
        q_HC = tl.load(q_ptr + q_row_H[:, None] + c_C, is_head_H[:, None] & (c_C < C), 0.0)
        q_HR = tl.load(q_ptr + q_row_H[:, None] + C + r_R, is_head_H[:, None] & (r_R < R), 0.0)
        top_H = tl.full([BLOCK_H], float("-inf"), tl.float32)
        sum_H = tl.zeros([BLOCK_H], tl.float32)
        acc_HC = tl.zeros([BLOCK_H, BLOCK_C], tl.float32)
        end = tl.minimum(begin + SPLIT, position + 1)
        for start in range(begin, end, KEYS):
            n_N = start + tl.arange(0, KEYS)
            at_N = n_N
            if SPARSE:
                at_N += tl.where(start >= sink, gap, 0)
            page_N = at_N // page_size
            known_N = (n_N <= position) & (seq >= 0) & (seq < num_seqs)
            id_N = tl.load(table_ptr + seq * table_stride + page_N, known_N, -1)
            known_N = known_N & (id_N >= 0) & (id_N < num_pages)
            key_N = id_N.to(tl.int64) * page_size + at_N % page_size
            k_NC, k_NR = _keys(
                latent_ptr, scale_ptr, rope_ptr, key_N, known_N, c_C, r_R, C, R, q_HC.dtype,
                FP8, FP8_BLOCK, LATENT_STRIDE, SCALE_STRIDE, ROPE_STRIDE,
            )  # fmt: skip
            score_HN = dot(q_HR, tl.trans(k_NR), tl.zeros([BLOCK_H, KEYS], tl.float32))
            score_HN = dot(q_HC, tl.trans(k_NC), score_HN) * scale_log2
            score_HN = tl.where(n_N <= position, score_HN, float("-inf"))
            new_top_H = tl.maximum(top_H, tl.max(score_HN, 1))
            p_HN = tl.exp2(score_HN - new_top_H[:, None])
            shrink_H = tl.exp2(top_H - new_top_H)
            sum_H = sum_H * shrink_H + tl.sum(p_HN, 1)
            acc_HC = dot(round_to(p_HN, k_NC.dtype), k_NC, acc_HC * shrink_H[:, None])
            top_H = new_top_H
        if position < SPLIT:
            out_HC = out_ptr + (row * H + head_H)[:, None] * C + c_C
            answer_HC = round_to(acc_HC / sum_H[:, None], out_ptr.dtype.element_ty)
            tl.store(out_HC, answer_HC, is_head_H[:, None] & (c_C < C))
        else:
            place_H = (row * tl.num_programs(2) + split) * H + head_H
            part_H = part_ptr + place_H * C
            _keep(top_ptr + place_H, sum_ptr + place_H, part_H, top_H, sum_H, acc_HC, is_head_H, c_C < C)


@triton.jit
def fold_splits(
    part_ptr,
    top_ptr,
    sum_ptr,
    position_ptr,
    out_ptr,
    num_splits,
    capacity,
    sink_blocks,
    recent_blocks,
    H: tl.constexpr,
    C: tl.constexpr,
    BLOCK_C: tl.constexpr,
    SPLIT: tl.constexpr,
    SPARSE: tl.constexpr,
    SPARSE_BLOCK: tl.constexpr,
):
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    position = tl.minimum(tl.load(position_ptr + row), capacity - 1)
    if SPARSE:
        position -= tl.maximum(position // SPARSE_BLOCK + 1 - recent_blocks - sink_blocks, 0) * SPARSE_BLOCK
    if position >= SPLIT:
        c_C = tl.arange(0, BLOCK_C)
        top, total = float("-inf"), 0.0
        acc_C = tl.zeros([BLOCK_C], tl.float32)
        for split in range(position // SPLIT + 1):
            place = (row * num_splits + split) * H + head
            split_top = tl.load(top_ptr + place)
            new_top = tl.maximum(top, split_top)
            shrink, weight = tl.exp2(top - new_top), tl.exp2(split_top - new_top)
            total = total * shrink + tl.load(sum_ptr + place) * weight
            part_C = tl.load(part_ptr + place * C + c_C, c_C < C, 0.0)
            acc_C = acc_C * shrink + part_C * weight
            top = new_top
        answer_C = round_to(acc_C / total, out_ptr.dtype.element_ty)
        tl.store(out_ptr + (row * H + head) * C + c_C, answer_C, c_C < C)


def mla_attention_triton(
    q_THL: Tensor,
    cache_PIL: Tensor,
    page_table_SX: Tensor,
    seq_T: Tensor,
    positions_T: Tensor,
    scale: float,
    kv_lora_rank: int,
    sink_blocks: int = 0,
    recent_blocks: int = 0,
    scratch_bytes: int = SCRATCH_BYTES,
    split: int = SPLIT,
) -> Tensor:
    """As mla_attention. Indices are not checked: what points outside is not read, and its row's answer means nothing.

    The launch covers the table's width: give a view of the columns in use and no program starts for the others.
    Another `split` gives other bits: for measuring only.
    """
    rows, heads, width = q_THL.shape
    pages, page_size, _ = cache_PIL.shape
    o_THC = q_THL.new_empty((rows, heads, kv_lora_rank))
    capacity = page_table_SX.shape[1] * page_size
    visible = min(capacity, (sink_blocks + recent_blocks) * SPARSE_BLOCK) if recent_blocks else capacity
    splits = max(1, triton.cdiv(visible, split))
    sparse = {"SPARSE": recent_blocks > 0, "SPARSE_BLOCK": SPARSE_BLOCK}
    fitting = scratch_bytes // (4 * splits * heads * (kv_lora_rank + 2))
    group = min(rows, max(1, fitting))
    scratch = q_THL.new_empty((group * splits if splits > 1 else 0, heads, kv_lora_rank + 2), dtype=torch.float32)
    part, top, total = scratch.view(-1).split([len(scratch) * heads * n for n in (kv_lora_rank, 1, 1)])
    cache = parts_of(cache_PIL, kv_lora_rank, width - kv_lora_rank, q_THL.dtype)
    tile = TILES[q_THL.dtype]
    block_h = min(tile.heads, max(16, triton.next_power_of_2(heads)))
    block_c = max(FP8_BLOCK if cache.fp8 else 16, triton.next_power_of_2(kv_lora_rank))
    for first in range(0, rows, max(1, group)):
        here = slice(first, first + group)
        q, out, position, seq = q_THL[here], o_THC[here], positions_T[here], seq_T[here]
        attend_splits[(len(q), triton.cdiv(heads, block_h), splits)](
            q, *cache.tensors, page_table_SX, seq, position, out, part, top, total,
            scale * _LOG2_E, len(page_table_SX), page_table_SX.stride(0), capacity, pages, page_size,
            sink_blocks, recent_blocks,
            H=heads, C=kv_lora_rank, R=width - kv_lora_rank, BLOCK_H=block_h, BLOCK_C=block_c,
            BLOCK_R=max(16, triton.next_power_of_2(width - kv_lora_rank)), SPLIT=split, KEYS=tile.keys,
            **cache.constants, num_warps=8, num_stages=tile.stages, **sparse,
        )  # fmt: skip
        if splits > 1:
            fold_splits[(len(q), heads)](
                part, top, total, position, out, splits, capacity, sink_blocks, recent_blocks,
                H=heads, C=kv_lora_rank, BLOCK_C=block_c, SPLIT=split, num_warps=4, **sparse,
            )  # fmt: skip
    return o_THC
