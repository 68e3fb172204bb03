"""Weights that stay in fp8: the order that the compiled kernels read, and the bits of dequantized weights in every op.

Legend: N outputs, K inputs, n = N / 64 and k = K / 128 their counts of blocks; H heads.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from caracal_kernels import (
    FP8_DEPTH,
    FP8_OUTPUTS,
    grouped_swiglu,
    linear,
    mla_output,
    mla_project,
    mla_values,
    outputs_of,
    pack_fp8,
    pack_fp8_reference,
    pack_weights,
    swiglu,
    swiglu_inner,
    takes_fp8,
)
from support.op_inputs import Sizes, i32, mla_weights, rand
from torch import Tensor

pytestmark = pytest.mark.compiled
BF16, E4M3 = torch.bfloat16, torch.float8_e4m3fn
NAN = 0x7F  # and 0xff


def rand_fp8(*shape: int, low: float = 1e-4, high: float = 1e-2) -> tuple[Tensor, Tensor]:
    """Random codes of every kind but NaN, and random scales of their blocks."""
    codes = torch.randint(0, 256, shape, dtype=torch.uint8)
    codes[(codes & NAN) == NAN] = 0
    *heads, outputs, inputs = shape
    scale = torch.rand(*heads, outputs // FP8_OUTPUTS, inputs // FP8_DEPTH) * (high - low) + low
    return codes.view(E4M3), scale


def wide(w: Tensor, scale: Tensor) -> Tensor:
    """Dequantized as services/checkpoint/fp8.py does it: each value times its scale in fp32, rounded once."""
    each = scale.repeat_interleave(FP8_OUTPUTS, dim=-2).repeat_interleave(FP8_DEPTH, dim=-1)
    return (w.float() * each).to(BF16)


def unpacked(packed: Tensor) -> Tensor:
    """The matrix [N, K] in bf16 that a packed one stands for, code by code."""
    out = torch.empty(outputs_of(packed), packed.shape[1] * FP8_DEPTH, dtype=BF16)
    for block, block_k in enumerate(packed):
        for depth, part in enumerate(block_k):
            scale, codes = part[:4].view(torch.float32), part[64:].view(E4M3).float()
            values = (codes * scale).to(BF16).view(FP8_DEPTH // 2, 2, 4, 2, 4, 2)  # step, half, 4, panel, 4, 2
            square = values.permute(1, 3, 2, 4, 0, 5).reshape(FP8_OUTPUTS, FP8_DEPTH)
            out[block * FP8_OUTPUTS :, depth * FP8_DEPTH :][:FP8_OUTPUTS, :FP8_DEPTH] = square
    return out


@pytest.mark.parametrize("shape", [(64, 128), (192, 384), (320, 128), (2, 128, 256)])
def test_the_order_is_the_references(shape: tuple[int, ...]) -> None:
    w, scale = rand_fp8(*shape)
    packed = pack_fp8(w, scale)
    assert torch.equal(packed, pack_fp8_reference(w, scale))
    assert outputs_of(packed, heads=len(shape) == 3) == shape[-2]
    assert packed.nbytes < 1.01 * w.nbytes
    matrices = [(packed, w, scale)] if len(shape) == 2 else zip(packed, w, scale, strict=True)
    for one, codes, scales in matrices:
        assert torch.equal(unpacked(one), wide(codes, scales))


@pytest.mark.parametrize(("outputs", "inputs"), [(64, 128), (192, 512), (640, 1280)])
def test_products_have_the_bits_of_dequantized_weights(outputs: int, inputs: int) -> None:
    w, scale = rand_fp8(outputs, inputs)
    plain = wide(w, scale)
    x, residual = rand(100, inputs, dtype=BF16), rand(100, outputs, dtype=BF16)
    packed, in_fp8 = pack_weights(plain), pack_fp8(w, scale)
    for rows in (*range(1, 41), 48, 49, 97, 100):
        expected = linear(x[:rows], plain, residual[:rows])
        assert torch.equal(linear(x[:rows], packed, residual[:rows]), expected)
        assert torch.equal(linear(x[:rows], in_fp8, residual[:rows]), expected)
        fp32 = linear(x[:rows], in_fp8, None, torch.float32)
        assert torch.equal(fp32, linear(x[:rows], plain, None, torch.float32))
    assert linear(x[:0], in_fp8).shape == (0, outputs)


def scales() -> list[float]:
    """From denormal ones to the largest whose values are all finite, with mantissas that need rounding."""
    found = [math.ldexp(mantissa, exponent) for exponent in range(-149, 119) for mantissa in (1.0, 1.0625, 1.3, 1.999)]
    return [scale for scale in found if bool((torch.tensor([448.0]) * scale).to(BF16).isfinite())]


@pytest.mark.parametrize("rows", [1, 3, 6, 7])
def test_every_code_times_every_kind_of_scale(rows: int) -> None:
    """Each row picks out one input of each output: what comes back is the weight, if it is no denormal."""
    codes = ((torch.arange(256)[:, None] + 7 * torch.arange(FP8_DEPTH)) % 256).to(torch.uint8)  # all in every column
    codes[(codes & NAN) == NAN] = 0
    w, ones = codes.view(E4M3), torch.eye(FP8_DEPTH, dtype=BF16)[20 : 20 + rows]
    large = ones * 2.0**20
    assert len(scales()) > 1000
    for value in scales():
        scale = torch.full((4, 1), value)
        plain, packed = wide(w, scale), pack_fp8(w, scale)
        assert torch.equal(unpacked(packed), plain)
        for x in (ones, large):
            found = linear(x, packed, None, torch.float32)
            assert torch.equal(found, linear(x, plain, None, torch.float32)), value
        normal = plain.float().T[20 : 20 + rows]
        normal = torch.where(normal.abs() < torch.finfo(BF16).tiny, 0.0, normal)
        found = linear(ones, packed, None, torch.float32)
        assert torch.equal(torch.where(found.abs() < torch.finfo(BF16).tiny, 0.0, found), normal), value


def test_blocks_with_scales_of_all_kinds_in_one_matrix() -> None:
    w, scale = rand_fp8(128, 512)
    scale[0, 1], scale[1, 2], scale[1, 0] = 2.0**-140, 2.0**-125, 2.0**118
    x, plain, packed = rand(50, 512, dtype=BF16, scale=2.0**-20), wide(w, scale), pack_fp8(w, scale)
    assert bool(plain.isfinite().all())
    for rows in (1, 2, 6, 7, 50):
        assert torch.equal(linear(x[:rows], packed), linear(x[:rows], plain))


@pytest.mark.parametrize("rows", [1, 2, 6, 9, 40])
def test_mlps_have_the_bits_of_dequantized_weights(rows: int) -> None:
    (gate_up, gate_up_scale), (down, down_scale) = rand_fp8(2 * 128, 256), rand_fp8(256, 128)
    plain = wide(gate_up, gate_up_scale), wide(down, down_scale)
    in_fp8 = pack_fp8(gate_up, gate_up_scale), pack_fp8(down, down_scale)
    x = rand(rows, 256, dtype=BF16)
    assert torch.equal(swiglu(x, *in_fp8, x), swiglu(x, *plain, x))
    assert torch.equal(swiglu(x, in_fp8[0], pack_weights(plain[1]), x), swiglu(x, *plain, x))
    assert torch.equal(swiglu_inner(x, in_fp8[0]), swiglu_inner(x, plain[0]))
    row, count = i32([rows - 1, 0, rows // 2, 0, 0]), i32([2, 0, 3])
    expected = grouped_swiglu(x, row, count, [plain[0]] * 3, [plain[1]] * 3)
    mixed = [in_fp8[0], plain[0], pack_weights(plain[0])], [plain[1], in_fp8[1], in_fp8[1]]
    assert torch.equal(grouped_swiglu(x, row, count, [in_fp8[0]] * 3, [in_fp8[1]] * 3), expected)
    assert torch.equal(grouped_swiglu(x, row, count, *mixed), expected)


@pytest.mark.parametrize("rows", [1, 7])
def test_attention_has_the_bits_of_dequantized_weights(rows: int) -> None:
    s = Sizes(hidden=256, heads=2, nope=128, rope=64, latent=128, value=64, q_rank=128)
    names = ("q_a_QD", "q_b_EQ", "kv_a_LD", "w_uk_HCN", "w_uv_HUC", "o_proj_DO")
    weights = mla_weights(s, BF16)
    stored = {name: rand_fp8(*getattr(weights, name).shape) for name in names}
    dequantized: dict[str, Any] = {name: wide(*each) for name, each in stored.items()}
    packed: dict[str, Any] = {name: pack_fp8(*each) for name, each in stored.items()}
    plain, in_fp8 = replace(weights, **dequantized), replace(weights, **packed)
    x, positions = rand(rows, s.hidden, dtype=BF16), i32(range(rows))
    caches = [torch.zeros(1, 16, s.width, dtype=BF16) for _ in range(2)]
    queries = [mla_project(x, w, positions, positions, c) for w, c in zip((plain, in_fp8), caches, strict=True)]
    assert torch.equal(*queries)
    assert torch.equal(*caches)
    assert bool(caches[0].any())
    o = rand(rows, s.heads, s.latent, dtype=BF16)
    assert torch.equal(mla_values(o, in_fp8.w_uv_HUC), mla_values(o, plain.w_uv_HUC))
    outputs = [mla_output(o, w.w_uv_HUC, w.o_proj_DO, x) for w in (plain, in_fp8)]
    assert torch.equal(*outputs)


def test_what_does_not_fit_is_named() -> None:
    (w, scale), x = rand_fp8(64, 128), rand(2, 128, dtype=BF16)
    packed = pack_fp8(w, scale)
    with pytest.raises(RuntimeError, match="w is Byte, expected Float"):
        linear(x.float(), packed)
    with pytest.raises(RuntimeError, match="w has size 128 in dimension 1, expected 256"):
        linear(rand(2, 256, dtype=BF16), packed)
    with pytest.raises(RuntimeError, match="w is not packed from fp8"):
        linear(x, packed[..., :-64].contiguous())
    with pytest.raises(RuntimeError, match=r"w is \[32, 128\], expected multiples of 64 and 128"):
        pack_fp8(w[:32].contiguous(), scale)
    with pytest.raises(RuntimeError, match="scale has size 1 in dimension 1, expected 2"):
        pack_fp8(rand_fp8(64, 256)[0], scale)
    with pytest.raises(RuntimeError, match="w is Byte, expected Float8_e4m3fn"):
        pack_fp8(w.view(torch.uint8), scale)


def test_who_takes_it() -> None:
    cpu = torch.device("cpu")
    assert takes_fp8(BF16, cpu)
    assert not takes_fp8(torch.float32, cpu)
    assert not takes_fp8(BF16, torch.device("meta"))
