"""The routing, sampling and attention kernels compile for Hopper at LongCat-Flash's sizes, and their blocks fit."""

from __future__ import annotations

import re
from typing import Any

import caracal_kernels.triton  # noqa: F401  before triton
import pytest
import torch
from caracal_kernels import row_width
from caracal_kernels.triton import mla_attention, per_head
from caracal_kernels.triton.combine import combine_kernel
from caracal_kernels.triton.latent_cache import parts_of
from caracal_kernels.triton.mla_project import write_row
from caracal_kernels.triton.plan_rows import plan_blocks, plan_kernel
from caracal_kernels.triton.route import route_kernel
from caracal_kernels.triton.sample import best_kernel, draw_kernel, keep_kernel
from support.ops_compile import SM90_SHARED_BYTES, Compiled, compile_sm90, why_not

pytestmark = [pytest.mark.processes, pytest.mark.skipif(bool(why_not()), reason=why_not())]

# What an argument is called tells its type; what is not named here is an int32.
FP32 = ["logits", "bias", "weight", "weights", "zero", "cos_sin", "part", "top_p", "min_p", "heat", "norm32"]
INT64 = ["seed", "position64", "mass", "key", "out64"]
POINTERS = dict.fromkeys([f"{name}_ptr" for name in FP32], "*fp32")
POINTERS |= dict.fromkeys([f"{name}_ptr" for name in INT64], "*i64")
INT32 = (
    "reply_index ids positions offset worker state row row_count assigned_row assigned_expert assigned_count "
    "table seq mapping top_k id"
)
POINTERS |= dict.fromkeys([f"{name}_ptr" for name in INT32.split()], "*i32")
FP8_OWN = {"latent_ptr": "*fp8e4nv", "scale_ptr": "*fp32"}
FLOATS = {"scale", "x_scale", "q_scale", "kv_scale", "eps", "scale_log2"}
PLAN = plan_blocks(12, 512)
SIZES = {"H": 64, "C": 512, "R": 64, "BLOCK_C": 512}


def compiled(
    kernel: Any, constants: dict[str, Any], warps: int, stages: int = 3, own: dict[str, str] | None = None
) -> Compiled:
    """`own` are pointers whose type depends on the kernel; the rest are bf16."""
    names = [name for name in kernel.arg_names if name not in constants]
    pointers = {name: (own or {}).get(name) or POINTERS.get(name, "*bf16") for name in names if name.endswith("_ptr")}
    scalars = {name: "fp32" if name in FLOATS else "i32" for name in names if name not in pointers}
    return compile_sm90(kernel, pointers | scalars, constants, warps, stages, aligned=tuple(set(scalars) - FLOATS))


def fits(made: Compiled, spills: int = 0) -> None:
    assert made.shared_bytes <= SM90_SHARED_BYTES
    assert made.spills <= spills, f"{made.registers} registers and {made.spills} bytes spilled"


ATTENTION = {"position_ptr": "*i32", "top_ptr": "*fp32", "sum_ptr": "*fp32"}


def cache_of(*, fp8: bool) -> dict[str, Any]:
    """What kernels are compiled for of a cache with rows of 512 + 64 values."""
    width = row_width(512, 64, torch.bfloat16, fp8=fp8)
    cache = torch.zeros((1, 16, width), dtype=torch.uint8 if fp8 else torch.bfloat16)
    return parts_of(cache, 512, 64, torch.bfloat16).constants


@pytest.mark.parametrize("fp8", [False, True])
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_attention(dtype: torch.dtype, sparse: bool, fp8: bool) -> None:
    tile = mla_attention.TILES[dtype]
    constants = SIZES | {"BLOCK_R": 64, "BLOCK_H": tile.heads, "KEYS": tile.keys, "SPLIT": mla_attention.SPLIT}
    constants |= {"SPARSE": sparse, "SPARSE_BLOCK": 128} | cache_of(fp8=fp8)
    wide = ("q_ptr", "latent_ptr", "scale_ptr", "rope_ptr", "out_ptr")
    own = ATTENTION | ({} if dtype == torch.bfloat16 else dict.fromkeys(wide, "*fp32")) | (FP8_OWN if fp8 else {})
    made = compiled(mla_attention.attend_splits, constants, 8, tile.stages, own)
    fits(made, spills=64)  # 64 x 512 fp32 sums are 128 of 255 registers
    if dtype == torch.bfloat16:
        assert "wgmma.mma_async.sync.aligned.m64n" in made.ptx
    if dtype == torch.bfloat16 and not fp8:
        widths = re.findall(r"cp\.async\.c[ag]\.shared\.global \[[^]]*\], \[[^]]*\], (0x\w+)", made.ptx)
        assert set(widths) == {"0x4", "0x10"}, "the page table by 4 bytes, keys by 16, both ahead of their use"
        assert widths.count("0x10") >= 36, "72 KiB for 256 threads, in two places"


