"""The small and the large path give the same bits: what lets the number of rows choose (triton/tiles.py)."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import caracal_kernels.triton  # noqa: F401  before triton
import pytest
import torch
from caracal_kernels.triton.grouped_swiglu import grouped_swiglu_triton
from caracal_kernels.triton.grouped_swiglu_fp8 import grouped_swiglu_fp8_triton
from caracal_kernels.triton.linear import linear_triton
from caracal_kernels.triton.quantize import quantize_triton
from caracal_kernels.triton.swiglu_inner import swiglu_inner_triton
from caracal_kernels.triton.tile_invariance import agree
from caracal_kernels.triton.tiles import STRIP, paths_for
from support.gpu_inputs import FP8, WIDTHS, Experts, on_device, quantize_weight
from support.op_inputs import DEVICE, DTYPES, i32
from support.poisoned_memory import poisoned_memory
from torch import Tensor


@pytest.mark.parametrize("kind", ["fp32", "bf16", "fp8"])
@pytest.mark.parametrize(("depth", "outputs"), WIDTHS[1:])
def test_linear(depth: int, outputs: int, kind: str) -> None:
    """More row tiles of the large path than run next to each other, the last one short, and both sides of `many`."""
    dtype = torch.float32 if kind == "fp32" else torch.bfloat16
    paths = paths_for(outputs, depth, FP8 if kind == "fp8" else dtype)
    rows = (STRIP + 1) * paths.large.BM + 5
    x, w = on_device(rows, depth, dtype=dtype), on_device(outputs, depth, dtype=dtype)
    x_scale, (stored, w_scale) = None, quantize_weight(w)
    if kind == "fp8":
        (x, x_scale), w = quantize_triton(x), stored

    def product(m: int, path: str) -> Tensor:
        scales = None if x_scale is None else (x_scale[:m], w_scale)
        with poisoned_memory():
            return linear_triton(x[:m], w, None, torch.float32, scales, tile=getattr(paths, path))

    whole = product(rows, "large")
    assert whole.isfinite().all()
    assert torch.equal(product(rows, "small"), whole)
    for m in (paths.many - 1, paths.many, 5 * paths.large.BM // 2):
        assert torch.equal(product(m, "small"), whole[:m])
        assert torch.equal(product(m, "large"), whole[:m])


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_number_of_rows_does_not_show(dtype: torch.dtype) -> None:
    """Nobody names a tile: one row fewer than `many`, `many`, and more tiles than run next to each other."""
    many, tiled = paths_for(70, 130, dtype).many, (STRIP + 1) * paths_for(70, 130, dtype).large.BM
    x, w, gate_up = (on_device(*shape, dtype=dtype) for shape in ((tiled, 130), (70, 130), (140, 130)))
    ops: tuple[Callable[[Tensor], Tensor], ...] = (
        lambda rows: linear_triton(rows, w),
        lambda rows: swiglu_inner_triton(rows, gate_up),
    )
    for op in ops:
        with poisoned_memory():
            few, enough, plenty = (op(x[:m]) for m in (many - 1, many, tiled))
        assert plenty.isfinite().all()
        assert torch.equal(few, plenty[: many - 1])
        assert torch.equal(enough, plenty[:many])


@pytest.mark.parametrize("kind", ["fp32", "bf16", "fp8"])
@pytest.mark.parametrize(("hidden", "inner"), WIDTHS[1:])
def test_grouped_swiglu(hidden: int, inner: int, kind: str) -> None:
    """Two groups of 2.5 tiles of the large path, with one of none, one of one row and one of `many` between them."""
    random.seed(3)
    dtype = torch.float32 if kind == "fp32" else torch.bfloat16
    paths = paths_for(inner, hidden, FP8 if kind == "fp8" else dtype, gate_up=True)
    ragged = 5 * paths.large.BM // 2
    counts = [ragged, 0, 1, paths.many, ragged + 1]
    e, x = Experts.random(len(counts), hidden, inner, dtype), on_device(9, hidden, dtype=dtype)
    row = i32([random.randrange(9) for _ in range(sum(counts))]).to(DEVICE)
    count = i32(counts).to(DEVICE)
    assert sum(-(-n // paths.large.BM) for n in counts) >= STRIP
    e = e.in_fp8() if kind == "fp8" else e
    answers = []
    for tile in (paths.small, paths.large):
        with poisoned_memory():
            if kind == "fp8":
                lists = (e.gate_up, e.gate_up_scale, e.down, e.down_scale)
                answers.append(grouped_swiglu_fp8_triton(x, row, count, *lists, tile=tile))
            else:
                answers.append(grouped_swiglu_triton(x, row, count, e.gate_up, e.down, tile=tile))
    assert answers[0].isfinite().all()
    assert torch.equal(*answers)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_a_device_is_asked_before_rows_may_choose(dtype: torch.dtype) -> None:
    sizes = 40, 256, 130
    one, gate_up = paths_for(130, 256, dtype), paths_for(130, 256, dtype, gate_up=True)
    assert agree(dtype, torch.device(DEVICE), one, gate_up, sizes)


def test_paths_that_group_their_sums_otherwise_are_recognised() -> None:
    dtype = torch.bfloat16
    one, gate_up = paths_for(130, 256, dtype), paths_for(130, 256, dtype, gate_up=True)
    other = replace(one, large=replace(one.large, BK=one.large.BK // 2))
    assert not agree(dtype, torch.device(DEVICE), other, gate_up, (40, 256, 130))
    other = replace(gate_up, large=replace(gate_up.large, BK=gate_up.large.BK // 2))
    assert not agree(dtype, torch.device(DEVICE), one, other, (40, 256, 130))
