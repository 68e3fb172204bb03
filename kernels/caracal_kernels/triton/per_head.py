"""Each head's own small product, y[t, h] = x[t, h] @ w[h].T. Legend: T rows, H heads, K inputs, N outputs."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from caracal_kernels.triton.dot import dot
from caracal_kernels.triton.rounding import round_to

# Rows, outputs and inputs of a tile: one for each dtype, whatever T is.
TILES = {torch.bfloat16: (64, 64, 64), torch.float32: (16, 64, 32)}


@triton.jit(do_not_specialize=["T"])
def per_head_kernel(
    x_ptr, w_ptr, y_ptr, x_scale, T, K, N, x_row, x_head, y_row, y_head,
    SCALED: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1).to(tl.int64)
    t_T = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    n_N = tl.program_id(2) * BLOCK_N + tl.arange(0, BLOCK_N)
    acc_TN = tl.zeros([BLOCK_T, BLOCK_N], tl.float32)
    for start in range(0, K, BLOCK_K):
        k_K = start + tl.arange(0, BLOCK_K)
        x_at = x_ptr + t_T[:, None] * x_row + head * x_head + k_K[None, :]
        x_TK = tl.load(x_at, (t_T[:, None] < T) & (k_K[None, :] < K), 0.0)
        if SCALED:
            x_TK = round_to(x_TK.to(tl.float32) * x_scale, x_ptr.dtype.element_ty)
        w_at = w_ptr + (head * N + n_N[:, None]) * K + k_K[None, :]
        w_NK = tl.load(w_at, (n_N[:, None] < N) & (k_K[None, :] < K), 0.0)
        acc_TN = dot(x_TK, tl.trans(w_NK), acc_TN)
    y_at = y_ptr + t_T[:, None] * y_row + head * y_head + n_N[None, :]
    tl.store(y_at, round_to(acc_TN, y_ptr.dtype.element_ty), (t_T[:, None] < T) & (n_N[None, :] < N))


def per_head(x_THK: Tensor, w_HNK: Tensor, y_THN: Tensor, x_scale: float = 1.0) -> None:
    """Writes y = round(round(x * x_scale) @ w.T) for each head. x and y may be parts of wider rows."""
    rows, heads, inputs = x_THK.shape
    outputs = w_HNK.shape[1]
    block_t, block_n, block_k = TILES[w_HNK.dtype]
    if rows:
        per_head_kernel[(triton.cdiv(rows, block_t), heads, triton.cdiv(outputs, block_n))](
            x_THK, w_HNK, y_THN, x_scale, rows, inputs, outputs, *x_THK.stride()[:2], *y_THN.stride()[:2],
            SCALED=x_scale != 1.0, BLOCK_T=block_t, BLOCK_N=block_n, BLOCK_K=block_k, num_warps=4, num_stages=3,
        )  # fmt: skip
