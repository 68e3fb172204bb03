"""Rounding in Triton's interpreter is ours: it has to be what a GPU and torch do."""

from __future__ import annotations

import caracal_kernels.triton  # noqa: F401  before triton
import pytest
import torch
import triton
import triton.language as tl
from caracal_kernels.triton.rounding import round_to
from support.gpu_inputs import FP8
from support.op_inputs import DEVICE
from torch import Tensor


@triton.jit  # type: ignore[untyped-decorator]
def _round_kernel(x_ptr, y_ptr, n, B: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.program_id(0) * B + tl.arange(0, B)
    x = tl.load(x_ptr + at, mask=at < n, other=0.0)
    tl.store(y_ptr + at, round_to(x, y_ptr.dtype.element_ty), mask=at < n)


def rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    y = torch.empty_like(x, dtype=dtype)
    _round_kernel[(triton.cdiv(len(x), 1024),)](x, y, len(x), B=1024)
    return y


def values() -> Tensor:
    """All magnitudes, every e4m3 value and the middles between them, a little to each side."""
    codes = torch.arange(256, dtype=torch.uint8).view(FP8).float()
    codes = codes[codes.isfinite()].sort().values
    middles = (codes[1:] + codes[:-1]) / 2
    spread = torch.randn(100_000) * 10.0 ** torch.randint(-6, 3, (100_000,))
    return torch.cat([spread, codes, middles, middles * (1 + 1e-6), middles * (1 - 1e-6)]).clamp(-448, 448).to(DEVICE)


@pytest.mark.parametrize(("dtype", "bits"), [(torch.bfloat16, torch.int16), (FP8, torch.uint8)])
def test_to_nearest_even(dtype: torch.dtype, bits: torch.dtype) -> None:
    x = values()
    assert torch.equal(rounded(x, dtype).view(bits), x.to(dtype).view(bits))


def test_the_ends_of_bf16() -> None:
    x = torch.tensor([0.0, -0.0, 3.4e38, -3.4e38, float("inf"), float("-inf"), 1e-40], device=DEVICE)
    assert torch.equal(rounded(x, torch.bfloat16).view(torch.int16), x.to(torch.bfloat16).view(torch.int16))
    assert rounded(torch.full((3,), float("nan"), device=DEVICE), torch.bfloat16).isnan().all()
