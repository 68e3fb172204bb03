"""quantize in Triton: the reference's bits."""

from __future__ import annotations

import caracal_kernels.gpu  # noqa: F401  before triton
import pytest
import torch
from caracal_kernels import quantize_reference
from caracal_kernels.gpu.quantize import quantize_triton
from caracal_kernels.quantize import dequantize_reference
from gpu_inputs import FP8, on_device, poisoned
from op_inputs import DTYPES


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "width"), [(0, 72), (1, 1), (1, 128), (9, 130), (3, 1300), (2, 6144)])
def test_the_references_bits(rows: int, width: int, dtype: torch.dtype) -> None:
    x = on_device(rows, width, dtype=dtype) * 10.0 ** torch.arange(rows, device=on_device(1).device)[:, None]
    x = x.to(dtype)
    scales = -(-width // 128)
    out = poisoned(rows, width, dtype=FP8), poisoned(rows, scales, dtype=torch.float32)
    q, scale = quantize_triton(x, out)
    expected_q, expected_scale = quantize_reference(x)
    assert torch.equal(q.view(torch.uint8), expected_q.view(torch.uint8))
    assert torch.equal(scale, expected_scale)
    back = dequantize_reference(q, scale, rows=1)
    step = torch.maximum(x.double().abs() / 16, scale.double().repeat_interleave(128, 1)[:, :width] * 2**-10)
    assert ((back - x.double()).abs() <= step * 1.001).all(), "half of the last place of e4m3"


def test_zeros_and_specks() -> None:
    x = on_device(4, 200, dtype=torch.bfloat16)
    x[0], x[1, :128], x[2] = 0, 0, x[2] * 1e-30
    q, scale = quantize_triton(x)
    assert scale.isfinite().all()
    assert (scale > 0).all()
    assert q.float().isfinite().all()
    assert (q[0].float() == 0).all()
    assert torch.equal(q.view(torch.uint8), quantize_reference(x)[0].view(torch.uint8))
