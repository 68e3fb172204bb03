"""Experts, widths, batches and error bounds for the tests of Triton kernels. Legend as in the ops' files."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from caracal_kernels.quantize import BLOCK, E4M3_MAX
from support.op_inputs import DEVICE, rand
from torch import Tensor
from torch.nn.functional import pad

FP8 = torch.float8_e4m3fn
HALF_ULP = {torch.float32: 2**-24, torch.bfloat16: 2**-8}  # relative to the value
GROWN = 4 if DEVICE == "cuda" else 1  # factor over the sizes for the interpreter
WIDTHS = [(72, 37), (130, 150)] + ([(6144, 2048)] if DEVICE == "cuda" else [])  # D, F


def on_device(*shape: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> Tensor:
    return rand(*shape, dtype=dtype, scale=scale).to(DEVICE)


def poisoned(*shape: int, dtype: torch.dtype) -> Tensor:
    """Returns NaN everywhere, so that an element that a kernel does not write is noticed."""
    return torch.full(shape, float("nan"), device=DEVICE).to(dtype)


def batch_sizes(sizes: list[int]) -> list[int]:
    """Returns every size at least twice, in any order, 40 in all; once where each batch is interpreted."""
    count = max(40, 2 * len(sizes)) if DEVICE == "cuda" else len(sizes)
    return random.sample((sizes * count)[:count], count)


def mixes(rows: int, sizes: list[int]) -> Iterator[Tensor]:
    """Yields nonempty batches of indices below `rows`, in any order and with repeats."""
    return (torch.tensor(random.choices(range(rows), k=size)) for size in batch_sizes(sizes))


def sum_error(x_MK: Tensor, w_NK: Tensor) -> Tensor:
    """Returns the largest error of x @ w.T in fp32, summed in any order: K roundings of the sum of magnitudes."""
    return (x_MK.shape[-1] + 1) * 2**-23 * (x_MK.double().abs() @ w_NK.double().abs().T)


def within(actual: Tensor, exact: Tensor, error: Tensor) -> bool:
    """Returns whether each element is as close to fp64 as `error` and one rounding to its own dtype allow."""
    allowed = error + HALF_ULP[actual.dtype] * (exact.abs() + error)
    return bool(((actual.double() - exact).abs() <= allowed + 1e-30).all())


def quantize_weight(w_NK: Tensor) -> tuple[Tensor, Tensor]:
    """Returns (e4m3 [N, K], fp32 [N/128, K/128]), as a checkpoint stores a weight and its `weight_scale_inv`."""
    outputs, inputs = w_NK.shape
    padded = pad(w_NK.float(), (0, -inputs % BLOCK, 0, -outputs % BLOCK))
    blocks = padded.view(-(-outputs // BLOCK), BLOCK, -1, BLOCK)
    scale = blocks.abs().amax((1, 3)).clamp(min=1e-10) / E4M3_MAX
    stored = (blocks / scale[:, None, :, None]).view(padded.shape)[:outputs, :inputs]
    return stored.contiguous().to(FP8), scale


@dataclass(frozen=True)
class Experts:
    """Weights of several experts; the scales are empty lists unless the weights are fp8."""

    gate_up: list[Tensor]
    gate_up_scale: list[Tensor]
    down: list[Tensor]
    down_scale: list[Tensor]

    @classmethod
    def random(cls, count: int, hidden: int, inner: int, dtype: torch.dtype) -> Experts:
        gate_up = [on_device(2 * inner, hidden, dtype=dtype, scale=hidden**-0.5) for _ in range(count)]
        down = [on_device(hidden, inner, dtype=dtype, scale=inner**-0.5) for _ in range(count)]
        return cls(gate_up, [], down, [])

    def in_fp8(self) -> Experts:
        halves = [[quantize_weight(half) for half in w.chunk(2)] for w in self.gate_up]
        down = [quantize_weight(w) for w in self.down]
        return Experts(
            [torch.cat([q.view(torch.uint8) for q, _ in quantized]).view(FP8) for quantized in halves],
            [torch.cat([scale for _, scale in quantized]) for quantized in halves],
            [q for q, _ in down],
            [scale for _, scale in down],
        )
