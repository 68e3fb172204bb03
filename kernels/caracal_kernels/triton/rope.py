"""Rotary embedding of interleaved dims, written de-interleaved. Legend: T rows, H heads, R rope dims, P positions."""

from __future__ import annotations

import triton
import triton.language as tl

from caracal_kernels.triton.rounding import round_to


@triton.jit
def rotate(even, odd, cos, sin, dtype: tl.constexpr):
    """The two halves of the rotated vector, computed in fp32 and rounded to `dtype`."""
    even, odd = even.to(tl.float32), odd.to(tl.float32)
    return round_to(even * cos - odd * sin, dtype), round_to(odd * cos + even * sin, dtype)
