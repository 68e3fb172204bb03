"""Whether the small and the large path give the same bits on a device: only then may the number of rows choose.

Both add the same groups of BK in the same order; within a group it is the hardware that adds, and it is not documented
that a wide instruction does it as a narrow one. So every process asks its device once, over millions of random sums.
Legend: M rows, K inputs, N outputs, A (row, expert) assignments, F inner width.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from caracal_kernels.triton.grouped_swiglu import grouped_swiglu_triton
from caracal_kernels.triton.grouped_swiglu_fp8 import grouped_swiglu_fp8_triton
from caracal_kernels.triton.linear import linear_triton
from caracal_kernels.triton.tiles import Paths, enable_row_adaptive, paths_for

FP8, BF16 = torch.float8_e4m3fn, torch.bfloat16
SIZES = 600, 2048, 1536  # M, K, N
SEED = 20251124


def agree(dtype: torch.dtype, device: torch.device, one: Paths, fused: Paths, sizes: tuple[int, int, int]) -> bool:
    """Over random values: `one` in a product (not of fp8), `fused` in a grouped SwiGLU. Weights are `dtype`."""
    rows, depth, outputs = sizes
    generator = torch.Generator(device).manual_seed(SEED)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device)

    wide = BF16 if dtype == FP8 else dtype
    x_MK, gate_up, down = random(rows, depth).to(wide), random(2 * outputs, depth).to(dtype), random(depth, outputs)
    if dtype != FP8 and not _equal([linear_triton(x_MK, gate_up, tile=t) for t in (one.small, one.large)]):
        return False
    row_A = torch.arange(rows, dtype=torch.int32, device=device)
    count_G = torch.tensor([rows], dtype=torch.int32, device=device)
    tiles = fused.small, fused.large
    if dtype != FP8:
        weights = [gate_up], [down.to(dtype)]
        return _equal([grouped_swiglu_triton(x_MK, row_A, count_G, *weights, tile=t) for t in tiles])
    up, across = -(-outputs // 128), -(-depth // 128)
    scales = random(2 * up, across).abs(), random(across, up).abs()
    lists = [gate_up], [scales[0]], [down.to(dtype)], [scales[1]]
    return _equal([grouped_swiglu_fp8_triton(x_MK, row_A, count_G, *lists, tile=t) for t in tiles])


@cache
def row_adaptive_dtypes(device: torch.device) -> tuple[str, ...]:
    """The dtypes of weights whose two paths agree on the device; from then on the number of rows chooses for them."""
    _, depth, outputs = SIZES
    agreed = []
    for dtype in (BF16, FP8):
        one, fused = paths_for(outputs, depth, dtype), paths_for(outputs, depth, dtype, gate_up=True)
        if agree(dtype, device, one, fused, SIZES):
            enable_row_adaptive(dtype)
            agreed.append(str(dtype).removeprefix("torch."))
    return tuple(agreed)


def _equal(answers: list[Tensor]) -> bool:
    return bool(torch.isfinite(answers[0].float()).all()) and torch.equal(*answers)
