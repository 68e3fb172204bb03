"""grouped_swiglu and grouped_swiglu_fp8 in Triton: right against fp64, and an assignment's bits its own."""

from __future__ import annotations

import random

import caracal_kernels.triton  # noqa: F401  before triton
import pytest
import torch
from caracal_kernels import grouped_swiglu_fp8_reference
from caracal_kernels.quantize import dequantize_reference, quantize_reference
from caracal_kernels.triton.grouped_swiglu import gate_up_launch, grouped_swiglu_triton
from caracal_kernels.triton.grouped_swiglu_fp8 import grouped_swiglu_fp8_triton
from caracal_kernels.triton.swiglu import swiglu_triton
from caracal_kernels.triton.tiles import tile_for
from support.gpu_inputs import FP8, GROWN, WIDTHS, Experts, batch_sizes, on_device, poisoned, sum_error, within
from support.op_inputs import DEVICE, DTYPES, close, i32
from support.poisoned_memory import poisoned_memory
from torch import Tensor
from torch.nn.functional import silu

COUNTS = [[], [0, 0, 0], [1], [0, 1, 0], [3, 0, 40, 1, 17], [0, 0, 16, 32, 0], [70, 1, 1]]


def run(x: Tensor, rows: list[int], counts: list[int], e: Experts, y: Tensor | None = None) -> Tensor:
    row, count = i32(rows).to(DEVICE), i32(counts).to(DEVICE)
    with poisoned_memory():  # y, unless it is given, and the inner products
        if e.down_scale:
            return grouped_swiglu_fp8_triton(x, row, count, e.gate_up, e.gate_up_scale, e.down, e.down_scale, y)
        return grouped_swiglu_triton(x, row, count, e.gate_up, e.down, y)


def exact(x: Tensor, rows: list[int], counts: list[int], e: Experts) -> Tensor:
    """[A, D] in fp64, with no rounding on the way."""
    y = []
    for one, gate_up, down in zip(torch.tensor(rows).long().split(counts), e.gate_up, e.down, strict=True):
        gate, up = (x[one.to(DEVICE)].double() @ gate_up.double().T).chunk(2, -1)
        y.append((silu(gate) * up) @ down.double().T)
    return torch.cat(y) if y else x[:0].double()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("hidden", "inner"), WIDTHS)
def test_every_assignment_gets_its_expert(hidden: int, inner: int, dtype: torch.dtype) -> None:
    random.seed(0)
    x = on_device(19, hidden, dtype=dtype)
    for counts in COUNTS:
        experts = Experts.random(len(counts), hidden, inner, dtype)
        rows = [random.randrange(19) for _ in range(sum(counts))]
        y = run(x, rows, counts, experts, poisoned(len(rows), hidden, dtype=dtype))
        close(y, exact(x, rows, counts, experts), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_assignment_gets_its_expert_at_random_sizes(dtype: torch.dtype) -> None:
    random.seed(71)
    for _ in range(6):
        hidden, inner = (8 * random.randint(1, 12 * GROWN) for _ in range(2))
        counts = [random.choice([0, 0, 1, random.randint(2, 40 * GROWN)]) for _ in range(random.randint(1, 6))]
        x, experts = on_device(11, hidden, dtype=dtype), Experts.random(len(counts), hidden, inner, dtype)
        rows = [random.randrange(11) for _ in range(sum(counts))]
        close(run(x, rows, counts, experts), exact(x, rows, counts, experts), dtype)


def stored(inner: Tensor, error: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """What e4m3 may hold of an inner product known but for `error`: (the middle, how far to either side), in fp64.

    Both ends go through the kernel's steps, which are monotonic: to `dtype`, over the block's scale, to e4m3. So a
    value is off by a step of e4m3 only where a tipping point lies between its ends.
    """
    block = torch.arange(inner.shape[1], device=inner.device) // 128
    ends = [(inner.abs() + side * error).clamp(min=0).to(dtype).double() for side in (-1, 1)]
    scales = [
        torch.stack([end[:, block == s].amax(1).clamp(min=1e-10) / 448 for s in range(int(block[-1]) + 1)], 1)[:, block]
        for end in ends
    ]
    rounded = 1e-6  # of the division, in fp32
    low = (ends[0] / scales[1] * (1 - rounded)).clamp(max=448).to(FP8).double() * scales[0] * (1 - rounded)
    high = (ends[1] / scales[0] * (1 + rounded)).clamp(max=448).to(FP8).double() * scales[1] * (1 + rounded)
    low = torch.where(ends[0] == 0, -high, low)  # either sign
    return (low + high) / 2 * inner.sign(), (high - low) / 2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("hidden", "inner"), WIDTHS[:2])
def test_fp8_agrees_with_fp64_element_by_element(hidden: int, inner: int, dtype: torch.dtype) -> None:
    """Against fp64 products of the values that e4m3 and its scales stand for. What may differ: the sums' roundings, the
    steps of e4m3 these tip in the inner product, and the last rounding."""
    random.seed(72)
    # A GPU's e4m3 products lose what lies 13 bits below a group's largest; of a group of 32 that is 2^-10 of its sum.
    sums = 2**-10 / (2**-23 * hidden) if DEVICE == "cuda" else 1.0
    counts = [random.choice([1, 17]), 0, random.randint(20, 40)]
    x, e = on_device(19, hidden, dtype=dtype), Experts.random(3, hidden, inner, dtype).in_fp8()
    rows = [random.randrange(19) for _ in range(sum(counts))]
    y = run(x, rows, counts, e).split(counts)
    known = dequantize_reference(*quantize_reference(x), rows=1)
    for g, one in enumerate(torch.tensor(rows).split(counts)):
        if not len(one):
            continue
        x_AD = known[one.to(DEVICE)]
        halves = zip(e.gate_up[g].chunk(2), e.gate_up_scale[g].chunk(2), strict=True)
        gate_w, up_w = (dequantize_reference(w, scale) for w, scale in halves)
        gate, up, down = x_AD @ gate_w.T, x_AD @ up_w.T, dequantize_reference(e.down[g], e.down_scale[g])
        a = silu(gate) * up
        error = 1.1 * sums * sum_error(x_AD, gate_w) * up.abs()  # silu is no steeper than 1.1
        error += (silu(gate).abs() + error) * sums * sum_error(x_AD, up_w) + 2**-20 * a.abs()
        middle, either_side = stored(a, error, dtype)
        allowed = either_side @ down.abs().T + sums * sum_error(middle.abs() + either_side, down)
        assert within(y[g], middle @ down.T, allowed)
        assert allowed.norm() < 0.1 * y[g].norm(), "a bound that says something"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("hidden", "inner"), WIDTHS)
