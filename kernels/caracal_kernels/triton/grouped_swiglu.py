"""SwiGLU of many experts over sorted rows, in two launches.

Legend: R rows, A (row, expert) assignments, G experts, D hidden, F inner width, B a tile's sizes.

Experts come and go, so their weights lie in separate allocations: the kernels take their addresses as an int64 tensor.
Which expert and rows a program has, it finds from the counts on the device; the host only knows an upper bound.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from caracal_kernels.triton.arguments import check, check_all
from caracal_kernels.triton.dot import nearby_tiles, product, product_two, silu_times
from caracal_kernels.triton.rounding import round_to
from caracal_kernels.triton.tiles import STRIP, Tile, tile_for


@triton.jit
def _tiles_of_all(count_ptr, G, BG: tl.constexpr, BM: tl.constexpr):
    g_BG = tl.arange(0, BG)
    return tl.sum(tl.cdiv(tl.load(count_ptr + g_BG, mask=g_BG < G, other=0), BM), 0)


@triton.jit
def _group_of(tile, count_ptr, G, BG: tl.constexpr, BM: tl.constexpr):
    """(group, first assignment of this row tile, end of the group's) of the `tile`-th row tile of all groups."""
    g_BG = tl.arange(0, BG)
    count_BG = tl.load(count_ptr + g_BG, mask=g_BG < G, other=0)
    tiles_BG = tl.cdiv(count_BG, BM)
    group = tl.sum((tl.cumsum(tiles_BG, 0) <= tile).to(tl.int32), 0)
    before_BG = g_BG < group
    first = tl.sum(tl.where(before_BG, count_BG, 0), 0)
    inside = tile - tl.sum(tl.where(before_BG, tiles_BG, 0), 0)
    return group, first + inside * BM, first + tl.sum(tl.where(g_BG == group, count_BG, 0), 0)


@triton.jit
def _weights(table_ptr, group, dtype: tl.constexpr):
    """The address of a group's matrix, a multiple of 16: said of the pointer, since a cast forgets what was known."""
    return tl.multiple_of(tl.load(table_ptr + group).to(tl.pointer_type(dtype)), 16)


@triton.jit
def grouped_gate_up_kernel(
    x_ptr, xs_ptr, row_ptr, count_ptr, w_table_ptr, ws_table_ptr, inner_ptr, G, F, D,
    BG: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, STRIP: tl.constexpr,
    EVEN_K: tl.constexpr, SWAP: tl.constexpr, FP8: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    row_tiles = _tiles_of_all(count_ptr, G, BG, BM)
    if tl.program_id(0) >= row_tiles * tl.cdiv(F, BN):
        return
    tile, columns = nearby_tiles(tl.program_id(0), row_tiles, tl.cdiv(F, BN), STRIP)
    group, first, end = _group_of(tile, count_ptr, G, BG, BM)
    a_BM = first + tl.arange(0, BM)
    f_BN = columns * BN + tl.arange(0, BN)
    row_BM = tl.load(row_ptr + tl.minimum(a_BM, end - 1))
    w_ptr = _weights(w_table_ptr, group, x_ptr.dtype.element_ty)
    blocks = tl.cdiv(D, 128)
    ws_ptr = _weights(ws_table_ptr, group, tl.float32) + columns * BN // 128 * blocks
    gate, up = product_two(
        x_ptr, xs_ptr, row_BM, w_ptr, ws_ptr, w_ptr + tl.cast(F, tl.int64) * D, ws_ptr + tl.cdiv(F, 128) * blocks,
        tl.minimum(f_BN, F - 1), D, BM, BN, BK, EVEN_K, SWAP, FP8, STAGES,
    )  # fmt: skip
    inner = round_to(silu_times(gate, up), inner_ptr.dtype.element_ty)
    at = a_BM.to(tl.int64)[:, None] * F + f_BN[None, :]
    tl.store(inner_ptr + at, inner, mask=(a_BM < end)[:, None] & (f_BN < F)[None, :])


@triton.jit
def grouped_down_kernel(
    inner_ptr, inner_s_ptr, count_ptr, w_table_ptr, ws_table_ptr, y_ptr, G, D, F,
    BG: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, STRIP: tl.constexpr,
    EVEN_K: tl.constexpr, SWAP: tl.constexpr, FP8: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    row_tiles = _tiles_of_all(count_ptr, G, BG, BM)
    if tl.program_id(0) >= row_tiles * tl.cdiv(D, BN):
        return
    tile, columns = nearby_tiles(tl.program_id(0), row_tiles, tl.cdiv(D, BN), STRIP)
    group, first, end = _group_of(tile, count_ptr, G, BG, BM)
    a_BM = first + tl.arange(0, BM)
    d_BN = columns * BN + tl.arange(0, BN)
    w_ptr = _weights(w_table_ptr, group, inner_ptr.dtype.element_ty)
    ws_ptr = _weights(ws_table_ptr, group, tl.float32) + columns * BN // 128 * tl.cdiv(F, 128)
    acc = product(
        inner_ptr, inner_s_ptr, tl.minimum(a_BM, end - 1), w_ptr, ws_ptr, tl.minimum(d_BN, D - 1), F,
        BM, BN, BK, EVEN_K, SWAP, FP8, STAGES,
    )  # fmt: skip
    at = a_BM.to(tl.int64)[:, None] * D + d_BN[None, :]
    y = round_to(acc, y_ptr.dtype.element_ty)
    tl.store(y_ptr + at, y, mask=(a_BM < end)[:, None] & (d_BN < D)[None, :])


@lru_cache(maxsize=1024)
def _table(addresses: tuple[int, ...], device: torch.device) -> Tensor:
    """[G] int64 on the device. Kept, since it is the same at every step until an expert comes or goes."""
    return torch.tensor(addresses, dtype=torch.int64).to(device)


def table_of(weights: list[Tensor]) -> Tensor:
    addresses = tuple(w.data_ptr() for w in weights)
    if any(address % 16 for address in addresses):
        raise RuntimeError("grouped_swiglu: weights or scales that do not start at a multiple of 16 bytes")
    return _table(addresses, weights[0].device)


def _constants(tile: Tile, groups: int, k: int, fp8: bool) -> dict[str, int | bool]:
    return {
        "BG": triton.next_power_of_2(groups), "BM": tile.BM, "BN": tile.BN, "BK": tile.BK, "STRIP": STRIP,
        "EVEN_K": k % tile.BK == 0, "SWAP": tile.swap_ab, "FP8": fp8, "STAGES": tile.stages,
        "num_warps": tile.warps, "num_stages": tile.stages,
    }  # fmt: skip


def _programs(assignments: int, groups: int, n: int, tile: Tile) -> int:
    """No less than there are tiles: of a group's row tiles only the last is not full."""
    return (assignments // tile.BM + min(groups, assignments)) * -(-n // tile.BN)


def gate_up_launch(
    x_RD: Tensor, row_A: Tensor, count_G: Tensor, gate_up: list[Tensor], inner_AF: Tensor, tile: Tile,
    scales: tuple[Tensor, list[Tensor]] | None = None,
) -> None:  # fmt: skip
    """inner = silu(gate x) * up x. `scales` are those of x [R, D/128] and of each gate_up [2 F/128, D/128]."""
    (assignments, f), g, table = inner_AF.shape, len(gate_up), table_of(gate_up)
    xs, ws = (scales[0], table_of(scales[1])) if scales else (x_RD, table)
    grouped_gate_up_kernel[(_programs(assignments, g, f, tile),)](
        x_RD, xs, row_A, count_G, table, ws, inner_AF, g, f, x_RD.shape[1],
        **_constants(tile, g, x_RD.shape[1], scales is not None),
    )  # fmt: skip


def down_launch(
    inner_AF: Tensor, count_G: Tensor, down: list[Tensor], y_AD: Tensor, tile: Tile,
    scales: tuple[Tensor, list[Tensor]] | None = None,
) -> None:  # fmt: skip
    """y = down inner. `scales` are those of inner [P, F/128] and of each down [D/128, F/128]."""
    (assignments, d), g, table = y_AD.shape, len(down), table_of(down)
    inner_s, ws = (scales[0], table_of(scales[1])) if scales else (inner_AF, table)
    grouped_down_kernel[(_programs(assignments, g, d, tile),)](
        inner_AF, inner_s, count_G, table, ws, y_AD, g, d, inner_AF.shape[1],
        **_constants(tile, g, inner_AF.shape[1], scales is not None),
    )  # fmt: skip


def grouped_swiglu_triton(
    x_RD: Tensor, row_A: Tensor, expert_count_G: Tensor, gate_up: list[Tensor], down: list[Tensor],
    y_AD: Tensor | None = None, tile: Tile | None = None,
) -> Tensor:  # fmt: skip
    """As the op `grouped_swiglu`. `y_AD` receives the result; `tile` is for tests and tuning."""
    assignments, d = len(row_A), x_RD.shape[1]
    y_AD = x_RD.new_empty((assignments, d)) if y_AD is None else y_AD
    check("grouped_swiglu", x_RD, y=(y_AD, (assignments, d)))
    if not assignments:
        return y_AD
    f = len(gate_up[0]) // 2
    check_all("grouped_swiglu", x_RD, "gate_up", gate_up, (2 * f, d))
    check_all("grouped_swiglu", x_RD, "down", down, (d, f))
    inner_AF = x_RD.new_empty((assignments, f))
    rows = assignments // len(down)
    shape = tile or tile_for(f, d, x_RD.dtype, gate_up=True, rows=rows)
    gate_up_launch(x_RD, row_A, expert_count_G, gate_up, inner_AF, shape)
    down_launch(inner_AF, expert_count_G, down, y_AD, tile or tile_for(d, f, x_RD.dtype, rows=rows))
    return y_AD
