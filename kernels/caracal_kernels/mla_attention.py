"""Attention over the paged latent cache: one form for prefill, chunks and decode.

Legend: T rows, H heads, C kv_lora_rank, L = C + rope, P pages of I positions, S sequences, X pages
a sequence may hold.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from caracal_kernels.latent_cache import read_fp8
from caracal_kernels.registry import define_op

SPARSE_BLOCK = 128  # of streaming-sparse attention, at absolute multiples
KEY_BLOCK = 16  # the online softmax steps over keys in blocks at absolute multiples of this, whatever the page size


def _one_row(q_HL: Tensor, keys_NL: Tensor, scale: float, latent: int) -> Tensor:
    top_H = torch.full((len(q_HL),), -math.inf, dtype=torch.float64)
    sum_H = torch.zeros(len(q_HL), dtype=torch.float64)
    acc_HC = torch.zeros((len(q_HL), latent), dtype=torch.float64)
    for start in range(0, len(keys_NL), KEY_BLOCK):
        block = keys_NL[start : start + KEY_BLOCK]
        score_HB = torch.stack([torch.mv(block, q_L) for q_L in q_HL]) * scale
        new_top_H = torch.maximum(top_H, score_HB.amax(-1))
        p_HB, shrink_H = torch.exp(score_HB - new_top_H[:, None]), torch.exp(top_H - new_top_H)
        sum_H = sum_H * shrink_H + p_HB.sum(-1)
        acc_HC = acc_HC * shrink_H[:, None] + torch.stack([torch.mv(block[:, :latent].T, p_B) for p_B in p_HB])
        top_H = new_top_H
    return acc_HC / sum_H[:, None]


def keys_left_out(position: int, sink_blocks: int, recent_blocks: int) -> int:
    """How many keys a row leaves out, from the end of the first `sink_blocks` blocks on: a multiple of SPARSE_BLOCK."""
    if not recent_blocks:
        return 0
    return max(0, position // SPARSE_BLOCK + 1 - recent_blocks - sink_blocks) * SPARSE_BLOCK


def mla_attention_reference(
    q_THL: Tensor,
    cache_PIL: Tensor,
    page_table_SX: Tensor,
    seq_T: Tensor,
    positions_T: Tensor,
    scale: float,
    kv_lora_rank: int,
    sink_blocks: int = 0,
    recent_blocks: int = 0,
) -> Tensor:
    """[T, H, C]: row t attends to positions 0..positions_T[t] of sequence seq_T[t]. Pages hold a multiple of 16.

    With `recent_blocks` it reads only the first `sink_blocks` blocks of 128 positions, at least 1, and the last
    `recent_blocks`, of which its own is one: the online softmax steps from the ones to the others. A cache of bytes is
    in fp8, see latent_cache.py.
    """
    if cache_PIL.dtype == torch.uint8:
        cache_PIL = read_fp8(cache_PIL, kv_lora_rank, q_THL.shape[2] - kv_lora_rank, q_THL.dtype)
    page_size = cache_PIL.shape[1]
    o_THC = q_THL.new_empty((*q_THL.shape[:2], kv_lora_rank))
    for t, (seq, position) in enumerate(zip(seq_T.tolist(), positions_T.tolist(), strict=True)):
        pages = page_table_SX[seq, : position // page_size + 1].long()
        keys_NL = cache_PIL[pages].flatten(0, 1)[: position + 1].double()
        if left_out := keys_left_out(position, sink_blocks, recent_blocks):
            sink = sink_blocks * SPARSE_BLOCK
            keys_NL = torch.cat([keys_NL[:sink], keys_NL[sink + left_out :]])
        o_THC[t] = _one_row(q_THL[t].double(), keys_NL, scale, kv_lora_rank).to(q_THL.dtype)
    return o_THC


def _fake(
    q_THL: Tensor, cache_PIL: Tensor, table_SX: Tensor, seq_T: Tensor, positions_T: Tensor, scale: float,
    kv_lora_rank: int, *_: Any,
) -> Tensor:  # fmt: skip
    return q_THL.new_empty((*q_THL.shape[:2], kv_lora_rank))


mla_attention = define_op(mla_attention_reference, fake=_fake, triton="mla_attention")
