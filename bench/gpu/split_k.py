"""A split-K product with atomic sums, whose order varies: no kernel of ours may do that. Measures what this rule costs.

Legend: M rows, N outputs, K inputs; BM, BN, BK sizes of a tile.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from caracal_kernels.triton.dot import dot
from caracal_kernels.triton.tiles import Tile
from torch import Tensor


@triton.jit
def split_k_kernel(
    x_ptr, w_ptr, sum_ptr, M, N, K,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    x_row, w_row = tl.minimum(rows, M - 1).to(tl.int64), tl.minimum(columns, N - 1).to(tl.int64)
    steps = tl.cdiv(tl.cdiv(K, BK), tl.num_programs(2))
    acc = tl.zeros((BN, BM), tl.float32)
    for step in range(tl.program_id(2) * steps, (tl.program_id(2) + 1) * steps):
        k = step * BK + tl.arange(0, BK)
        x = tl.load(x_ptr + x_row[:, None] * K + k[None, :], mask=k[None, :] < K, other=0.0)
        w = tl.load(w_ptr + w_row[:, None] * K + k[None, :], mask=k[None, :] < K, other=0.0)
        acc = dot(w, x.T, acc)
    inside = (columns < N)[:, None] & (rows < M)[None, :]
    tl.atomic_add(sum_ptr + rows[None, :].to(tl.int64) * N + columns[:, None], acc, mask=inside, sem="relaxed")


def split_k_linear(x_MK: Tensor, w_NK: Tensor, tile: Tile, parts: int) -> Tensor:
    """Returns x @ w.T in x's dtype."""
    (m, k), n = x_MK.shape, len(w_NK)
    sum_MN = torch.zeros((m, n), dtype=torch.float32, device=x_MK.device)
    split_k_kernel[(triton.cdiv(m, tile.BM), triton.cdiv(n, tile.BN), parts)](
        x_MK, w_NK, sum_MN, m, n, k, BM=tile.BM, BN=tile.BN, BK=tile.BK,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return sum_MN.to(x_MK.dtype)
