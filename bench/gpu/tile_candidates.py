"""Tile candidates for a Hopper GPU. Field names as in caracal_kernels/triton/tiles.py."""

from __future__ import annotations

from dataclasses import replace

import torch
from caracal_kernels.triton.tiles import Tile, paths_for

from bench.gpu.bench import Bench

# (BM, BN, warps, stages, weights on the left); BK is fixed for each dtype, since it is part of the numerics.
_CANDIDATES = (
    (16, 128, 4, 5, True),
    (128, 128, 8, 4, False),
    (32, 128, 4, 4, True),
    (64, 128, 4, 4, True),
    (16, 64, 4, 5, True),
    (16, 128, 8, 5, True),
    (64, 64, 4, 5, True),
    (64, 256, 8, 3, False),
    (128, 64, 8, 4, False),
    (128, 128, 4, 4, False),
    (128, 256, 8, 3, False),
    (128, 256, 8, 4, False),
)


def tiles(bench: Bench, n: int, k: int, dtype: torch.dtype, gate_up: bool, most: int = 100) -> list[Tile]:
    """Returns at most `most` candidates for an [M, k] x [n, k] product, beginning with the two in use."""
    paths = paths_for(n, k, dtype, gate_up)
    used = [paths.small, paths.large]
    if bench.dry:
        return used
    tried = [Tile(bm, bn, paths.small.BK, warps, stages, swap) for bm, bn, warps, stages, swap in _CANDIDATES]
    return (used + [tile for tile in tried if tile not in used])[:most]


def deeper(tile: Tile) -> Tile:
    """Returns the tile with twice the step over K: the sums are grouped differently, so bits differ."""
    return replace(tile, BK=2 * tile.BK, stages=max(1, tile.stages // 2))


def named(tile: Tile) -> str:
    left = "w" if tile.swap_ab else "x"
    return f"{tile.BM}x{tile.BN}x{tile.BK}, {tile.warps} warps, {tile.stages} stages, {left} left"
