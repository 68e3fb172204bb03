"""y = x @ w.T. Legend: M rows, K inputs, N outputs, B a tile's sizes."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from caracal_kernels.triton.arguments import check
from caracal_kernels.triton.dot import nearby_tiles, product
from caracal_kernels.triton.rounding import round_to
from caracal_kernels.triton.tiles import STRIP, Tile, tile_for


@triton.jit
def linear_kernel(
    x_ptr, xs_ptr, w_ptr, ws_ptr, residual_ptr, y_ptr, M, N, K,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, STRIP: tl.constexpr, EVEN_K: tl.constexpr,
    SWAP: tl.constexpr, FP8: tl.constexpr, STAGES: tl.constexpr, RESIDUAL: tl.constexpr,
):  # fmt: skip
    rows, columns = nearby_tiles(tl.program_id(0), tl.cdiv(M, BM), tl.cdiv(N, BN), STRIP)
    m_BM = rows * BM + tl.arange(0, BM)
    n_BN = columns * BN + tl.arange(0, BN)
    ws_ptr += columns * BN // 128 * tl.cdiv(K, 128)
    row_BM, col_BN = tl.minimum(m_BM, M - 1), tl.minimum(n_BN, N - 1)
    acc = product(x_ptr, xs_ptr, row_BM, w_ptr, ws_ptr, col_BN, K, BM, BN, BK, EVEN_K, SWAP, FP8, STAGES)
    y = round_to(acc, y_ptr.dtype.element_ty)
    at = m_BM.to(tl.int64)[:, None] * N + n_BN[None, :]
    inside = (m_BM < M)[:, None] & (n_BN < N)[None, :]
    if RESIDUAL:
        residual = tl.load(residual_ptr + at, mask=inside, other=0.0)
        y = round_to(residual.to(tl.float32) + y.to(tl.float32), y_ptr.dtype.element_ty)
    tl.store(y_ptr + at, y, mask=inside)


def linear_triton(
    x_MK: Tensor,
    w_NK: Tensor,
    residual_MN: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    scales: tuple[Tensor, Tensor] | None = None,
    y_MN: Tensor | None = None,
    tile: Tile | None = None,
) -> Tensor:
    """As the op `linear`; with `scales` (of x [M, K/128], of w [N/128, K/128]) x and w are e4m3.

    `y_MN` receives the result. `tile` is for tests and tuning.
    """
    (m, k), n = x_MK.shape, len(w_NK)
    check("linear", x_MK, w=(w_NK, (n, k)))
    y_MN = x_MK.new_empty((m, n), dtype=out_dtype or x_MK.dtype) if y_MN is None else y_MN
    check("linear", y_MN, residual=(residual_MN, (m, n)))
    if not m:
        return y_MN
    t = tile or tile_for(n, k, w_NK.dtype, rows=m)
    xs, ws = scales or (x_MK, w_NK)
    linear_kernel[(triton.cdiv(m, t.BM) * triton.cdiv(n, t.BN),)](
        x_MK, xs, w_NK, ws, y_MN if residual_MN is None else residual_MN, y_MN, m, n, k,
        BM=t.BM, BN=t.BN, BK=t.BK, STRIP=STRIP, EVEN_K=k % t.BK == 0,
        SWAP=t.swap_ab, FP8=scales is not None, STAGES=t.stages, RESIDUAL=residual_MN is not None,
        num_warps=t.warps, num_stages=t.stages,
    )  # fmt: skip
    return y_MN
