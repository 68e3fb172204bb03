"""Products of a tile of rows with a tile of weights, over K in one order. Legend: M rows, N outputs, B a tile's sizes.

A row's sums depend on the row and the weights: BK steps of K ascending, no split of K, rows past the end computed and
thrown away. Weights are [N, K], as checkpoints hold them. With fp8, BK is 128 and a step's part is scaled in fp32
before it is added, so no more than 128 products are summed in the tensor core's narrow accumulator.
"""

from __future__ import annotations

import triton
import triton.language as tl

from caracal_kernels.triton.rounding import INTERPRET


@triton.jit
def dot(a, b, acc):
    """acc + a @ b, in fp32.

    Not `tl.dot` in the interpreter: it multiplies bf16's bit patterns, and its BLAS sums a row in an order that depends
    on where in the tile the row is.
    """
    if INTERPRET:
        acc += tl.sum(a.to(tl.float32)[:, :, None] * b.to(tl.float32)[None, :, :], 1)
    else:
        acc = tl.dot(a, b, acc, input_precision="ieee")
    return acc


@triton.jit
def _step(x, w, acc, SWAP: tl.constexpr):
    """Swapped, the weights are the left operand, of which the tensor core takes 64 rows at least."""
    return dot(w, x.T, acc) if SWAP else dot(x, w.T, acc)


@triton.jit
def _scaled(x, w, acc, xs_M, ws, SWAP: tl.constexpr):
    part = _step(x, w, tl.zeros_like(acc), SWAP)
    return acc + part * ((xs_M[None, :] if SWAP else xs_M[:, None]) * ws)


@triton.jit
def _zeros(BM: tl.constexpr, BN: tl.constexpr, SWAP: tl.constexpr):
    return tl.zeros((BN, BM) if SWAP else (BM, BN), tl.float32)


@triton.jit
def _load(ptr, row_B, k, K, BK: tl.constexpr, EVEN_K: tl.constexpr):
    k_BK = k + tl.arange(0, BK)
    at = ptr + row_B.to(tl.int64)[:, None] * K + k_BK[None, :]
    return tl.load(at) if EVEN_K else tl.load(at, mask=k_BK[None, :] < K, other=0.0)


@triton.jit
def product(
    x_ptr, xs_ptr, row_BM, w_ptr, ws_ptr, col_BN, K,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, EVEN_K: tl.constexpr, SWAP: tl.constexpr,
    FP8: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """fp32 [BM, BN]: rows `row_BM` of x times rows `col_BN` of w. Every index is in bounds.

    `xs_ptr` [M, K/128] and `ws_ptr` [K/128], the scales of x and of these columns of w, are read with FP8 only.
    """
    acc = _zeros(BM, BN, SWAP)
    blocks = tl.cdiv(K, BK)
    for block in tl.range(0, blocks, num_stages=STAGES):
        x = _load(x_ptr, row_BM, block * BK, K, BK, EVEN_K)
        w = _load(w_ptr, col_BN, block * BK, K, BK, EVEN_K)
        if FP8:
            xs_M = tl.load(xs_ptr + row_BM.to(tl.int64) * blocks + block)
            acc = _scaled(x, w, acc, xs_M, tl.load(ws_ptr + block), SWAP)
        else:
            acc = _step(x, w, acc, SWAP)
    return tl.trans(acc) if SWAP else acc


@triton.jit
def product_two(
    x_ptr, xs_ptr, row_BM, a_ptr, as_ptr, b_ptr, bs_ptr, col_BN, K,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, EVEN_K: tl.constexpr, SWAP: tl.constexpr,
    FP8: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """`product` with two matrices of weights, a and b, reading x once."""
    acc_a = _zeros(BM, BN, SWAP)
    acc_b = _zeros(BM, BN, SWAP)
    blocks = tl.cdiv(K, BK)
    for block in tl.range(0, blocks, num_stages=STAGES):
        x = _load(x_ptr, row_BM, block * BK, K, BK, EVEN_K)
        a = _load(a_ptr, col_BN, block * BK, K, BK, EVEN_K)
        b = _load(b_ptr, col_BN, block * BK, K, BK, EVEN_K)
        if FP8:
            xs_M = tl.load(xs_ptr + row_BM.to(tl.int64) * blocks + block)
            acc_a = _scaled(x, a, acc_a, xs_M, tl.load(as_ptr + block), SWAP)
            acc_b = _scaled(x, b, acc_b, xs_M, tl.load(bs_ptr + block), SWAP)
        else:
            acc_a = _step(x, a, acc_a, SWAP)
            acc_b = _step(x, b, acc_b, SWAP)
    if SWAP:
        acc_a = tl.trans(acc_a)
        acc_b = tl.trans(acc_b)
    return acc_a, acc_b


@triton.jit
def silu_times(gate, up):
    return gate / (1.0 + tl.exp(-gate)) * up


@triton.jit
def nearby_tiles(program, row_tiles, column_tiles, ROWS: tl.constexpr):
    """Which (row tile, column tile) a program takes: ROWS row tiles go through all columns together, so that what runs
    at one time reads the same weights out of the L2 cache."""
    strip = program // (ROWS * column_tiles)
    height = tl.minimum(row_tiles - strip * ROWS, ROWS)
    inside = program % (ROWS * column_tiles)
    return strip * ROWS + inside % height, inside // height
