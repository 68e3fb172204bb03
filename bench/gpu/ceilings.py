"""The ceilings of the GPU: a copy in device memory, and large products in bf16 and fp8 by torch's library."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from bench.gpu.bench import Bench, Case, Row

SECTION = "ceilings"
SETS = 2  # sets of operands, used in turn


def cases(bench: Bench) -> Iterator[Case]:
    yield Case("copy", lambda: [_copy(bench)])
    yield Case("bf16 product", lambda: [_bf16(bench)])
    yield Case("fp8 product", lambda: [_fp8(bench)])


def _copy(bench: Bench) -> Row:
    """Measures the bandwidth: bytes read plus bytes written."""
    source = torch.empty(bench.sizes.copy_bytes // 2, dtype=torch.bfloat16, device=bench.device).normal_()
    target = torch.empty_like(source)
    seconds = bench.clock.seconds([lambda: target.copy_(source)])
    moved = 2 * source.nbytes
    bench.ceilings.bandwidth = moved / seconds
    return _row(f"copy of {source.nbytes >> 20} MiB", seconds, moved, 0)


def _matrices(bench: Bench) -> list[tuple[Tensor, Tensor]]:
    n = bench.sizes.square
    return [
        (
            torch.randn(n, n, device=bench.device, dtype=torch.bfloat16),
            torch.randn(n, n, device=bench.device, dtype=torch.bfloat16),
        )
        for _ in range(SETS)
    ]


def _bf16(bench: Bench) -> Row:
    operands = _matrices(bench)
    seconds = bench.clock.seconds([partial(torch.mm, a, b.t()) for a, b in operands])
    return _product(bench, "bf16", "torch.mm", seconds, 2)


def _fp8(bench: Bench) -> Row:
    """Uses fast accumulation, which none of our kernels does: the ceiling is the hardware's."""
    operands = [(a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn)) for a, b in _matrices(bench)]
    one = torch.ones((), device=bench.device)

    def product(a: Tensor, b: Tensor) -> Tensor:
        return torch._scaled_mm(a, b.t(), one, one, out_dtype=torch.bfloat16, use_fast_accum=not bench.dry)

    seconds = bench.clock.seconds([partial(product, a, b) for a, b in operands])
    return _product(bench, "fp8", "torch._scaled_mm", seconds, 1)


def _product(bench: Bench, kind: str, name: str, seconds: float, item_bytes: int) -> Row:
    n = bench.sizes.square
    bench.ceilings.rates[kind] = 2 * n**3 / seconds
    return _row(f"{kind} product, {n}^3, {name}", seconds, 2 * n * n * item_bytes + 2 * n * n, 2 * n**3)


def _row(case: str, seconds: float, moved: int, flops: int) -> Row:
    return Row(section=SECTION, case=case, seconds=seconds, bytes=moved, flops=flops)
