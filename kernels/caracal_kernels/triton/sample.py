"""Gumbel-max sampling in three launches: what a row keeps, each block's best, the best of those.

Legend: B rows, V vocabulary or a block of it, N blocks.

Rows are not sorted, which would cost many passes and a copy. Every token has its own key: its logit's bits, ordered as
floats are, then lower ids first. A row keeps the tokens from one key on, and that key is found bit by bit.
Probabilities are added as integers, multiples of 2^-44 of the highest, so that no order of adding shows.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_MOST_PROGRAMS = 128  # that hold probabilities: 8 bytes for each id of the vocabulary
_NONE_LEFT_OUT = tl.constexpr(-0x7FFFFFFFFFFFFFFF)  # below every key
_UNIT = tl.constexpr(2.0**44)


@triton.jit
def _splitmix64(x):
    x = x + 0x9E3779B97F4A7C15
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB
    return x ^ (x >> 31)


@triton.jit
def _gumbel(seed, position, id_V):
    """sample.gumbel_reference: fp64 noise, a function of (seed, position, id) alone."""
    key = _splitmix64(_splitmix64(seed.to(tl.uint64)) + position.to(tl.uint64))
    uniform_V = ((_splitmix64(key + id_V.to(tl.uint64)) >> 11).to(tl.float64) + 0.5) * 1.1102230246251565e-16
    return -tl.log(-tl.log(uniform_V))


@triton.jit
def _key(logit_V, id_V, ID_BITS: tl.constexpr):
    bits_V = tl.where(logit_V == 0.0, 0.0, logit_V).to(tl.int32, bitcast=True)
    bits_V = tl.where(bits_V < 0, bits_V ^ 0x7FFFFFFF, bits_V)
    return (bits_V.to(tl.int64) << ID_BITS) | ((1 << ID_BITS) - 1 - id_V).to(tl.int64)


@triton.jit
def _amount(logits_ptr, mass_ptr, key, V, MASS: tl.constexpr, ID_BITS: tl.constexpr, BLOCK: tl.constexpr):
    """How many tokens have this key or a higher one, or how much mass."""
    amount_V = tl.zeros([BLOCK], tl.int64)
    for begin in range(0, V, BLOCK):
        id_V = begin + tl.arange(0, BLOCK)
        logit_V = tl.load(logits_ptr + id_V, id_V < V, 0.0)
        from_V = (id_V < V) & (_key(logit_V, id_V, ID_BITS) >= key)
        if MASS:
            amount_V += tl.load(mass_ptr + id_V, from_V, 0)
        else:
            amount_V += from_V.to(tl.int64)
    return tl.sum(amount_V, 0)


@triton.jit
def _last_key(logits_ptr, mass_ptr, floor, wanted, V, MASS: tl.constexpr, ID_BITS: tl.constexpr, BLOCK: tl.constexpr):
    """The highest key from which on, not counting what is below `floor`, there is `wanted` or more."""
    key = -(tl.full([], 1, tl.int64) << (31 + ID_BITS))
    for step in range(32 + ID_BITS):
        higher = key + (tl.full([], 1, tl.int64) << (31 + ID_BITS - step))
        if _amount(logits_ptr, mass_ptr, tl.maximum(higher, floor), V, MASS, ID_BITS, BLOCK) >= wanted:
            key = higher
    return key


@triton.jit
def _weigh(logits_ptr, mass_ptr, top, heat, V, BLOCK: tl.constexpr):
    for begin in range(0, V, BLOCK):
        id_V = begin + tl.arange(0, BLOCK)
        logit_V = tl.load(logits_ptr + id_V, id_V < V, float("-inf"))
        share_V = tl.exp(logit_V.to(tl.float64) / heat - top)
        share_V = tl.where(share_V >= 0.0, share_V, 0.0)  # inf - inf is not a number
        tl.store(mass_ptr + id_V, (share_V * _UNIT).to(tl.int64), id_V < V)
    tl.debug_barrier()


@triton.jit
def keep_kernel(
    logits_ptr, heat_ptr, top_k_ptr, top_p_ptr, min_p_ptr, mass_ptr, key_ptr, top_ptr, B, V,
    ID_BITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Each row's last key after top-k and top-p, and its highest tempered logit. Rows that keep all cost nothing."""
    mass_ptr += tl.program_id(0).to(tl.int64) * V
    for row in range(tl.program_id(0), B, tl.num_programs(0)):
        row_ptr = logits_ptr + row * (V + tl.full([], 0, tl.int64))
        heat = tl.load(heat_ptr + row).to(tl.float64)
        top_k, top_p = tl.load(top_k_ptr + row), tl.load(top_p_ptr + row).to(tl.float64)
        key = tl.full([], _NONE_LEFT_OUT, tl.int64)
        top = tl.full([], 0.0, tl.float64)
        if (heat != 0.0) & ((top_k > 0) | (top_p < 1.0) | (tl.load(min_p_ptr + row) > 0.0)):
            best_V = tl.full([BLOCK], float("-inf"), tl.float32)
            for begin in range(0, V, BLOCK):
                id_V = begin + tl.arange(0, BLOCK)
                logit_V = tl.load(row_ptr + id_V, id_V < V, float("-inf"))
                best_V = tl.where(logit_V > best_V, logit_V, best_V)
            top = tl.max(best_V, 0).to(tl.float64) / heat
            if top_k > 0:
                wanted = tl.minimum(top_k, V).to(tl.int64)
                key = _last_key(row_ptr, mass_ptr, key, wanted, V, False, ID_BITS, BLOCK)
            if top_p < 1.0:
                _weigh(row_ptr, mass_ptr, top, heat, V, BLOCK)
                total = _amount(row_ptr, mass_ptr, key, V, True, ID_BITS, BLOCK)
                wanted = tl.ceil(top_p * total.to(tl.float64)).to(tl.int64)
                wanted = tl.maximum(tl.minimum(wanted, total), 1)
                key = _last_key(row_ptr, mass_ptr, key, wanted, V, True, ID_BITS, BLOCK)
                tl.debug_barrier()  # before the next row's masses
        tl.store(key_ptr + row, key)
        tl.store(top_ptr + row, top)


