"""Tile shapes. A row's bits may not depend on how many rows there are.

BK is one for every tile of a dtype: it is how products are grouped before they are added, so part of the numerics.
BM, BN and which operand is left are not, as long as the hardware adds each group in the same way in both paths.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch

from caracal_kernels.triton.rounding import INTERPRET

FP8_BLOCK = 128  # values under one scale: 1 x 128 of x, 128 x 128 of w
STRIP = 8  # row tiles that run next to each other

# Of weights whose two paths give the same bits, so that the number of rows may choose between them. The interpreter's
# do (its tests say so). On a GPU each (N, K) has the small path until tile_invariance.py has asked the device.
_rows_choose = {torch.bfloat16, torch.float8_e4m3fn, torch.float32} if INTERPRET.value else set()


@dataclass(frozen=True)
class Tile:
    """BM rows by BN outputs by BK inputs; `swap_ab` makes weights the left operand."""

    BM: int
    BN: int
    BK: int
    warps: int
    stages: int
    swap_ab: bool


@dataclass(frozen=True)
class Paths:
    """`small` for few rows, bound by reading weights; `large`, from `many` rows on, bound by multiplying."""

    small: Tile
    large: Tile
    many: int


# Small: 64 rows take less time to multiply than their weights to read, from 1 row to 64 (H100: 3.35 TB/s, 990 TFLOP/s
# of bf16). Weights on the left fill the 64 rows of a warp group's instruction. Up to 160 KiB in flight on an SM.
# Large: as wide as registers hold without spilling (tests/ops/gpu/test_compile_dense.py), to read L2 less often.
_HOPPER = {
    torch.bfloat16: Paths(Tile(64, 128, 64, 8, 4, swap_ab=True), Tile(128, 256, 64, 8, 4, swap_ab=False), 256),
    torch.float8_e4m3fn: Paths(Tile(64, 128, 128, 8, 4, swap_ab=True), Tile(128, 128, 128, 8, 4, swap_ab=False), 256),
    torch.float32: Paths(Tile(32, 64, 32, 4, 3, swap_ab=False), Tile(64, 64, 32, 8, 3, swap_ab=False), 256),
}
# Two products at once, gate and up, hold twice the sums.
_HOPPER_GATE_UP = _HOPPER | {
    torch.bfloat16: Paths(Tile(64, 128, 64, 8, 4, swap_ab=True), Tile(128, 128, 64, 8, 4, swap_ab=False), 256),
    torch.float8_e4m3fn: Paths(Tile(64, 128, 128, 8, 4, swap_ab=True), Tile(128, 64, 128, 8, 4, swap_ab=False), 256),
}
_INTERPRETED = {
    torch.bfloat16: Paths(Tile(16, 64, 64, 4, 1, swap_ab=True), Tile(32, 64, 64, 4, 1, swap_ab=False), 17),
    torch.float8_e4m3fn: Paths(Tile(16, 64, 128, 4, 1, swap_ab=True), Tile(32, 128, 128, 4, 1, swap_ab=False), 17),
    torch.float32: Paths(Tile(16, 64, 64, 4, 1, swap_ab=True), Tile(32, 64, 64, 4, 1, swap_ab=False), 17),
}


def hopper_paths(dtype: torch.dtype, gate_up: bool = False) -> Paths:
    return (_HOPPER_GATE_UP if gate_up else _HOPPER)[dtype]


@cache
def paths_for(n: int, k: int, dtype: torch.dtype, gate_up: bool = False) -> Paths:
    """The tiles of an [M, k] x [n, k] product of `dtype`, or of gate and up fused."""
    return _INTERPRETED[dtype] if INTERPRET else hopper_paths(dtype, gate_up)


def tile_for(n: int, k: int, dtype: torch.dtype, gate_up: bool = False, rows: int = 0) -> Tile:
    """One tile for each (n, k), unless `rows` (of an expert, on average) may choose."""
    paths = paths_for(n, k, dtype, gate_up)
    return paths.large if dtype in _rows_choose and rows >= paths.many else paths.small


def enable_row_adaptive(dtype: torch.dtype) -> None:
    """From now on, for products with weights of `dtype`."""
    _rows_choose.add(dtype)