def test_fold_of_splits() -> None:
    constants = SIZES | {"SPLIT": mla_attention.SPLIT, "SPARSE": True, "SPARSE_BLOCK": 128}
    fits(compiled(mla_attention.fold_splits, {k: v for k, v in constants.items() if k != "R"}, 4, own=ATTENTION))


@pytest.mark.parametrize("scaled", [False, True])
def test_per_head(scaled: bool) -> None:
    rows, outputs, inputs = per_head.TILES[torch.bfloat16]
    constants = {"SCALED": scaled, "BLOCK_T": rows, "BLOCK_N": outputs, "BLOCK_K": inputs}
    made = compiled(per_head.per_head_kernel, constants, 4)
    fits(made)
    assert "wgmma.mma_async.sync.aligned.m64n" in made.ptx


@pytest.mark.parametrize("fp8", [False, True])
def test_write_row(fp8: bool) -> None:
    own = {"position_ptr": "*i32"} | (FP8_OWN if fp8 else {})
    constants = SIZES | {"BLOCK_R": 32, "BLOCK_H": 16, "N": 128} | cache_of(fp8=fp8)
    fits(compiled(write_row, constants, 4, own=own))


@pytest.mark.parametrize("plan", [False, True])
def test_route(plan: bool) -> None:
    fits(compiled(route_kernel, PLAN | {"NORM": True, "PLAN": plan, "BLOCK_G": 1024}, 8), spills=16)


def test_plan_rows() -> None:
    fits(compiled(plan_kernel, PLAN, 8))


def test_combine() -> None:
    fits(compiled(combine_kernel, {"K": 12, "BLOCK_D": 1024}, 4))


SAMPLE = {"position_ptr": "*i64", "top_ptr": "*fp64", "score_ptr": "*fp64"}


def test_sample() -> None:
    fits(compiled(keep_kernel, {"ID_BITS": 17, "BLOCK": 4096}, 16, own=SAMPLE))
    fits(compiled(draw_kernel, {"ID_BITS": 17, "BLOCK": 2048}, 8, own=SAMPLE))
    fits(compiled(best_kernel, {"BLOCK": 64}, 1, own=SAMPLE | {"out_ptr": "*i64"}))


def test_sizes_of_one() -> None:
    """A launch makes every integer that is 1 a constant of the kernel."""
    ones = dict.fromkeys(("num_seqs", "table_stride", "num_pages"), 1)
    tile = {"BLOCK_R": 16, "BLOCK_H": 16, "BLOCK_C": 16, "H": 1, "C": 1, "R": 2, "KEYS": 64, "SPLIT": 1024}
    tile |= {"SPARSE": True, "SPARSE_BLOCK": 128} | cache_of(fp8=False)
    fits(compiled(mla_attention.attend_splits, tile | ones, 8, own=ATTENTION))
    fits(compiled(plan_kernel, plan_blocks(1, 1) | {"F": 1, "W": 1}, 8))
    gate = {"NORM": False, "PLAN": True, "BLOCK_G": 1, "G": 1, "F": 1, "W": 1}
    fits(compiled(route_kernel, plan_blocks(1, 1) | gate, 8))
    fits(compiled(combine_kernel, {"K": 1, "BLOCK_D": 1, "D": 1, "num_answers": 1}, 4))
    fits(compiled(keep_kernel, {"ID_BITS": 1, "BLOCK": 1, "B": 1, "V": 1}, 16, own=SAMPLE))
    fits(compiled(draw_kernel, {"ID_BITS": 1, "BLOCK": 1, "V": 1}, 8, own=SAMPLE))
    fits(compiled(best_kernel, {"BLOCK": 1, "N": 1, "V": 1}, 1, own=SAMPLE | {"out_ptr": "*i64"}))
    products = {"SCALED": True, "BLOCK_T": 64, "BLOCK_N": 64, "BLOCK_K": 64, "K": 1, "N": 1, "x_head": 1, "y_head": 1}
    fits(compiled(per_head.per_head_kernel, products, 4))
    row = {"C": 1, "R": 2, "BLOCK_C": 1, "BLOCK_R": 1, "BLOCK_H": 16, "N": 1, "H": 1, "num_positions": 1}
    row |= cache_of(fp8=False)
    fits(compiled(write_row, row, 4, own={"position_ptr": "*i32"}))
