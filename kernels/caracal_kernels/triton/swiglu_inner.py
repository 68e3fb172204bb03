"""silu(gate x) * up x, in one launch. Legend: T rows, D hidden, F inner width, B a tile's sizes."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from caracal_kernels.triton.arguments import check
from caracal_kernels.triton.dot import nearby_tiles, product_two, silu_times
from caracal_kernels.triton.rounding import round_to
from caracal_kernels.triton.tiles import STRIP, Tile, tile_for


@triton.jit
def gate_up_kernel(
    x_ptr, w_ptr, inner_ptr, T, F, D,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, STRIP: tl.constexpr, EVEN_K: tl.constexpr,
    SWAP: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    rows, columns = nearby_tiles(tl.program_id(0), tl.cdiv(T, BM), tl.cdiv(F, BN), STRIP)
    t_BM = rows * BM + tl.arange(0, BM)
    f_BN = columns * BN + tl.arange(0, BN)
    up_ptr = w_ptr + tl.cast(F, tl.int64) * D
    gate, up = product_two(  # without scales, whose places are taken by what they would scale
        x_ptr, x_ptr, tl.minimum(t_BM, T - 1), w_ptr, w_ptr, up_ptr, up_ptr, tl.minimum(f_BN, F - 1), D,
        BM, BN, BK, EVEN_K, SWAP, False, STAGES,
    )  # fmt: skip
    inner = round_to(silu_times(gate, up), inner_ptr.dtype.element_ty)
    at = t_BM.to(tl.int64)[:, None] * F + f_BN[None, :]
    tl.store(inner_ptr + at, inner, mask=(t_BM < T)[:, None] & (f_BN < F)[None, :])


def swiglu_inner_triton(
    x_TD: Tensor, gate_up_2FD: Tensor, inner_TF: Tensor | None = None, tile: Tile | None = None
) -> Tensor:
    """As the op `swiglu_inner`. `inner_TF` receives the result; `tile` is for tests and tuning."""
    (t, d), f = x_TD.shape, len(gate_up_2FD) // 2
    check("swiglu_inner", x_TD, gate_up=(gate_up_2FD, (2 * f, d)))
    inner_TF = x_TD.new_empty((t, f)) if inner_TF is None else inner_TF
    if not t:
        return inner_TF
    c = tile or tile_for(f, d, x_TD.dtype, gate_up=True, rows=t)
    gate_up_kernel[(triton.cdiv(t, c.BM) * triton.cdiv(f, c.BN),)](
        x_TD, gate_up_2FD, inner_TF, t, f, d,
        BM=c.BM, BN=c.BN, BK=c.BK, STRIP=STRIP, EVEN_K=d % c.BK == 0, SWAP=c.swap_ab, STAGES=c.stages,
        num_warps=c.warps, num_stages=c.stages,
    )  # fmt: skip
    return inner_TF