@triton.jit
def draw_kernel(
    logits_ptr, seed_ptr, position_ptr, heat_ptr, min_p_ptr, key_ptr, top_ptr, score_ptr, id_ptr, V,
    ID_BITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, block = tl.program_id(0), tl.program_id(1)
    id_V = block * BLOCK + tl.arange(0, BLOCK)
    logit_V = tl.load(logits_ptr + row.to(tl.int64) * V + id_V, id_V < V, float("-inf"))
    score_V = logit_V.to(tl.float64)
    heat = tl.load(heat_ptr + row).to(tl.float64)
    if heat != 0.0:
        tempered_V = score_V / heat
        score_V = tempered_V + _gumbel(tl.load(seed_ptr + row), tl.load(position_ptr + row), id_V)
        score_V = tl.where(_key(logit_V, id_V, ID_BITS) >= tl.load(key_ptr + row), score_V, float("-inf"))
        min_p = tl.load(min_p_ptr + row).to(tl.float64)
        if min_p > 0.0:
            share_V = tl.exp(tempered_V - tl.load(top_ptr + row))
            score_V = tl.where(share_V >= min_p, score_V, float("-inf"))
    score_V = tl.where((score_V == score_V) & (id_V < V), score_V, float("-inf"))
    best = tl.max(score_V, 0)
    at = row * tl.num_programs(1) + block
    tl.store(score_ptr + at, best)
    tl.store(id_ptr + at, tl.min(tl.where((score_V == best) & (id_V < V), id_V, V), 0))


@triton.jit
def best_kernel(score_ptr, id_ptr, out_ptr, N, V, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    n_N = tl.arange(0, BLOCK)
    score_N = tl.load(score_ptr + row * N + n_N, n_N < N, float("-inf"))
    id_N = tl.load(id_ptr + row * N + n_N, n_N < N, V)
    best = tl.min(tl.where(score_N == tl.max(score_N, 0), id_N, V), 0)
    tl.store(out_ptr + row, best.to(tl.int64))


def sample_triton(
    logits_BV: Tensor,
    seeds_B: Tensor,
    positions_B: Tensor,
    temperature_B: Tensor,
    top_k_B: Tensor,
    top_p_B: Tensor,
    min_p_B: Tensor,
) -> Tensor:
    rows, vocabulary = logits_BV.shape
    ids_B = logits_BV.new_empty(rows, dtype=torch.int64)
    if not rows:
        return ids_B
    block, id_bits = min(2048, triton.next_power_of_2(vocabulary)), max(1, (vocabulary - 1).bit_length())
    blocks, keepers = triton.cdiv(vocabulary, block), min(rows, _MOST_PROGRAMS)
    mass = logits_BV.new_empty((keepers, vocabulary), dtype=torch.int64)
    key_B, top_B = torch.empty_like(ids_B), torch.empty_like(ids_B, dtype=torch.float64)
    score_BN = logits_BV.new_empty((rows, blocks), dtype=torch.float64)
    id_BN = torch.empty_like(score_BN, dtype=torch.int32)
    keep_kernel[(keepers,)](
        logits_BV, temperature_B, top_k_B, top_p_B, min_p_B, mass, key_B, top_B, rows, vocabulary,
        ID_BITS=id_bits, BLOCK=min(4096, triton.next_power_of_2(vocabulary)), num_warps=16,
    )  # fmt: skip
    draw_kernel[(rows, blocks)](
        logits_BV, seeds_B, positions_B, temperature_B, min_p_B, key_B, top_B, score_BN, id_BN, vocabulary,
        ID_BITS=id_bits, BLOCK=block, num_warps=8,
    )  # fmt: skip
    best_kernel[(rows,)](score_BN, id_BN, ids_B, blocks, vocabulary, BLOCK=triton.next_power_of_2(blocks), num_warps=1)
    return ids_B
