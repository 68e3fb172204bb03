"""linear, swiglu_inner, swiglu, rms_norm and linear_fp8 in Triton: right against fp64, and a row's bits its own."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import caracal_kernels.triton  # noqa: F401  before triton
import pytest
import torch
from caracal_kernels import linear_fp8_reference
from caracal_kernels.triton.linear import linear_triton
from caracal_kernels.triton.linear_fp8 import linear_fp8_triton
from caracal_kernels.triton.rms_norm import rms_norm_triton
from caracal_kernels.triton.swiglu import swiglu_triton
from caracal_kernels.triton.swiglu_inner import swiglu_inner_triton
from support.gpu_inputs import (
    GROWN,
    WIDTHS,
    batch_sizes,
    mixes,
    on_device,
    poisoned,
    quantize_weight,
    sum_error,
    within,
)
from support.op_inputs import DTYPES, close
from support.poisoned_memory import poisoned_memory
from torch.nn.functional import silu

SHAPES = [(0, 64, 8), (1, 64, 70), (1, 37, 101), (5, 300, 4), (13, 1, 1), (1, 1, 1), (33, 129, 65)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "depth", "outputs"), SHAPES)
def test_linear(rows: int, depth: int, outputs: int, dtype: torch.dtype) -> None:
    x, w = on_device(rows, depth, dtype=dtype), on_device(outputs, depth, dtype=dtype, scale=depth**-0.5)
    residual = on_device(rows, outputs, dtype=dtype)
    exact = x.double() @ w.double().T
    wide = poisoned(rows, outputs, dtype=torch.float32)
    close(linear_triton(x, w, None, torch.float32, y_MN=wide), exact, torch.float32)
    y = poisoned(rows, outputs, dtype=dtype)
    assert linear_triton(x, w, residual, y_MN=y) is y
    assert torch.equal(y, (residual.float() + wide.to(dtype).float()).to(dtype)), "two roundings, as the reference"


@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_and_rms_norm_agree_with_fp64_at_random_sizes(dtype: torch.dtype) -> None:
    random.seed(11)
    for rows in (0, 1, *(random.randint(2, 80 * GROWN) for _ in range(6))):
        depth, outputs = random.randint(1, 300 * GROWN), random.randint(1, 200 * GROWN)
        x, w = on_device(rows, depth, dtype=dtype), on_device(outputs, depth, dtype=dtype)
        norm = on_device(depth, dtype=dtype)
        with poisoned_memory():
            y, normed = linear_triton(x, w), rms_norm_triton(x, norm, 1e-5)
        assert within(y, x.double() @ w.double().T, sum_error(x, w))
        exact = x.double() * torch.rsqrt(x.double().pow(2).mean(-1, keepdim=True) + 1e-5)
        close(normed, exact * norm.double(), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("hidden", "inner"), WIDTHS)
def test_swiglu(hidden: int, inner: int, dtype: torch.dtype) -> None:
    gate_up = on_device(2 * inner, hidden, dtype=dtype, scale=hidden**-0.5)
    down = on_device(hidden, inner, dtype=dtype, scale=inner**-0.5)
    for rows in (0, 1, 35):
        x = on_device(rows, hidden, dtype=dtype)
        gate, up = (x.double() @ gate_up.double().T).chunk(2, -1)
        a = swiglu_inner_triton(x, gate_up, poisoned(rows, inner, dtype=dtype))
        close(a, silu(gate) * up, dtype)
        assert torch.equal(swiglu_triton(x, gate_up, down, x), linear_triton(a, down, x))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 72, 515, 6144])
def test_rms_norm(width: int, dtype: torch.dtype) -> None:
    x, w = on_device(9, width, dtype=dtype), on_device(width, dtype=dtype)
    exact = x.double() * torch.rsqrt(x.double().pow(2).mean(-1, keepdim=True) + 1e-5) * w.double()
    y = rms_norm_triton(x, w, 1e-5, poisoned(9, width, dtype=dtype))
    close(y, exact, dtype)
    assert all(torch.equal(rms_norm_triton(x[i : i + 1], w, 1e-5)[0], y[i]) for i in range(9))
    assert rms_norm_triton(x[:0], w, 1e-5).shape == (0, width)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "depth", "outputs"), [(0, 64, 8), (1, 37, 101), (33, 300, 150)])
def test_linear_fp8(rows: int, depth: int, outputs: int, dtype: torch.dtype) -> None:
    x, residual = on_device(rows, depth, dtype=dtype), on_device(rows, outputs, dtype=dtype)
    w = on_device(outputs, depth, scale=depth**-0.5)
    stored = quantize_weight(w)
    with poisoned_memory():
        y, added = linear_fp8_triton(x, *stored, None, torch.float32), linear_fp8_triton(x, *stored, residual)
    close(y, linear_fp8_reference(x, *stored, None, torch.float32), torch.float32)
    assert torch.equal(added, (residual.float() + y.to(dtype).float()).to(dtype))
    exact = x.double() @ w.double().T
    assert (y - exact).norm() <= 0.06 * exact.norm(), "three bits of mantissa on both sides"


@pytest.mark.parametrize("kind", ["fp32", "bf16", "fp8"])
def test_a_rows_bits_are_its_own(kind: str) -> None:
    random.seed(0)
    dtype = torch.float32 if kind == "fp32" else torch.bfloat16
    x, gate_up = on_device(24, 130, dtype=dtype), on_device(2 * 37, 130, dtype=dtype, scale=0.1)
    down = on_device(130, 37, dtype=dtype, scale=0.1)
    stored = quantize_weight(gate_up)

    def run(rows: torch.Tensor) -> torch.Tensor:
        part = x[rows].contiguous()
        with poisoned_memory():
            return linear_fp8_triton(part, *stored) if kind == "fp8" else swiglu_triton(part, gate_up, down, part)

    alone = torch.cat([run(torch.tensor([i])) for i in range(24)])
    for size in batch_sizes([2, 15, 16, 17, 33, 50]):
        rows = torch.tensor(random.choices(range(24), k=size))
        assert torch.equal(run(rows), alone[rows])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_rows_linear_and_norm_are_its_own(dtype: torch.dtype) -> None:
    random.seed(12)
    x, w, norm = (on_device(*shape, dtype=dtype) for shape in ((24, 150), (70, 150), (150,)))

    def run(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        part = x[rows]
        with poisoned_memory():
            return linear_triton(part, w), rms_norm_triton(part, norm, 1e-5)

    singly = [run(torch.tensor([i])) for i in range(24)]
    ys, normed = (torch.cat(rows) for rows in zip(*singly, strict=True))
    assert ys.isfinite().all()
    assert normed.isfinite().all()
    for rows in mixes(24, [1, 2, 15, 16, 17, 33, 50 * GROWN]):
        y, n = run(rows)
        assert torch.equal(y, ys[rows])
        assert torch.equal(n, normed[rows])


def test_a_bad_argument_is_named() -> None:
    x, w = on_device(2, 3), on_device(4, 3)
    calls: tuple[tuple[Callable[[], Any], str], ...] = (
        (lambda: linear_triton(x, on_device(4, 5)), "linear: w"),
        (lambda: linear_triton(on_device(3, 2).T, w), "linear: x"),
        (lambda: linear_triton(x.half(), w.half()), "linear: x"),
        (lambda: linear_triton(x, w, on_device(2, 3)), "linear: residual"),
        (lambda: rms_norm_triton(x, on_device(4), 1e-5), "rms_norm: w"),
        (lambda: swiglu_triton(x, on_device(8, 3), on_device(3, 5)), "swiglu: gate_up"),
    )
    for call, culprit in calls:
        with pytest.raises(RuntimeError, match=culprit):
            call()
