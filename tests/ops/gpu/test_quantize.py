"""quantize in Triton: the reference's bits."""

from __future__ import annotations

import random

import caracal_kernels.triton  # noqa: F401  before triton
import pytest
import torch
from caracal_kernels import quantize_reference
from caracal_kernels.quantize import dequantize_reference
from caracal_kernels.triton.quantize import quantize_triton
from support.gpu_inputs import FP8, GROWN, mixes, on_device, poisoned
from support.op_inputs import DEVICE, DTYPES
from support.poisoned_memory import poisoned_memory


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


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_nearest_of_all_codes_in_fp64(dtype: torch.dtype) -> None:
    random.seed(21)
    codes = torch.arange(256, dtype=torch.uint8).view(FP8).double()
    codes = codes[codes.isfinite()].to(DEVICE)
    for rows in (1, *(random.randint(2, 12 * GROWN) for _ in range(5))):
        width = random.randint(1, 500)
        x = on_device(rows, width, dtype=dtype, scale=10.0 ** random.randint(-4, 4))
        with poisoned_memory():
            q, scale = quantize_triton(x)
        block = torch.arange(width, device=DEVICE) // 128
        exact = torch.stack([x.double().abs()[:, block == s].amax(1) for s in range(scale.shape[1])], 1) / 448
        torch.testing.assert_close(scale.double(), exact, rtol=2**-23, atol=0)
        ratio = x.double() / exact[:, block]
        nearest = (ratio[..., None] - codes).abs().amin(-1)
        assert ((q.double() - ratio).abs() <= nearest + 2**-22 * ratio.abs()).all()
        largest = torch.stack([q.double().abs()[:, block == s].amax(1) for s in range(scale.shape[1])], 1)
        assert (largest == 448).all(), "a block uses all of e4m3's range"


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_rows_bits_are_its_own(dtype: torch.dtype) -> None:
    random.seed(22)
    x = on_device(24, 1300, dtype=dtype)

    def run(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        part = x[rows]
        with poisoned_memory():
            q, scale = quantize_triton(part)
        return q.view(torch.uint8), scale

    singly = [run(torch.tensor([i])) for i in range(24)]
    codes, scales = (torch.cat(rows) for rows in zip(*singly, strict=True))
    assert scales.isfinite().all()
    for rows in mixes(24, [1, 2, 9, 17 * GROWN]):
        q, scale = run(rows)
        assert torch.equal(q, codes[rows])
        assert torch.equal(scale, scales[rows])


def test_zeros_and_specks() -> None:
    x = on_device(4, 200, dtype=torch.bfloat16)
    x[0], x[1, :128], x[2] = 0, 0, x[2] * 1e-30
    q, scale = quantize_triton(x)
    assert scale.isfinite().all()
    assert (scale > 0).all()
    assert q.float().isfinite().all()
    assert (q[0].float() == 0).all()
    assert torch.equal(q.view(torch.uint8), quantize_reference(x)[0].view(torch.uint8))