def test_every_assignment_gets_its_expert_in_fp8(hidden: int, inner: int, dtype: torch.dtype) -> None:
    random.seed(0)
    x = on_device(19, hidden, dtype=dtype)
    for counts in COUNTS[:5]:
        wide = Experts.random(len(counts), hidden, inner, dtype)
        e = wide.in_fp8()
        rows = [random.randrange(19) for _ in range(sum(counts))]
        y = run(x, rows, counts, e, poisoned(len(rows), hidden, dtype=dtype))
        assert y.isfinite().all()
        lists = (e.gate_up, e.gate_up_scale, e.down, e.down_scale)
        reference = grouped_swiglu_fp8_reference(x, i32(rows).to(DEVICE), i32(counts).to(DEVICE), *lists).double()
        # The inner product is quantised: where its last bit tips, one value of e4m3 does, by a sixteenth at most.
        assert (y.double() - reference).norm() <= 4e-3 * reference.norm()
        unquantised = exact(x, rows, counts, wide)
        assert (y.double() - unquantised).norm() <= 0.12 * unquantised.norm()


@pytest.mark.parametrize("dtype", DTYPES)
def test_gate_and_up_leave_nothing_out(dtype: torch.dtype) -> None:
    x, counts = on_device(5, 130, dtype=dtype), [3, 0, 20]
    e = Experts.random(3, 130, 150, dtype)
    rows = [random.randrange(5) for _ in range(23)]
    inner = poisoned(23, 150, dtype=dtype)
    gate_up_launch(
        x, i32(rows).to(DEVICE), i32(counts).to(DEVICE), e.gate_up, inner, tile_for(150, 130, dtype, gate_up=True)
    )
    assert inner.isfinite().all()


@pytest.mark.parametrize("kind", ["fp32", "bf16", "fp8"])
def test_an_assignments_bits_are_its_own(kind: str) -> None:
    random.seed(2)
    dtype = torch.float32 if kind == "fp32" else torch.bfloat16
    hidden = 130 if kind == "fp8" else 72
    experts = Experts.random(3, hidden, 37, dtype)
    experts = experts.in_fp8() if kind == "fp8" else experts
    x = on_device(6, hidden, dtype=dtype)
    alone = [[run(x, [r], [int(e == g) for e in range(3)], experts)[0] for r in range(6)] for g in range(3)]
    for counts in zip(*(batch_sizes([0, 0, 1, 2, 15, 17, 40]) for _ in range(3)), strict=True):
        rows = [random.randrange(6) for _ in range(sum(counts))]
        y = run(x, rows, list(counts), experts)
        groups = [g for g, n in enumerate(counts) for _ in range(n)]
        assert all(torch.equal(y[p], alone[g][r]) for p, (g, r) in enumerate(zip(groups, rows, strict=True)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_expert_is_the_dense_mlp(dtype: torch.dtype) -> None:
    x, e = on_device(21, 72, dtype=dtype), Experts.random(1, 72, 37, dtype)
    assert torch.equal(run(x, list(range(21)), [21], e), swiglu_triton(x, e.gate_up[0], e.down[0]))


def test_experts_come_and_go() -> None:
    """The table of addresses is kept between calls; it has to follow weights that moved."""
    x, e = on_device(3, 72), Experts.random(3, 72, 37, torch.float32)
    before = run(x, [0, 1, 2], [1, 1, 1], e)
    turned = Experts(e.gate_up[::-1], [], e.down[::-1], [])
    assert torch.equal(run(x, [2, 1, 0], [1, 1, 1], turned), before.flip(0))
    fewer = Experts(e.gate_up[1:], [], e.down[1:], [])
    assert torch.equal(run(x, [1, 2], [1, 1], fewer), before[1:])


def test_a_bad_argument_is_named() -> None:
    x, e = on_device(2, 72), Experts.random(2, 72, 40, torch.float32)
    narrow = Experts(e.gate_up, [], [w[:, :36].contiguous() for w in e.down], [])
    with pytest.raises(RuntimeError, match="grouped_swiglu: down"):
        run(x, [0], [1, 0], narrow)
    shifted = torch.empty(81 * 72 + 1, device=DEVICE)[1:][: 80 * 72].view(80, 72)
    with pytest.raises(RuntimeError, match="16 bytes"):
        run(x, [0], [1, 0], Experts([e.gate_up[0], shifted], [], e.down, []))
    stored = e.in_fp8()
    with pytest.raises(RuntimeError, match="grouped_swiglu_fp8: down_scale"):
        run(x, [0], [1, 0], Experts(stored.gate_up, stored.gate_up_scale, stored.down, stored.gate_up_scale))
