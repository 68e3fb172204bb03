"""Every dense kernel compiles for Hopper at LongCat-Flash's widths, without spilling, and its blocks fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from caracal_kernels.triton.grouped_swiglu import grouped_down_kernel, grouped_gate_up_kernel
from caracal_kernels.triton.linear import linear_kernel
from caracal_kernels.triton.quantize import BS, quantize_kernel
from caracal_kernels.triton.rms_norm import rms_norm_kernel
from caracal_kernels.triton.swiglu_inner import gate_up_kernel
from caracal_kernels.triton.tiles import FP8_BLOCK, STRIP, Tile, hopper_paths
from support.ops_compile import SM90_SHARED_BYTES, Compiled, compile_sm90, why_not

pytestmark = [pytest.mark.processes, pytest.mark.skipif(bool(why_not()), reason=why_not())]

FP8 = torch.float8_e4m3fn
NAMES = {torch.bfloat16: "bf16", torch.float32: "fp32", FP8: "fp8e4nv"}
PATHS = {torch.bfloat16: ("small", "large"), FP8: ("small", "large"), torch.float32: ("small",)}
ONE, GATE_UP = (
    [(dtype, getattr(hopper_paths(dtype, gate_up), path)) for dtype in NAMES for path in PATHS[dtype]]
    for gate_up in (False, True)
)
TENSOR_CORE = {torch.bfloat16: "f32.bf16.bf16", FP8: "f32.e4m3.e4m3"}


def product_constants(dtype: torch.dtype, tile: Tile, **more: int | bool) -> dict[str, int | bool]:
    return {
        "BM": tile.BM,
        "BN": tile.BN,
        "BK": tile.BK,
        "STRIP": STRIP,
        "EVEN_K": True,
        "SWAP": tile.swap_ab,
        "FP8": dtype == FP8,
        "STAGES": tile.stages,
    } | more


def compile_product(
    kernel: Any, dtype: torch.dtype, tile: Tile, pointers: dict[str, str], **more: int | bool
) -> Compiled:
    """`pointers`: x for the operands' type, s for their scales', y for the result's, else a type of its own."""
    kinds = {"x": NAMES[dtype], "s": "fp32", "y": "fp32" if dtype == torch.float32 else "bf16"}
    signature = {name: "*" + kinds.get(kind, kind) for name, kind in pointers.items()}
    given = product_constants(dtype, tile, **more)
    constants = {name: value for name, value in given.items() if name in kernel.arg_names}
    sizes = {name: "i32" for name in kernel.arg_names if name not in signature | constants}
    return compile_sm90(kernel, signature | sizes, constants, tile.warps, tile.stages, ("D", "F", "N", "K"))


def fits(made: Compiled, dtype: torch.dtype | None = None) -> None:
    assert made.shared_bytes <= SM90_SHARED_BYTES
    assert made.spills == 0, f"{made.registers} registers and {made.spills} bytes spilled"
    if dtype in TENSOR_CORE:
        assert "wgmma.mma_async.sync.aligned.m64n" in made.ptx
        assert TENSOR_CORE[dtype] in made.ptx
        assert "cp.async.cg.shared.global" in made.ptx, "weights are read 16 bytes at a time, ahead of their use"


@pytest.mark.parametrize(("dtype", "tile"), ONE)
def test_linear(dtype: torch.dtype, tile: Tile) -> None:
    pointers = {"x_ptr": "x", "xs_ptr": "s", "w_ptr": "x", "ws_ptr": "s", "residual_ptr": "y", "y_ptr": "y"}
    fits(compile_product(linear_kernel, dtype, tile, pointers, RESIDUAL=True), dtype)


@pytest.mark.parametrize(("dtype", "tile"), [case for case in GATE_UP if case[0] != FP8])
def test_swiglu_inner(dtype: torch.dtype, tile: Tile) -> None:
    pointers = {"x_ptr": "x", "w_ptr": "x", "inner_ptr": "y"}
    fits(compile_product(gate_up_kernel, dtype, tile, pointers), dtype)


@pytest.mark.parametrize(("dtype", "tile"), GATE_UP)
def test_grouped_gate_up(dtype: torch.dtype, tile: Tile) -> None:
    pointers = {"x_ptr": "x", "xs_ptr": "s", "row_ptr": "i32", "count_ptr": "i32"}
    pointers |= {"w_table_ptr": "i64", "ws_table_ptr": "i64", "inner_ptr": "y"}
    fits(compile_product(grouped_gate_up_kernel, dtype, tile, pointers, BG=64), dtype)


@pytest.mark.parametrize(("dtype", "tile"), ONE)
def test_grouped_down(dtype: torch.dtype, tile: Tile) -> None:
    pointers = {"inner_ptr": "x", "inner_s_ptr": "s", "count_ptr": "i32"}
    pointers |= {"w_table_ptr": "i64", "ws_table_ptr": "i64", "y_ptr": "y"}
    fits(compile_product(grouped_down_kernel, dtype, tile, pointers, BG=64), dtype)


def test_rms_norm() -> None:
    signature = {"x_ptr": "*bf16", "w_ptr": "*bf16", "y_ptr": "*bf16", "D": "i32", "eps": "fp32"}
    fits(compile_sm90(rms_norm_kernel, signature, {"BD": 8192}, num_warps=8, aligned=("D",)))


def test_quantize() -> None:
    signature = {"x_ptr": "*bf16", "q_ptr": "*fp8e4nv", "scale_ptr": "*fp32", "D": "i32", "S": "i32"}
    fits(compile_sm90(quantize_kernel, signature, {"BLOCK": FP8_BLOCK, "BS": BS}, aligned=("D", "S")))


def test_one_row_of_one_value() -> None:
    """A launch makes every integer that is 1 a constant of the kernel."""
    tile = hopper_paths(torch.bfloat16, gate_up=True).small
    pointers = {"x_ptr": "x", "w_ptr": "x", "inner_ptr": "y"}
    fits(compile_product(gate_up_kernel, torch.bfloat16, tile, pointers, T=1, F=1, D=1, EVEN_K=False))
