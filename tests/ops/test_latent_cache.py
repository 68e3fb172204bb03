"""A latent cache in fp8: written as the reference quantizes it, and attended to as the values that it stands for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from caracal_kernels import MlaWeights, mla_attention, mla_project
from caracal_kernels.latent_cache import fp8_layout, read_fp8, row_width, write_fp8_reference
from support.op_inputs import DTYPES, EVEN, ODD, Sizes, i32, mla_weights, rand
from torch import Tensor

LONG = Sizes(hidden=96, heads=2, nope=8, latent=300)  # of three scales, the last one's block is short
SIZES = [ODD, EVEN, LONG]


def uneven(s: Sizes, dtype: torch.dtype) -> MlaWeights:
    """Weights that make latents of many magnitudes within one block: codes below the smallest exponent, and zeros."""
    weights = mla_weights(s, dtype)
    magnitudes = torch.pow(2.0, -(torch.arange(s.latent) % 23).float()).to(dtype)
    magnitudes[3::17] = 0
    return replace(weights, kv_a_norm_C=magnitudes)


def projected(s: Sizes, weights: MlaWeights, x: Tensor, places: list[int], *, fp8: bool) -> tuple[Tensor, Tensor]:
    width = row_width(s.latent, s.rope, x.dtype, fp8=fp8)
    cache = torch.full((4, 16, width), 0xFF if fp8 else 7, dtype=torch.uint8 if fp8 else x.dtype)
    return mla_project(x, weights, i32(list(range(len(x)))), i32(places), cache), cache


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("s", SIZES)
def test_rows_are_written_as_the_reference_quantizes_them(s: Sizes, dtype: torch.dtype) -> None:
    weights, x = uneven(s, dtype), rand(30, s.hidden, dtype=dtype)
    places = [*range(20, 45), -1, 63, 0, 1, -1]
    plain_q, plain = projected(s, weights, x, places, fp8=False)
    q, cache = projected(s, weights, x, places, fp8=True)
    assert torch.equal(q, plain_q), "queries do not depend on the cache"
    expected = torch.full_like(cache, 0xFF)
    written = torch.tensor([place for place in places if place >= 0])
    latent, rope = plain.view(-1, s.width)[written].split([s.latent, s.rope], 1)
    write_fp8_reference(expected, written, latent, rope)
    assert torch.equal(cache, expected), "every byte, also of what is not written"
    values = read_fp8(cache, s.latent, s.rope, dtype).view(-1, s.width)[written]
    error = (values[:, : s.latent].float() - latent.float()).abs()
    assert bool((error <= latent.float().abs() / 14 + 1e-2).all())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("s", SIZES)
@pytest.mark.parametrize("sparse", [(0, 0), (1, 2)])
def test_attention_has_the_bits_of_one_over_the_values(s: Sizes, dtype: torch.dtype, sparse: tuple[int, int]) -> None:
    pages, page_size, rows = 14, 48, 40
    cache = torch.zeros((pages, page_size, row_width(s.latent, s.rope, dtype, fp8=True)), dtype=torch.uint8)
    count = pages * page_size
    scattered = rand(count, s.latent) * torch.pow(2.0, torch.randint(-20, 10, (count, s.latent)))
    write_fp8_reference(cache, torch.arange(count), scattered.to(dtype), rand(count, s.rope, dtype=dtype))
    values = read_fp8(cache, s.latent, s.rope, dtype)
    table = torch.randperm(pages).int()[None]
    position = torch.cat([torch.arange(300, 320), torch.randint(0, count, (rows - 20,))]).int()
    q, seq = rand(rows, s.heads, s.width, dtype=dtype), torch.zeros(rows, dtype=torch.int32)
    arguments = (table, seq, position, 0.3, s.latent, *sparse)
    together = mla_attention(q, cache, *arguments)
    assert torch.equal(together, mla_attention(q, values, *arguments))
    for row in range(rows):
        alone = mla_attention(q[row : row + 1], cache, table, seq[:1], position[row : row + 1], 0.3, s.latent, *sparse)
        assert torch.equal(alone[0], together[row]), "a row's bits are its own"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so(dtype: torch.dtype, bad: float) -> None:
    s = LONG
    weights = mla_weights(s, dtype)
    weights.kv_a_norm_C[130] = bad
    _, cache = projected(s, weights, rand(1, s.hidden, dtype=dtype), [5], fp8=True)
    values = read_fp8(cache, s.latent, s.rope, dtype)[0, 5, : s.latent]
    assert values[128:256].isnan().all(), "the block of the value"
    assert values[:128].isfinite().all()


def test_a_row_takes_little_more_than_half() -> None:
    layout = fp8_layout(512, 64, torch.bfloat16)
    assert layout == (512, 528, 656), "DeepSeek's layout of a row: 512 codes, 4 scales, 64 rope dims in bf16"
    assert row_width(512, 64, torch.bfloat16, fp8=False) == 576


@pytest.mark.compiled
def test_a_cache_of_another_width_is_rejected_by_name() -> None:
    s = ODD
    x, weights = rand(1, s.hidden), mla_weights(s, torch.float32)
    with pytest.raises(RuntimeError, match="mla_project: cache has size 61 in dimension 2"):
        mla_project(x, weights, i32([0]), i32([0]), torch.zeros((1, 16, 61), dtype=torch.uint8))
    q, zero = rand(1, s.heads, s.width), i32([0])
    with pytest.raises(RuntimeError, match="mla_attention: cache has size 61"):
        mla_attention(q, torch.zeros((1, 16, 61), dtype=torch.uint8), i32([[0]]), zero, zero, 0.3, s.latent)
