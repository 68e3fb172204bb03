"""fp32 to a narrower type, to nearest even, with the same bits in the interpreter as on a GPU.

Triton's interpreter (3.6, 3.7) cuts bf16 off and, asked to round, forgets the carry out of the mantissa.
"""

from __future__ import annotations

import triton
import triton.language as tl

INTERPRET = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def _bf16_bits(x):
    bits = x.to(tl.uint32, bitcast=True)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return tl.where(x != x, 0x7FC0, rounded).to(tl.uint16)


@triton.jit
def _e4m3_bits(x):
    """x within ±448. Below 2^-6 codes are multiples of 2^-9: adding 2^14 leaves them in the lowest bits."""
    bits = tl.abs(x).to(tl.uint32, bitcast=True)
    normal = ((bits + 0x7FFFF + ((bits >> 20) & 1)) >> 20) - (120 << 3)
    tiny = (tl.abs(x) + 16384.0).to(tl.uint32, bitcast=True) - 0x46800000
    code = tl.where(x != x, 0x7F, tl.where(tl.abs(x) < 0.015625, tiny, normal))
    return (code | ((x.to(tl.uint32, bitcast=True) >> 31) << 7)).to(tl.uint8)


@triton.jit
def round_to(x, dtype: tl.constexpr):
    """fp32 `x` in `dtype`: fp32, bf16 or e4m3."""
    if INTERPRET and dtype == tl.bfloat16:
        y = _bf16_bits(x).to(tl.bfloat16, bitcast=True)
    elif INTERPRET and dtype == tl.float8e4nv:
        y = _e4m3_bits(x).to(tl.float8e4nv, bitcast=True)
    else:
        y = x.to(dtype)
    return y
