"""Tile shapes: one for each (N, K, dtype), so that a row's bits do not depend on how many rows there are.

BK is one for every tile of a dtype: it is how products are grouped before they are added, so part of the numerics.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch

from caracal_kernels.gpu.rounding import INTERPRET

FP8_BLOCK = 128  # products under one scale: 1 x 128 of x, 128 x 128 of w
STRIP = 8  # row tiles that run next to each other


@dataclass(frozen=True)
class Tile:
    """BM rows by BN outputs by BK inputs; `swap_ab` makes weights the left operand."""

    BM: int
    BN: int
    BK: int
    warps: int
    stages: int
    swap_ab: bool


_INTERPRETED_BK = {torch.bfloat16: 64, torch.float32: 64, torch.float8_e4m3fn: FP8_BLOCK}

# An expert sees few rows and is bound by reading weights: BM 64 keeps the multiplications below that time, and
# swapped, an output tile of 2 x 128 x 64 fills two warp groups. Three buffers of 40 KiB (bf16) are in flight.
_HOPPER = {
    torch.bfloat16: Tile(64, 128, 64, warps=8, stages=4, swap_ab=True),
    torch.float8_e4m3fn: Tile(64, 128, FP8_BLOCK, warps=8, stages=4, swap_ab=True),
    torch.float32: Tile(32, 64, 32, warps=4, stages=3, swap_ab=False),
}


@cache
def tile_for(n: int, k: int, dtype: torch.dtype) -> Tile:
    """The tile of an [M, k] x [n, k] product of `dtype`. M is not asked for."""
    if INTERPRET:
        return Tile(32, 64, _INTERPRETED_BK[dtype], warps=4, stages=1, swap_ab=k > 64)
    return _HOPPER[dtype]
