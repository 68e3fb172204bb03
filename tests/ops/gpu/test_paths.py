"""The small and the large path give the same bits: what lets the number of rows choose (gpu/tiles.py)."""

from __future__ import annotations

import random
from dataclasses import replace

import caracal_kernels.gpu  # noqa: F401  before triton
import pytest
import torch
from caracal_kernels.gpu.grouped_swiglu import grouped_swiglu_triton
from caracal_kernels.gpu.grouped_swiglu_fp8 import grouped_swiglu_fp8_triton
from caracal_kernels.gpu.linear import linear_triton
from caracal_kernels.gpu.same_bits import agree
from caracal_kernels.gpu.tiles import paths_for
from gpu_inputs import WIDTHS, Experts, on_device
from op_inputs import DEVICE, DTYPES, i32


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("depth", "outputs"), WIDTHS)
def test_linear(depth: int, outputs: int, dtype: torch.dtype) -> None:
    x, w = on_device(70, depth, dtype=dtype), on_device(outputs, depth, dtype=dtype)
    paths = paths_for(outputs, depth, dtype)
    small, large = (linear_triton(x, w, None, torch.float32, tile=tile) for tile in (paths.small, paths.large))
    assert torch.equal(small, large)


@pytest.mark.parametrize("kind", ["fp32", "bf16", "fp8"])
@pytest.mark.parametrize(("hidden", "inner"), WIDTHS)
def test_grouped_swiglu(hidden: int, inner: int, kind: str) -> None:
    random.seed(3)
    dtype = torch.float32 if kind == "fp32" else torch.bfloat16
    e, x, counts = Experts.random(3, hidden, inner, dtype), on_device(9, hidden, dtype=dtype), [5, 0, 41]
    row, count = i32([random.randrange(9) for _ in range(46)]).to(DEVICE), i32(counts).to(DEVICE)
    paths = paths_for(inner, hidden, torch.float8_e4m3fn if kind == "fp8" else dtype, pair=True)
    answers = []
    for tile in (paths.small, paths.large):
        if kind == "fp8":
            s = e.in_fp8()
            lists = (s.gate_up, s.gate_up_scale, s.down, s.down_scale)
            answers.append(grouped_swiglu_fp8_triton(x, row, count, *lists, tile=tile))
        else:
            answers.append(grouped_swiglu_triton(x, row, count, e.gate_up, e.down, tile=tile))
    assert torch.equal(*answers)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_a_device_is_asked_before_rows_may_choose(dtype: torch.dtype) -> None:
    sizes = 40, 256, 130
    one, pair = paths_for(130, 256, dtype), paths_for(130, 256, dtype, pair=True)
    assert agree(dtype, torch.device(DEVICE), one, pair, sizes)


def test_paths_that_group_their_sums_otherwise_are_told_apart() -> None:
    dtype = torch.bfloat16
    one, pair = paths_for(130, 256, dtype), paths_for(130, 256, dtype, pair=True)
    other = replace(one, large=replace(one.large, BK=one.large.BK // 2))
    assert not agree(dtype, torch.device(DEVICE), other, pair, (40, 256, 130))
    other = replace(pair, large=replace(pair.large, BK=pair.large.BK // 2))
    assert not agree(dtype, torch.device(DEVICE), one, other, (40, 256, 130))
