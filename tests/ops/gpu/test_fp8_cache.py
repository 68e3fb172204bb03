"""A latent cache in fp8 in Triton: written as the reference quantizes, read as the values that it stands for."""

from __future__ import annotations

from typing import Any

import caracal_kernels.triton  # noqa: F401  before triton
import pytest
import torch
from caracal_kernels.latent_cache import read_fp8, row_width, write_fp8_reference
from caracal_kernels.triton.mla_attention import mla_attention_triton
from caracal_kernels.triton.mla_project import mla_project_triton
from support.op_inputs import DEVICE, DTYPES, Sizes, i32, mla_weights, project_arguments, rand
from support.poisoned_memory import poisoned_memory
from torch import Tensor

S = Sizes(hidden=64, heads=2, nope=8, latent=200)  # of two scales, the last one's block is short


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_are_written_as_the_reference_quantizes_them(dtype: torch.dtype) -> None:
    weights = mla_weights(S, dtype)
    weights.kv_a_norm_C.mul_(torch.pow(2.0, -(torch.arange(S.latent) % 23).float()).to(dtype))
    arguments: list[Any] = [w.to(DEVICE) if isinstance(w, Tensor) else w for w in project_arguments(weights)]
    x, places = rand(4, S.hidden, dtype=dtype), i32([20, -1, 3, 31])
    plain = torch.zeros((2, 16, S.width), dtype=dtype, device=DEVICE)
    cache = torch.full((2, 16, row_width(S.latent, S.rope, dtype, fp8=True)), 0xFF, dtype=torch.uint8, device=DEVICE)
    where = i32([0, 1, 2, 3]).to(DEVICE), places.to(DEVICE)
    with poisoned_memory():
        q = mla_project_triton(x.to(DEVICE), *where, cache, *arguments)
        plain_q = mla_project_triton(x.to(DEVICE), *where, plain, *arguments)
    assert torch.equal(q, plain_q)
    expected = torch.full_like(cache, 0xFF).cpu()
    written = places[places >= 0].long()
    write_fp8_reference(expected, written, *plain.cpu().view(-1, S.width)[written].split([S.latent, S.rope], 1))
    assert torch.equal(cache.cpu(), expected), "every byte, also of what is not written"


@pytest.mark.parametrize("dtype", DTYPES)
def test_attention_has_the_bits_of_one_over_the_values(dtype: torch.dtype) -> None:
    count = 96
    cache = torch.zeros((6, 16, row_width(S.latent, S.rope, dtype, fp8=True)), dtype=torch.uint8)
    scattered = rand(count, S.latent) * torch.pow(2.0, torch.randint(-20, 10, (count, S.latent)))
    write_fp8_reference(cache, torch.arange(count), scattered.to(dtype), rand(count, S.rope, dtype=dtype))
    values = read_fp8(cache, S.latent, S.rope, dtype).to(DEVICE)
    position, seq = i32([5, 63, 64, 95]).to(DEVICE), i32([0, 0, 0, 0]).to(DEVICE)
    q, table = rand(4, S.heads, S.width, dtype=dtype).to(DEVICE), torch.randperm(6).int()[None].to(DEVICE)
    with poisoned_memory():
        answer = mla_attention_triton(q, cache.to(DEVICE), table, seq, position, 0.3, S.latent)
        expected = mla_attention_triton(q, values, table, seq, position, 0.3, S.latent)
    assert torch.equal(answer, expected)
