"""The rotation of queries and keys, by the kernel that makes it: right against fp64, and a row's bits its own.

Legend: T rows, H heads, N nope, C latent, R rope.
"""

from __future__ import annotations

import random

import caracal_kernels.triton  # noqa: F401  before triton
import pytest
import torch
import triton
from caracal_kernels.mla_project import rope_reference
from caracal_kernels.triton.latent_cache import parts_of
from caracal_kernels.triton.mla_project import write_row
from support.gpu_inputs import HALF_ULP, batch_sizes, on_device, poisoned, within
from support.op_inputs import DEVICE, DTYPES, i32
from torch import Tensor

POSITIONS = 300
C, N = 24, 12


def rotated(q_THE: Tensor, kv_TL: Tensor, table: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """(rotated part of the queries [T, H, R], of the keys [T, R]); looks that nothing but the latent is left out."""
    (rows, heads, _), rope = q_THE.shape, table.shape[1]
    q = poisoned(rows, heads, C + rope, dtype=q_THE.dtype)
    cache = poisoned(1, 128, C + rope, dtype=q_THE.dtype)
    norm = torch.ones(C, dtype=q_THE.dtype, device=DEVICE)
    places = torch.arange(rows, dtype=torch.int32, device=DEVICE)
    parts = parts_of(cache, C, rope, cache.dtype)
    write_row[(rows,)](
        kv_TL, norm, q_THE, table, positions, places, *parts.tensors, q, 1.0, 1.0, 1e-6, len(table),
        128, heads, N, C=C, R=rope, BLOCK_C=32, BLOCK_R=triton.next_power_of_2(rope // 2), BLOCK_H=16,
        num_warps=4, **parts.constants,
    )  # fmt: skip
    assert q[..., :C].isnan().all(), "the latent part is another kernel's"
    assert cache[0, rows:].isnan().all()
    assert cache[0, :rows].isfinite().all()
    return q[..., C:], cache[0, :rows, C:]


def inputs(rows: int, heads: int, rope: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    angle = torch.rand(POSITIONS, rope // 2) * 6.3
    table = torch.cat([angle.cos(), angle.sin()], -1).to(DEVICE)
    return on_device(rows, heads, N + rope, dtype=dtype), on_device(rows, C + rope, dtype=dtype), table


@pytest.mark.parametrize("dtype", DTYPES)
def test_agrees_with_fp64_at_random_sizes(dtype: torch.dtype) -> None:
    random.seed(41)
    for rows in (1, *(random.randint(2, 30) for _ in range(5))):
        heads, rope = random.randint(1, 20), 2 * random.randint(1, 40)
        q, kv, table = inputs(rows, heads, rope, dtype)
        positions = torch.randint(0, POSITIONS, (rows,), dtype=torch.int32)
        turned = rotated(q, kv, table, positions.to(DEVICE))
        cos_sin = table[positions.long()]
        for actual, x, angles in zip(turned, (q[..., N:], kv[:, C:]), (cos_sin[:, None], cos_sin), strict=True):
            cos, sin = angles.double().chunk(2, -1)
            complex_dims = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
            exact = complex_dims * torch.complex(cos, sin)
            error = (3 * HALF_ULP[torch.float32] * complex_dims.abs()).repeat(*[1] * (x.dim() - 1), 2) * 2
            assert within(actual, torch.cat([exact.real, exact.imag], -1), error)
            if dtype == torch.bfloat16:
                assert (actual == rope_reference(x, angles)).float().mean() > 0.999, "fused or not tips a last bit"


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_rows_bits_are_its_own(dtype: torch.dtype) -> None:
    random.seed(42)
    q, kv, table = inputs(16, 5, 8, dtype)
    positions = torch.randint(0, POSITIONS, (16,), dtype=torch.int32)

    def run(rows: list[int]) -> tuple[Tensor, Tensor]:
        return rotated(q[rows], kv[rows], table, i32(positions[rows]).to(DEVICE))

    singly = [run([i]) for i in range(16)]
    queries, keys = (torch.cat(rows) for rows in zip(*singly, strict=True))
    for size in batch_sizes([1, 2, 3, 20]):
        rows = random.choices(range(16), k=size)
        query, key = run(rows)
        assert torch.equal(query, queries[rows])
        assert torch.equal(key, keys[rows])
