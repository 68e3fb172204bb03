"""Packed weights: the order that the compiled kernels read, and the bits of plain ones in every op."""

from __future__ import annotations

import random
from dataclasses import replace

import psutil
import pytest
import torch
from caracal_kernels import (
    MlaWeights,
    grouped_swiglu,
    linear,
    mla_output,
    mla_project,
    mla_values,
    outputs_of,
    pack_weights,
    pack_weights_reference,
    route,
    swiglu,
    swiglu_inner,
)
from support.op_inputs import DTYPES, EVEN, i32, mla_weights, rand

pytestmark = pytest.mark.compiled
SHAPES = [(16, 2), (48, 6), (64, 32), (80, 512), (112, 30), (512, 256)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_the_order_is_the_references(outputs: int, inputs: int, dtype: torch.dtype) -> None:
    w_NK, w_HNK = rand(outputs, inputs, dtype=dtype), rand(3, outputs, inputs, dtype=dtype)
    for w in (w_NK, w_HNK):
        packed = pack_weights(w)
        assert torch.equal(packed, pack_weights_reference(w))
        assert outputs_of(packed, heads=w.dim() == 3) == outputs
    assert all(torch.equal(one, pack_weights(w_NK)) for one, w_NK in zip(pack_weights(w_HNK), w_HNK, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_products_have_the_bits_of_plain_weights(outputs: int, inputs: int, dtype: torch.dtype) -> None:
    x, w = rand(40, inputs, dtype=dtype), rand(outputs, inputs, dtype=dtype)
    residual, packed = rand(40, outputs, dtype=dtype), pack_weights(w)
    assert packed.shape != w.shape
    for rows in (1, 2, 5, 6, 7, 8, 11, 12, 13, 25, 40):
        assert torch.equal(linear(x[:rows], packed, residual[:rows]), linear(x[:rows], w, residual[:rows]))
    plain = linear(x, w, None, torch.float32)
    for _ in range(20):
        some = torch.tensor(random.sample(range(40), random.randint(1, 40)))
        assert torch.equal(linear(x[some].contiguous(), packed, None, torch.float32), plain[some])


@pytest.mark.parametrize("dtype", DTYPES)
def test_mlps_have_the_bits_of_plain_weights(dtype: torch.dtype) -> None:
    x, gate_up, down = rand(9, 96, dtype=dtype), rand(2 * 40, 96, dtype=dtype), rand(96, 40, dtype=dtype)
    packed = pack_weights(gate_up), pack_weights(down)
    assert torch.equal(swiglu(x, *packed, x), swiglu(x, gate_up, down, x))
    assert torch.equal(swiglu_inner(x, packed[0]), swiglu_inner(x, gate_up))
    row, count = i32([3, 8, 0, 0, 1]), i32([2, 3])
    plain = grouped_swiglu(x, row, count, [gate_up] * 2, [down] * 2)
    assert torch.equal(grouped_swiglu(x, row, count, [packed[0], gate_up], [down, packed[1]]), plain)


def packed_mla(w: MlaWeights) -> MlaWeights:
    return replace(
        w,
        q_a_QD=pack_weights(w.q_a_QD),
        q_b_EQ=pack_weights(w.q_b_EQ),
        kv_a_LD=pack_weights(w.kv_a_LD),
        w_uk_HCN=pack_weights(w.w_uk_HCN),
        w_uv_HUC=pack_weights(w.w_uv_HUC),
        o_proj_DO=pack_weights(w.o_proj_DO),
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_attention_and_gate_have_the_bits_of_plain_weights(dtype: torch.dtype) -> None:
    plain = mla_weights(EVEN, dtype)
    packed = packed_mla(plain)
    assert packed.w_uk_HCN.dim() == 5
    x, positions = rand(7, EVEN.hidden, dtype=dtype), i32(range(7))
    caches = [torch.zeros(1, 16, EVEN.width, dtype=dtype) for _ in range(2)]
    q, q_packed = (mla_project(x, w, positions, positions, c) for w, c in zip((plain, packed), caches, strict=True))
    assert torch.equal(q, q_packed)
    assert torch.equal(*caches)
    o = rand(7, EVEN.heads, EVEN.latent, dtype=dtype)
    assert torch.equal(mla_values(o, packed.w_uv_HUC), mla_values(o, plain.w_uv_HUC))
    assert torch.equal(
        mla_output(o, packed.w_uv_HUC, packed.o_proj_DO, x), mla_output(o, plain.w_uv_HUC, plain.o_proj_DO, x)
    )
    classifier, bias = rand(48, EVEN.hidden), rand(48, scale=0.1)
    for one, two in zip(
        route(x, pack_weights(classifier), bias, 6, 32, 2.0), route(x, classifier, bias, 6, 32, 2.0), strict=True
    ):
        assert torch.equal(one, two)


def test_what_cannot_be_packed_stays_as_it_is() -> None:
    for w in (rand(17, 8), rand(16, 7, dtype=torch.bfloat16), rand(0, 8), rand(16, 8).double()):
        assert pack_weights(w) is w
    cut = rand(32, 24)[:, 4:12]  # a view is packed as what it shows
    x = rand(2, 8)
    assert torch.equal(linear(x, pack_weights(cut)), linear(x, cut.contiguous()))


def test_a_packed_weight_of_another_kind_is_named() -> None:
    x, w = rand(2, 32), rand(64, 32)
    with pytest.raises(RuntimeError, match="w is BFloat16, expected Float"):
        linear(x, pack_weights(w.bfloat16()))
    with pytest.raises(RuntimeError, match="w has size 32 in dimension 1, expected 34"):
        linear(rand(2, 34), pack_weights(w))
    with pytest.raises(RuntimeError, match="w is not packed"):
        linear(x, w.view(4, 16, 4, 8))


def test_memory_of_packed_weights_comes_back() -> None:
    """Experts of many sizes come and go: what is dropped is used again, and given back to the system."""
    before = psutil.Process().memory_info().rss
    generator = random.Random(0)
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []
    most = 0
    for _ in range(300):
        w = rand(16 * generator.randint(1, 200), 256)
        kept.append((w, pack_weights(w)))
        if len(kept) > 8:
            kept.pop(generator.randrange(len(kept)))
        most = max(most, psutil.Process().memory_info().rss - before)
    x = rand(1, 256)
    assert all(torch.equal(linear(x, packed), linear(x, w)) for w, packed in kept)
    assert most < 192 << 20  # 300 of them are 490 MB, and as much again plain
